"""What each stored row was when a job wrote it, and what it was made from: short digests, apart from the data.

The checksum of a shard says that its file is whole. It does not say that a row is the one that belongs to its key:
whoever exchanges two rows writes a new checksum too. ``<root>/links/<modality>/shard-00000.json`` has 16 hexadecimal
digits for the content of each row, bound to its key, and 16 for what the job made it from, such as the image that a
label shows. Only jobs write them, so that rows which were exchanged, and labels of an image that was replaced, are
found by :mod:`open4m.data.verify` and named.

What no digest can find is a job that made a wrong row in the first place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from open4m import files, modalities
from open4m.store.manifest import FILE, folder_of, is_committed, open_manifest, shard_path, temporary
from open4m.store.members import scan
from open4m.store.shards import HEADER, DamagedShard
from open4m.store.tokens import TokenStore
from open4m.types import Open4MError

FOLDER = "links"
DIGEST = re.compile("[0-9a-f]{16}")


class Row(NamedTuple):
    """A stored row: its key and its bytes, None if the sample lacks the modality."""

    key: str
    content: bytes | None

    def digest(self, key: str = "") -> str:
        """16 hexadecimal digits of the content, bound to a key if one is given."""
        state = hashlib.blake2b(key.encode() + b"\0", digest_size=8)
        state.update(b"missing" if self.content is None else b"present" + self.content)
        return state.hexdigest()


@dataclass(frozen=True)
class Link:
    """The digests of a ``modality`` of the store below ``root``, whose rows were made from those of ``source`` in the
    store below ``source_root``; None: from nothing that is stored."""

    root: Path
    modality: str
    source_root: Path | None = None
    source: str | None = None

    def path(self, shard: int) -> Path:
        return self.root / FOLDER / self.modality / f"shard-{shard:05d}.json"

    @property
    def exists(self) -> bool:
        """Whether any shard of the modality has digests: older stores have none."""
        return self.path(0).parent.is_dir()

    def is_recorded(self, shard: int) -> bool:
        return self.path(shard).is_file()

    def prepare(self, shard: int) -> None:
        """Before a shard is made: forget the digests of one that is made anew.

        The folder is there from now on, so that a shard whose job dies before :meth:`record` is known to lack them."""
        files.make_folder(self.path(shard).parent)
        if not is_committed(self.root, self.modality, shard):
            self.path(shard).unlink(missing_ok=True)

    def record(self, shard: int) -> None:
        """Write the digests of a committed shard, unless they are there."""
        if self.is_recorded(shard) or not is_committed(self.root, self.modality, shard):
            return
        origins = self._origins(shard) if self.source is not None else {}
        lines = {
            row.key: [row.digest(row.key), _origin(origins, row.key)] for row in rows(self.root, self.modality, shard)
        }
        path = self.path(shard)
        files.make_folder(path.parent)
        with temporary(path) as unfinished:
            unfinished.write_text(json.dumps({"source": self.source, "rows": lines}, indent=0), encoding="utf-8")
            files.sync_file(unfinished)
            files.rename(unfinished, path)

    def differences(self, shard: int, source_root: Path | None = None) -> list[tuple[str, str]]:
        """(key, what is wrong) of rows that are not what was recorded. With ``source_root``, where the sources are
        now, also of those that were made from something else. Raises :class:`Open4MError` for a damaged file."""
        source, recorded = self._recorded(shard)
        now = {row.key: row.digest(row.key) for row in rows(self.root, self.modality, shard)}
        origins = {}
        if source_root is not None and source is not None:
            origins = Link(self.root, self.modality, source_root, source)._origins(shard)
        found = [(key, "there was no such row when the shard was written") for key in now.keys() - recorded.keys()]
        for key, (own, origin) in recorded.items():
            if now.get(key) != own:
                found.append((key, "not the value that was written for this key" if key in now else "the row is gone"))
            elif origins and _origin(origins, key, origin) != origin:
                found.append((key, f"made from another {source} than the one that is there now"))
        return found

    def _recorded(self, shard: int) -> tuple[str | None, dict[str, tuple[str, str]]]:
        """The source of a shard's rows, and by key the digests of the row and of what it was made from."""
        path = self.path(shard)
        content = files.read_json(path)
        try:
            source, lines = content["source"], {key: tuple(line) for key, line in content["rows"].items()}
            if source is not None:
                modalities.check_key(source)
            for line in lines.values():
                own, origin = line
                if not (DIGEST.fullmatch(own) and (DIGEST.fullmatch(origin) or not origin)):
                    raise ValueError(f"no digests: {own!r}, {origin!r}")
        except (AttributeError, KeyError, TypeError, ValueError, Open4MError) as error:
            raise Open4MError(
                f"{path}: not the digests of a shard ({error!r}); delete it and record them again"
            ) from error
        return source, lines

    def _origins(self, shard: int) -> dict[str, str]:
        return {row.key: row.digest() for row in rows(self.source_root, self.source, shard)}


def _origin(origins: Mapping[str, str], key: str, other: str = "") -> str:
    """The digest of what a row was made from: of ``a#2``, the crop 2 of a sample, that of the sample ``a``."""
    return origins.get(key) or origins.get(key.rpartition("#")[0], other)


def rows(root: Path, modality: str, shard: int) -> Iterator[Row]:
    """The rows of a shard of raw data or tokens. Raises :class:`DamagedShard` if it cannot be read."""
    manifest = open_manifest(root, modality)
    if manifest.header.get("kind") == HEADER["kind"]:
        extension = manifest.header.get("extension") or modalities.get(modality).extension
        try:
            members = scan(shard_path(root, modality, shard, "tar"), extension)
        except Open4MError as error:
            raise DamagedShard(str(error), modality, manifest.shards[shard].rows) from error
        for row, key in enumerate(members.keys):
            yield Row(key, members.read(row))
    else:
        store = TokenStore(root, [modality])
        yield from (Row(key, content) for key, content in store.contents(modality, shard))


def stored_name(root: Path, modality: str) -> str:
    """The modality whose folder below ``root`` holds what ``modality`` is made from: its own, or that of its source."""
    source = modalities.get(modality).source
    has_own = source is None or (folder_of(root, modality) / FILE).exists()
    return modality if has_own else stored_name(root, source)
