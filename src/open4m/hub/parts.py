"""The parts of a model, wherever they are: configuration, weights, tokenizers, the model of super-resolution.

A directory of ours holds all of them. Of the authors' public models, each is a repository of its own; what belongs
together is in :mod:`open4m.hub.ml4m.table`. Tokenizers and the second model are read, or fetched, when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from open4m import checksums, files, modalities, weights
from open4m import config as configs
from open4m.hub import locate, recorded
from open4m.hub.ml4m import source as origins
from open4m.hub.ml4m import table, transformer
from open4m.hub.ml4m import text as public_text
from open4m.hub.ml4m import tokenizer as public_tokenizer
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.model.plans import Plans
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.grids import Grids, Source
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TEXT, TextTokenizer
from open4m.tokenizers.tokenizer import FORMAT as TOKENIZER_FORMAT
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, check_kind

FORMAT = 2
"""The version of a model directory's format. In format 1 hidden texts were nothing at all."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Parts that a user names, by a path or a name on the hub, instead of those that a model comes with."""

    tokenizers: Mapping[str, str | Path] = field(default_factory=dict)  # by the modality that they are for
    text: str | Path | None = None  # a file of the authors, or the folder of a text tokenizer of ours
    super_resolution: str | Path | bool | None = None  # False: none

    def second(self, own: Callable[[], Path | str | None]) -> Path | str | None:
        """Where the model of super-resolution is: ``own`` unless another one is named, or none."""
        return None if self.super_resolution is False else self.super_resolution or own()


@dataclass(frozen=True)
class Parts:
    """What was found of a model; functions read or fetch."""

    folder: Path
    config: FourMConfig
    read_weights: Callable[[], dict[str, Tensor]]
    grids: Grids
    text: TextTokenizer | Callable[[], TextTokenizer] | None  # a function fetches it
    plans: Plans
    read_super_resolution: Callable[[], Parts] | None
    text_file: Callable[[], Path] | None = None  # of the authors' text tokenizer
    second: Path | str | None = None  # where the model of super-resolution is, or its name on the hub
    imported: transformer.Imported | None = None  # what was read of a public model

    def transformer(self) -> FourMTransformer:
        """The network with its weights, which are read before memory is taken for what may not exist."""
        return model_of(self.config, self.read_weights())


def opened(name: str | Path, chosen: Chosen | None = None, folder: Path | None = None) -> Parts:
    """The parts of a model by name, directory or file. ``folder``: where it is, if that is known already.

    Raises :class:`Open4MError` if there is no such model.
    """
    chosen = Chosen() if chosen is None else chosen
    check_kind(chosen, Chosen, "chosen")
    folder = folder or locate.resolve(name)
    if not transformer.is_reference(folder):
        return _own(folder, chosen)
    beside = folder if folder.is_dir() else folder.parent
    return _public(folder, table.is_listed(name) or table.is_listed(beside), chosen)


def model_of(config: FourMConfig, tensors: dict[str, Tensor]) -> FourMTransformer:
    """The network of a configuration with its weights, in float32. Tensors that are float32 already become the weights
    themselves, not copied: those of a file stay there until they are used, and take memory that the system may take
    back."""
    model = empty_model(config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    model.reset_buffers()
    return model


def empty_model(config: FourMConfig) -> FourMTransformer:
    """The network of a configuration without memory for its weights."""
    with torch.device("meta"):
        return FourMTransformer(config)


def save_transformer(folder: Path, model: FourMTransformer, half: bool = False) -> None:
    """Write the configuration and the weights of a model directory; ``half``: in 16 bits."""
    files.make_folder(folder)
    configs.save(model.config, folder / weights.CONFIG, FORMAT)
    weights.save_weights(folder / weights.WEIGHTS, model, half)
    checksums.seal(folder, [weights.CONFIG, weights.WEIGHTS])


def stored(grids: Grids) -> dict[str, Tokenizer]:
    """The tokenizers that a directory holds: of several sizes of a modality that share weights, that of the first."""
    found = {key: grids[key] for key in grids}
    stems = {key: found.get(key.partition("@")[0], own) for key, own in found.items()}
    return {key: own for key, own in found.items() if stems[key] is own or stems[key].model is not own.model}


def shared_grids(second: Parts, first: Grids, config: FourMConfig) -> Grids:
    """The tokenizers of a model that reads another one's tokens: those of the other, also at further sizes.

    ``config``: of the first model. Raises :class:`Open4MError` if the second one came with other tokenizers for
    modalities that both have, or reads shorter sequences: a text without its end is another condition.
    """
    for spec in second.config.modalities:
        is_read = spec.is_sequence and spec.is_input and spec.key in config.keys
        if is_read and spec.length < (longest := config.spec(spec.key).length):
            raise Open4MError(
                f"{second.folder}: reads at most {spec.length} tokens of {spec.key}, the first model up to {longest}"
            )
    both = [key for key in second.grids if key in first]
    if wrong := [key for key in both if not second.grids.is_same(first, key)]:
        raise Open4MError(
            f"{second.folder}: made for other tokenizers of {', '.join(wrong)} than those of the first model, whose "
            "tokens would mean something else to it"
        )
    found = Grids(second.grids)
    for key, spec in needed(second.config).items():
        source = key if key in first else key.partition("@")[0]
        if source in first and (source == key or _is_shared(found.data.get(key), source, first)):
            found.data[key] = Source(partial(_read, spec, partial(first.__getitem__, source), second.folder))
    return found


def _is_shared(own: Tokenizer | Source | None, stem: str, first: Grids) -> bool:
    """Whether a larger size of a modality has no tokenizer of its own besides that of the smaller one."""
    if not isinstance(own, Source):
        return own is None
    return Path(own.origin).name == stem or (bool(own.identity) and own.identity == first.fingerprints([stem])[stem])


# ---- directories of ours


def is_own(folder: Path) -> bool:
    """Whether a directory holds a 4M in the format of this program."""
    try:
        configs.load(FourMConfig, folder / weights.CONFIG, FORMAT)
    except (Open4MError, OSError):
        return False
    return True


def _own(folder: Path, chosen: Chosen) -> Parts:
    if not folder.is_dir():
        raise Open4MError(f"{folder}: a file without the configuration of a 4M model; name its directory")
    config = _config(folder)
    checksums.check(folder, weights.CONFIG)
    _check_chosen(config, chosen)
    tokenizers, own = _tokenizers_of(folder), folder / locate.SUPER_RESOLUTION
    known = recorded.tokenizers(tokenizers.parent)
    second = chosen.second(lambda: own if own.is_dir() else None)
    found: dict[str, Source] = {}
    shared = _Shared()
    for key, spec in needed(config).items():
        if (modality := key.partition("@")[0]) in chosen.tokenizers:
            expected = known.get(key, known.get(modality))
            found[key] = _named(key, spec, chosen.tokenizers[modality], shared, folder, expected)
        elif (place := _folder_of(tokenizers, key)) is not None:
            about = configs.load_versioned(TokenizerConfig, place / weights.CONFIG, TOKENIZER_FORMAT)[0]
            if place.name != key and not _fits(spec, about):
                continue  # that of another size, which does not serve this one
            if spec is not None:
                _checked(folder, spec, about)
            load = partial(_load_recorded, expected=known.get(place.name), model=folder)
            read = partial(_read, spec, partial(shared.read, place, load), folder)
            found[key] = Source(read, place, _identity(place))
    text = _text(chosen.text) or (TextTokenizer.load(tokenizers / TEXT) if (tokenizers / TEXT).is_dir() else None)
    if text is not None:
        recorded.check(text, known.get(TEXT), chosen.text or tokenizers / TEXT, folder)
    return Parts(
        folder=folder,
        config=config,
        read_weights=partial(_weights, folder, config),
        grids=Grids(found),
        text=text,
        plans=Plans.load(folder),
        read_super_resolution=None if second is None else partial(opened, second),
        text_file=None if chosen.text is None else partial(Path, chosen.text),
        second=second,
    )


def _load_recorded(place: Path, expected: str | None, model: Path) -> Tokenizer:
    found = Tokenizer.load(place)
    recorded.check(found, expected, place, model)
    return found


def _config(folder: Path) -> FourMConfig:
    try:
        return configs.load(FourMConfig, folder / weights.CONFIG, FORMAT)
    except Open4MError as error:
        try:
            modality = configs.load_versioned(TokenizerConfig, folder / weights.CONFIG, TOKENIZER_FORMAT)[0].modality
        except Open4MError:
            raise error from None
        raise Open4MError(
            f"{folder}: is a tokenizer of {modality}, and no 4M model, which has it in {weights.TOKENIZERS}/; "
            f"open4m tokenizer report {folder} measures it"
        ) from None


def _weights(folder: Path, config: FourMConfig) -> dict[str, Tensor]:
    shapes = empty_model(config).state_dict()  # a configuration may ask for any size: memory is taken if there are
    checksums.check(folder, weights.WEIGHTS)
    return weights.read_weights(folder / weights.WEIGHTS, shapes)


def _checked(folder: Path, spec: ModalitySpec, config: TokenizerConfig) -> None:
    try:
        _check(spec, config)
    except Open4MError as error:
        raise Open4MError(f"{folder}: {error}") from error


def _tokenizers_of(folder: Path) -> Path:
    """Where the tokenizers of a model directory are: both models of one have the same."""
    own = folder / weights.TOKENIZERS
    return folder.parent / weights.TOKENIZERS if folder.name == locate.SUPER_RESOLUTION and not own.is_dir() else own


def _folder_of(tokenizers: Path, key: str) -> Path | None:
    """The tokenizer of a key; of ``rgb@448`` that of ``rgb``, if it has none of its own."""
    found = (tokenizers / name for name in dict.fromkeys([key, key.partition("@")[0]]))
    return next((place for place in found if place.is_dir()), None)


class _Shared:
    """Tokenizers that are read once for several sizes of a modality, as long as one of these is in use."""

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[tuple[Path, str], VQVAE] = WeakValueDictionary()
        self._quality: dict[tuple[Path, str], dict[str, float]] = {}

    def __reduce__(self) -> tuple[type[_Shared], tuple[()]]:
        """A copy of a model, in another process or not, reads its own: weak references are of one process."""
        return type(self), ()

    def read(self, place: Path, read: Callable[[Path], Tokenizer], modality: str = "") -> Tokenizer:
        if (network := self._networks.get((place, modality))) is not None:
            return Tokenizer(network, self._quality[place, modality])
        found = read(place)
        self._networks[place, modality], self._quality[place, modality] = found.model, found.quality
        return found


def _read(spec: ModalitySpec | None, read: Callable[[], Tokenizer], where: Path) -> Tokenizer:
    """A tokenizer as a model needs it. ``spec``: of the modality that it is for, None if it is for a part of one."""
    found = read()
    try:
        return found if spec is None else served(found, spec)
    except Open4MError as error:
        raise Open4MError(f"{where}: {error}") from error


def served(tokenizer: Tokenizer, spec: ModalitySpec) -> Tokenizer:
    """The tokenizer at the size at which a model has its modality: one that was trained at several serves each.

    Raises :class:`Open4MError` if the model has another vocabulary, or a grid that the tokenizer does not make.
    """
    _check(spec, tokenizer.config)
    own, side = tokenizer.config, spec.grid[0] * tokenizer.config.patch_size
    return tokenizer if own.vector or own.grid == spec.grid else tokenizer.at(side)


def _check(spec: ModalitySpec, config: TokenizerConfig) -> None:
    """Raise for a tokenizer that makes other tokens than a model expects.

    The tokens of a single vector are a row for their tokenizer; for the model they may be any grid of as many cells.
    """
    if not _fits(spec, config):
        raise Open4MError(
            f"tokenizer {spec.key} has {config.codebook_size} codes on a grid {config.grid}, the model expects "
            f"{spec.vocab_size} on {spec.grid}"
        )


def _fits(spec: ModalitySpec, config: TokenizerConfig) -> bool:
    side = spec.grid[0] * config.patch_size
    square = spec.grid[0] == spec.grid[1]
    trained = config.codebooks == spec.length if config.vector else square and config.knows(side)
    return config.codebook_size == spec.vocab_size and (trained or config.grid == spec.grid)


def _check_chosen(config: FourMConfig, chosen: Chosen) -> None:
    """Raise for tokenizers of modalities that a model does not have."""
    known = sorted({key.partition("@")[0] for key in needed(config)})
    if unknown := [name for name in chosen.tokenizers if name not in known]:
        raise modalities.unknown(unknown[0], known)


def needed(config: FourMConfig) -> dict[str, ModalitySpec | None]:
    """What a model needs tokenizers of, by key: grids, and what is a part of sequences, which has no specification."""
    grids = {spec.key: spec for spec in config.modalities if spec.has_codebook}
    return {**dict.fromkeys(parts_of(config.modalities)), **grids}


def parts_of(specs: Iterable[ModalitySpec]) -> list[str]:
    """What sequences of a model have parts of that are tokenized by themselves, such as poses: names of modalities."""
    known = [modalities.get(spec.key) for spec in specs if spec.is_causal and modalities.is_known(spec.key)]
    return [modality.part for modality in known if modality.part]


# ---- the authors' public models


def _public(folder: Path, listed: bool, chosen: Chosen) -> Parts:
    """``listed``: whether it is one of the transformers whose tokenizers are fetched from the hub."""
    imported = transformer.load(folder)
    beside = folder if folder.is_dir() else folder.parent
    _check_chosen(imported.config, chosen)
    shared, found = _Shared(), {}
    for key, spec in needed(imported.config).items():
        modality = key.partition("@")[0]
        repository = table.tokenizer_of(modality)
        if modality in chosen.tokenizers:
            found[key] = _named(key, spec, chosen.tokenizers[modality], shared, folder)
        elif (place := _folder_of(_tokenizers_of(beside), key)) is not None:  # of an export
            found[key] = _named(key, spec, place, shared, folder)
        elif repository and ((place := table.here(repository, beside)) or listed):
            found[key] = _named(key, spec, place or f"{table.OWNER}/{repository}", shared, folder)
    text_file = _public_text(beside, listed) if chosen.text is None else None
    known = table.TEXT.fingerprint if text_file is public_text.fetched else ""
    second = chosen.second(lambda: _public_second(beside, listed))
    return Parts(
        folder=folder,
        config=imported.config,
        read_weights=lambda: imported.weights,
        grids=Grids(found),
        text=_text(chosen.text) or (None if text_file is None else public_text.Unread(text_file, known)),
        plans=Plans(),
        read_super_resolution=None if second is None else partial(opened, second),
        text_file=text_file or (None if chosen.text is None else partial(Path, chosen.text)),
        second=second,
        imported=imported,
    )


def _public_text(beside: Path, listed: bool) -> Callable[[], Path] | None:
    """What gives the file of the text tokenizer: one on disk, or one that is fetched."""
    if (file := table.text_here(beside)) is not None:
        return lambda: file
    return public_text.fetched if listed else None


def _public_second(beside: Path, listed: bool) -> Path | str | None:
    if table.repository_of(beside) == table.SUPER_RESOLUTION:
        return None
    if (own := beside / locate.SUPER_RESOLUTION).is_dir():
        return own
    return table.here(table.SUPER_RESOLUTION, beside) or (f"{table.OWNER}/{table.SUPER_RESOLUTION}" if listed else None)


# ---- parts that are named


def place_of(origin: Path | str) -> Path:
    """The folder of a tokenizer: a path, one of the authors' repositories on the hub, or as
    :func:`~open4m.hub.locate.resolve_tokenizer` has it."""
    path = Path(origin)
    if path.parent == Path(table.OWNER) and not path.exists():
        return locate.downloaded(str(origin))
    return path if public_tokenizer.is_reference(path) else locate.resolve_tokenizer(origin)


def _named(
    key: str,
    spec: ModalitySpec | None,
    origin: str | Path,
    shared: _Shared,
    where: Path,
    expected: str | None = None,
) -> Source:
    """The tokenizer of a modality in a folder of ours or of the authors, or on their hub."""
    modality = key.partition("@")[0]

    def read(origin: Path) -> Tokenizer:
        place = place_of(origin)
        is_public = public_tokenizer.is_reference(place)
        found = public_tokenizer.load(place, modality) if is_public else Tokenizer.load(place)
        recorded.check(found, expected, place, where)
        return found

    return Source(
        partial(_read, spec, partial(shared.read, Path(origin), read, modality), where), origin, _identity(Path(origin))
    )


def _identity(origin: Path) -> str:
    """The name on the hub of a public tokenizer, also of what was imported from it; "" for others."""
    source = origins.read(origin)
    repository = source.name if source is not None else origin.name
    return f"{table.OWNER}/{repository}" if repository in table.TOKENIZERS.values() else ""


def _text(name: str | Path | None) -> TextTokenizer | None:
    if name is None:
        return None
    return TextTokenizer.load(name) if Path(name).is_dir() else public_text.load(name)
