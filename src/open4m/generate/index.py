"""What a folder of many results lists: ``results.jsonl``, a line per image, and ``index.html``, a page of pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from open4m import files, modalities
from open4m.types import Open4MError

LINES, PAGE = "results.jsonl", "index.html"


def write(out: Path, names: Sequence[str], targets: Sequence[str], samples: int) -> list[Path]:
    """Write both files for the results in the folders ``names`` below ``out``; returns their paths.

    A line says the image, and of each of its results the values by target: texts and boxes as they are, of all others
    the file. It is made from the files in the folders, so that it can be made again at any time.
    """
    lines = [{"image": name, "results": _results(out, name, targets, samples)} for name in names]
    files.write_text(out / LINES, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    files.write_text(out / PAGE, _page(lines))
    return [out / LINES, out / PAGE]


def _results(out: Path, name: str, targets: Sequence[str], samples: int) -> list[dict[str, Any]]:
    found = []
    for number in range(1, samples + 1):
        end, values = f"_{number}" * (samples > 1), {}
        for target in targets:
            for path in sorted((out / name).glob(f"{target}{end}.*")):
                values[target] = _value(path, target, path.relative_to(out).as_posix())
        found.append(values)
    return found


def _value(path: Path, target: str, relative: str) -> Any:
    """A text, or boxes, of a file; of any other value where the file is."""
    modality = modalities.get(target)
    if not modality.is_text and path.suffix != ".json":
        return {"file": relative}
    try:
        text = files.read_bytes(path).decode("utf-8")
        return text if modality.is_text else files.parse_json(text, str(path))
    except (Open4MError, UnicodeDecodeError):
        return {"file": relative}


def _page(lines: Sequence[dict[str, Any]]) -> str:
    rows = []
    for line in lines:
        place = quote(line["image"])
        texts = {value for result in line["results"] for value in result.values() if isinstance(value, str)}
        said = "".join(f"<p>{html.escape(text)}</p>" for text in sorted(texts))
        rows.append(
            f'<section><h2><a href="{place}/">{html.escape(line["image"])}</a></h2>'
            f'<a href="{place}/grid.png"><img loading="lazy" src="{place}/grid.png" alt=""></a>{said}</section>'
        )
    style = "body{font:14px sans-serif;margin:2em}img{max-width:100%}h2{font-size:1em;margin-bottom:.3em}"
    head = f'<meta charset="utf-8"><title>{len(lines)} images</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(rows)}</body></html>\n"
