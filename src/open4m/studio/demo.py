"""``open4m demo``: what a model of scenes does, as two pictures and a page that holds them."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

from open4m import files, modalities
from open4m.datasets.scenes import Scenes
from open4m.evaluate.predict import predict
from open4m.evaluate.pretrained import world_of
from open4m.evaluate.suites.scene_images import CLIP
from open4m.evaluate.suites.scenes import IMAGES, tasks
from open4m.generate.drawing import padded, pictures
from open4m.generate.pipeline import FourM
from open4m.hub import locate
from open4m.labellers.clip import CLIPLabeller
from open4m.pictures import grid, save
from open4m.types import Sample, Value

SCENES = 4
SAMPLES_PER_TEXT = 4
TILE = 168  # pixels

NEXT = "Move a box yourself"
"""What the demo leads to: the studio."""


def demo(out: Path, name: str = "scenes", seed: int = 0, device: str = "cpu", world: str = "") -> list[Path]:
    """Predict from held-out scenes and from captions; writes ``grid.png``, ``captions.png`` and ``index.html``."""
    photo, text = modalities.of_role("photo"), modalities.of_role("text")
    folder = locate.resolve(name)
    model = FourM.from_pretrained(folder, device)
    world = world_of(model, world)
    size = max(tokenizer.config.image_size for tokenizer in model.grids.values())
    samples = Scenes("test", resolution=size, world=world).samples(range(seed * SCENES, (seed + 1) * SCENES))
    labeller = CLIPLabeller.load(folder / CLIP, device)
    maps = labeller.label([sample[labeller.source] for sample in samples])
    samples = [{**sample, labeller.modality: value} for sample, value in zip(samples, maps, strict=True)]
    targets = [key for key in model.config.targets if modalities.get(key).name != photo.name]
    files.make_folder(out)

    predictions = {t: predict(model, samples, (photo.name, t), seed=seed) for t in targets}
    sources = [photo.render(sample[photo.name], TILE) for sample in samples]
    twice = [source for source in sources for _ in range(2)]
    columns, legends = [], []
    for t in targets:  # predictions and truth in one style
        values = [value for i, sample in enumerate(samples) for value in (predictions[t][i], _truth(sample, t))]
        drawn, legend = pictures(model, t, values, twice, TILE)
        columns.append(drawn)
        legends.append(legend)
    rows = [[source, *row] for source, row in zip(twice, zip(*columns, strict=True), strict=True)]
    labels = ["predicted", "truth"] * len(samples)
    if any(legends):
        rows.append(padded([None, *legends], TILE))
    paths = [out / "grid.png", out / "captions.png"]
    save(grid(rows, ["input", *targets], labels), paths[0])

    chain = max((path for path in tasks(model) if path[0] == text.name), key=len)  # images are best made in one (A.1)
    guided = IMAGES if model.plans.of(chain) is None else {}
    texts = [{text.name: sample[text.name]} for sample in samples for _ in range(SAMPLES_PER_TEXT)]
    made = [one.render(chain[-1], TILE) for one in model.generate(texts, chain[1:], seed=seed, **guided)]
    rows = [
        [text.render(sample[text.name], TILE), *made[i * SAMPLES_PER_TEXT : (i + 1) * SAMPLES_PER_TEXT]]
        for i, sample in enumerate(samples)
    ]
    save(grid(rows, [text.name, *(f"sample {n + 1}" for n in range(SAMPLES_PER_TEXT))]), paths[1])

    page = out / "index.html"
    files.write_text(page, _page(name, chain, [Image.open(path) for path in paths]))
    return [*paths, page]


def _truth(sample: Sample, key: str) -> Value:
    """The exact value of a target: the sample's own, or derived from another of its values."""
    modality = modalities.get(key)
    return sample[modality.name] if modality.name in sample else modality.derive(sample[modality.source])


def _page(name: str, chain: tuple[str, ...], images: list[Image.Image]) -> str:
    titles = [
        ("From one image", "Each column is predicted from the input alone, by one model. Below it, the exact label."),
        ("From a caption", f"Samples of images that fit the text on the left, made in a chain: {', '.join(chain)}."),
    ]
    parts = []
    for (title, text), image in zip(titles, images, strict=True):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        parts.append(
            f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>"
            f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>open4m: {html.escape(name)}</title><style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;"
        "max-width:80rem;padding:0 1rem;color:#1a1a24}img{max-width:100%;border:1px solid #ddd;border-radius:6px}"
        ".next{padding:.8rem 1.1rem;border-radius:8px;background:#eeedfd}"
        f"</style><h1>open4m: the model {html.escape(name)!s}</h1>{_next()}{''.join(parts)}</html>\n"
    )


def _next() -> str:
    """What to do after the demo, as HTML."""
    return (
        f'<p class="next"><b>{NEXT}:</b> <code>make studio</code> (or <code>open4m studio</code>) opens this model in '
        "a browser, where boxes are dragged, pictures painted and captions typed.</p>"
    )
