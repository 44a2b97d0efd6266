"""The text tokenizer that captions, boxes and all other sequences share (paper B.2).

One vocabulary, in this order: control tokens, sentinels, 4 × ``bins`` coordinate tokens, class names, and word pieces
fitted on captions. A class name in a caption maps to the same token as the class of a box.

Only class names are looked for in text. The names of the other special tokens contain punctuation, on which text is
split before pieces are looked up, so that nothing a user types can become one of them, unless the text is said to be
*marked*: in a marked text, ``[S_1]`` is that token.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from open4m import checksums, files
from open4m import config as configs
from open4m.ranges import Range, check_ranges
from open4m.tokenizers import word_files
from open4m.types import LARGEST_VOCABULARY, Open4MError

TEXT = "text"
"""The folder of the text tokenizer, beside those of the grids."""

FORMAT = 2
"""The version of the directory's format. In format 1 the settings were those without a default."""

MAX_LISTED_FAULTS = 8
"""Class names that an error lists; of further ones it gives the number."""

COVERAGE_BATCH = 1000
"""Captions that are tokenized at once when a vocabulary is measured."""

CONTROL = ("[PAD]", "[UNK]", "[SOS]", "[EOS]")
AXES = ("xmin", "ymin", "xmax", "ymax")
_CONTINUED = "##"  # prefix of a piece that continues a word
_ALPHABET = string.ascii_lowercase + string.digits
MOST_CHARACTERS = 1 << 18
"""Characters of a text that are tokenized. Longer ones take gigabytes, and no sequence holds as many tokens."""

_MAX_CHARACTERS = 1000  # only the most frequent characters are learned; words with others are [UNK]

# Decoding removes the spaces around punctuation that English does not write.
_TIGHT = [
    (re.compile(r'" ([^"]+) "'), r'"\1"'),
    (re.compile(r" ([.,;:!?)\]}%])"), r"\1"),
    (re.compile(r"([(\[{#$]) "), r"\1"),
    (re.compile(r"(\w) (['’/_-]) (?=\w)"), r"\1\2"),
    (re.compile(r"(\d)([.:]) (?=\d)"), r"\1\2"),
]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How well a vocabulary covers captions. A punctuation mark counts as a word, as does a class name of several."""

    captions: int
    words: int
    unknown: int  # words that become [UNK]
    tokens: int
    longest: int  # tokens of the longest caption, without [EOS]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a text tokenizer is besides its vocabulary: the content of ``text.json``.

    The defaults are those of tokenizers that are fitted here; the public one of the authors has others.
    ``axes``: what the four coordinates of a box are called. ``first_sentinel``: the number of the sentinel that the
    first masked span has; those before it are not used. ``open_classes``: a box may be of a class without a token,
    which is written in word pieces. ``keeps_end``: a sequence that is too long is cut between its parts, and still ends
    with [EOS]; if not, it is cut wherever it is too long.
    """

    class_names: tuple[str, ...]
    bins: Annotated[int, Range(1, LARGEST_VOCABULARY)]  # per coordinate of a box
    sentinels: Annotated[int, Range(0, LARGEST_VOCABULARY)]
    axes: tuple[str, str, str, str] = field(default=AXES, metadata=configs.LATER)
    first_sentinel: Annotated[int, Range(0, LARGEST_VOCABULARY)] = field(default=0, metadata=configs.LATER)
    open_classes: bool = field(default=False, metadata=configs.LATER)
    keeps_end: bool = field(default=True, metadata=configs.LATER)

    def __post_init__(self) -> None:
        check_ranges(self, "text tokenizer")
        if self.sentinels and self.first_sentinel >= self.sentinels:
            raise Open4MError(
                f"text tokenizer: expected first_sentinel below the number of sentinels, {self.sentinels}, "
                f"got {self.first_sentinel}"
            )


class TextTokenizer:
    """Words to token ids and back. Make one with :meth:`fit` or :meth:`load`."""

    WORDS, SETTINGS = "tokenizer.json", "text.json"

    def __init__(self, words: Tokenizer, settings: Settings) -> None:
        self._words, self.settings = words, settings
        self.class_names, self.bins = settings.class_names, settings.bins
        self.vocab_size: int = words.get_vocab_size()
        self.pad, self.unk, self.sos, self.eos = range(len(CONTROL))
        self._first_coordinate = len(CONTROL) + settings.sentinels
        self._first_class = self._first_coordinate + len(AXES) * self.bins
        self._class_ids = {name: self._first_class + i for i, name in enumerate(self.class_names)}
        self.sentinels = list(range(len(CONTROL) + settings.first_sentinel, self._first_coordinate))
        special = _special_tokens(_written(words.normalizer, self.class_names), settings)
        if any(words.token_to_id(token) != i for i, token in enumerate(special)):
            raise Open4MError(
                "text tokenizer: the word pieces were not fitted with these class names, bins and sentinels"
            )

    @staticmethod
    def fit(
        captions: Iterable[str],
        class_names: Sequence[str],
        vocab_size: int = 30_000,
        bins: int = 1000,
        sentinels: int = 130,  # enough for the spans that are masked in a sequence of 256 tokens
    ) -> TextTokenizer:
        """Fit word pieces to captions; special tokens count toward ``vocab_size``, which is an upper bound.

        All ASCII letters, digits and punctuation marks are in the vocabulary, whether captions have them or not.
        Captions are read once and kept in a temporary file, since memory may not hold them. Raises
        :class:`Open4MError`, before the first caption is read, for sizes and class names that are not possible.
        """
        words = _pipeline(WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
        alphabet = [*string.punctuation, *_both_forms(_ALPHABET)]
        written = _written(words.normalizer, class_names)
        least = len(CONTROL) + sentinels + len(AXES) * bins + len({*written, *alphabet})
        if bins < 2 or sentinels < 1 or vocab_size < least:
            raise Open4MError(
                f"text tokenizer: expected bins of at least 2, got {bins}, sentinels of at least 1, got {sentinels}, "
                f"and a vocab_size of at least {least} (special tokens and the alphabet), got {vocab_size}"
            )
        settings = Settings(class_names=tuple(class_names), bins=bins, sentinels=sentinels)
        special = _special_tokens(written, settings)
        characters: Counter[str] = Counter()
        with TemporaryFile("w+", encoding="utf-8", newline="\n") as normalized:  # one line per caption
            for caption in captions:
                caption = words.normalizer.normalize_str(_encodable(caption[:MOST_CHARACTERS]))
                characters.update(caption)
                normalized.write(caption + "\n")
            normalized.seek(0)
            visible = [character for character in characters if not character.isspace()]
            frequent = sorted(visible, key=lambda character: (-characters[character], character))[:_MAX_CHARACTERS]
            trainer = WordPieceTrainer(
                vocab_size=vocab_size - len(special),
                show_progress=False,
                special_tokens=_both_forms(sorted({*_ALPHABET, *frequent})),  # a fixed order, which decides all ties
                initial_alphabet=frequent,
                limit_alphabet=len(frequent),
                continuing_subword_prefix=_CONTINUED,
            )
            words.train_from_iterator(normalized, trainer)
        learned = words.get_vocab()
        pieces = dict.fromkeys([*special, *alphabet, *sorted(learned, key=learned.__getitem__)])
        vocabulary = {token: i for i, token in enumerate(list(pieces)[:vocab_size])}
        words = _pipeline(WordPiece(vocabulary, unk_token="[UNK]"))
        words.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in written])
        return TextTokenizer(words, settings)

    # ---- text
    def encode_text(self, text: str, marked: bool = False) -> list[int]:
        """The ids of a text, which is put in lower case; no control token is added.

        ``marked``: special tokens that are spelled exactly, such as ``[S_1]``, ``[EOS]`` and ``xmin=12``, are those
        tokens; else they are words like any others. What is beyond :data:`MOST_CHARACTERS` is not read: it is far
        beyond the end of every sequence.
        """
        words = self._marked if marked else self._words
        return words.encode(_encodable(text[:MOST_CHARACTERS]), add_special_tokens=False).ids

    def decode_text(self, ids: Iterable[int], marked: bool = False) -> str:
        """The text of ids; control tokens, sentinels and coordinates are left out, unless it is to be ``marked``."""
        if marked:
            return self._marked.decode([self._checked(i) for i in ids], skip_special_tokens=False)
        words: list[str] = []
        for i in ids:
            i = self._checked(i)
            if i < self._first_class:
                continue
            piece = self._words.id_to_token(i)
            if piece.startswith(_CONTINUED):
                piece = piece.removeprefix(_CONTINUED)
                if words:
                    piece = words.pop() + piece
            words.append(piece)
        text = " ".join(words)
        for pattern, replacement in _TIGHT:
            text = pattern.sub(replacement, text)
        return text

    @cached_property
    def _marked(self) -> Tokenizer:
        """What reads marked texts. Sentinels and coordinates are whole words; control tokens may touch others."""
        marked = Tokenizer.from_str(self._words.to_str())
        names = [self.name(i) for i in range(self._first_class)]
        marked.add_special_tokens([AddedToken(n, single_word=n not in CONTROL, normalized=False) for n in names])
        marked.decoder = decoders.WordPiece(_CONTINUED, cleanup=True)
        return marked

    def finished(self, parts: Iterable[Sequence[int]], max_length: int) -> list[int]:
        """The ids of a sequence's parts, then [EOS]: at most ``max_length``.

        As many whole parts as fit before [EOS]; of a tokenizer that does not keep the end, all ids that fit.
        """
        ids: list[int] = []
        for part in parts:
            if self.settings.keeps_end and len(ids) + len(part) >= max_length:
                break
            ids += part
        return [*ids, self.eos][:max_length]

    def until_eos(self, ids: Iterable[int]) -> list[int]:
        """The ids before the first [EOS]."""
        before: list[int] = []
        for i in ids:
            if i == self.eos:
                break
            before.append(int(i))
        return before

    def coverage(self, captions: Iterable[str]) -> Coverage:
        """How well the vocabulary covers these captions, which are read once and not kept."""
        continues = np.array([self._words.id_to_token(i).startswith(_CONTINUED) for i in range(self.vocab_size)])
        captions = (_encodable(caption[:MOST_CHARACTERS]) for caption in captions)
        count = words = unknown = tokens = longest = 0
        while batch := list(islice(captions, COVERAGE_BATCH)):
            rows = [encoding.ids for encoding in self._words.encode_batch(batch, add_special_tokens=False)]
            ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
            count += len(rows)
            words += int(np.count_nonzero(~continues[ids]))
            unknown += int(np.count_nonzero(ids == self.unk))  # one [UNK] stands for a whole word
            tokens += len(ids)
            longest = max(longest, *map(len, rows))
        return Coverage(captions=count, words=words, unknown=unknown, tokens=tokens, longest=longest)

    def unfamiliar(self, texts: Iterable[str]) -> list[str]:
        """The words of texts that say little to a model, each once: unknown ones, and those spelled in single letters.

        A word is spelled where its pieces have less than two characters on average: of ``an elephant`` with few words,
        ``elephant`` in six pieces; not ``pyramids``, which is ``pyramid`` and ``s``.
        """
        found: dict[str, None] = {}
        for text in texts:
            text = _encodable(text[:MOST_CHARACTERS])
            read = self._marked.encode(text, add_special_tokens=False)
            words: list[tuple[int, int, int, bool]] = []  # begin, end, pieces, whether it is unknown
            for i, (begin, end) in zip(read.ids, read.offsets, strict=True):
                if words and self.name(i).startswith(_CONTINUED):
                    first, _, pieces, unknown = words[-1]
                    words[-1] = (first, end, pieces + 1, unknown)
                else:
                    words.append((begin, end, 1, i == self.unk))
            for begin, end, pieces, unknown in words:
                if unknown or (pieces > 1 and end - begin < 2 * pieces):
                    found[text[begin:end]] = None
        return [*found]

    # ---- boxes and numbers
    def number_id(self, axis: int, value: int) -> int:
        """The token of a whole number from 0, below ``bins``, on an axis from 0 to 3."""
        if not (0 <= axis < len(AXES) and 0 <= value < self.bins):
            raise Open4MError(
                f"text tokenizer: expected a number below {self.bins} on an axis below {len(AXES)}, "
                f"got {value} on axis {axis}; vocabularies of 1000 bins have all numbers of 4M-21's sequences"
            )
        return self._first_coordinate + axis * self.bins + int(value)

    def number(self, token: int) -> tuple[int, int] | None:
        """(axis, number) of a token of :meth:`number_id`; None for others."""
        if not self._first_coordinate <= token < self._first_class:
            return None
        return divmod(int(token) - self._first_coordinate, self.bins)

    def coordinate_ids(self, corners: Sequence[float] | np.ndarray) -> list[int]:
        """The four tokens of x_min, y_min, x_max, y_max, fractions in [0, 1], rounded to the nearest of the bins."""
        clipped = np.clip(np.asarray(corners, dtype=np.float64), 0, 1)
        if clipped.shape != (4,) or not np.isfinite(clipped).all():
            raise Open4MError(f"a box has four finite corner coordinates, got {corners}")
        return [self.number_id(axis, int(bin_)) for axis, bin_ in enumerate(np.rint(clipped * (self.bins - 1)))]

    def coordinate(self, token: int) -> tuple[int, float] | None:
        """(axis, fraction) of a coordinate token, axes in the order of :meth:`coordinate_ids`; None for others."""
        found = self.number(token)
        return found and (found[0], found[1] / (self.bins - 1))

    def class_id(self, name: str) -> int:
        """The token of a class."""
        if name not in self._class_ids:
            raise Open4MError(
                f"text tokenizer: unknown class {name!r} (classes: {', '.join(self.class_names) or 'none'})"
            )
        return self._class_ids[name]

    def class_name(self, token: int) -> str | None:
        """The class of a token; None if it is not a class token."""
        index = int(token) - self._first_class
        return self.class_names[index] if 0 <= index < len(self.class_names) else None

    def label_ids(self, name: str) -> list[int]:
        """The tokens of the class of a box: its own token or, if classes are open, any words."""
        words = self.encode_text(name) if self.settings.open_classes and name not in self._class_ids else []
        return words or [self.class_id(name)]

    def label(self, ids: Sequence[int]) -> str | None:
        """The class of the tokens of :meth:`label_ids`; None for others."""
        if len(ids) == 1 and (name := self.class_name(ids[0])) is not None:
            return name
        is_words = self.settings.open_classes and len(ids) > 0 and min(ids) >= self._first_class
        return self.decode_text(ids) if is_words else None

    def has_word(self, word: str) -> bool:
        """Whether a word is one token."""
        return len(self.encode_text(word)) == 1 and self.encode_text(word) != [self.unk]

    def word_id(self, word: str) -> int:
        """The token of a word. Raises :class:`Open4MError` if the vocabulary does not have it as one token."""
        if not self.has_word(word):
            raise Open4MError(
                f"text tokenizer: {word!r} is not one token: fit a vocabulary with the words of the modality, "
                "open4m tokenizer fit-text --modality"
            )
        return self.encode_text(word)[0]

    def name(self, token: int) -> str:
        """The readable form of a token of any kind."""
        return self._words.id_to_token(self._checked(token))

    def describe(self) -> str:
        """What the vocabulary holds, in one readable line."""
        pieces = self.vocab_size - self._first_class - len(self.class_names)
        return (
            f"{self.vocab_size} entries: {len(CONTROL)} control tokens, {self.settings.sentinels} sentinels, "
            f"{len(AXES)} × {self.bins} coordinates, {len(self.class_names)} classes, {pieces} word pieces"
        )

    # ---- at rest
    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever the ids of a text or a box could."""
        settings = json.dumps(configs.to_dict(self.settings, configs.counting), indent=1)
        return hashlib.sha256((self._words.to_str() + settings).encode()).hexdigest()[:16]

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.json`` (format of the library tokenizers) and ``text.json`` (which tokens are special)."""
        folder = Path(folder)
        files.make_folder(folder)
        files.write_text(folder / self.WORDS, self._words.to_str())
        configs.save(self.settings, folder / self.SETTINGS, FORMAT)
        checksums.seal(folder, [self.WORDS, self.SETTINGS])

    @staticmethod
    def load(folder: Path | str) -> TextTokenizer:
        """The tokenizer that :meth:`save` wrote. Raises :class:`Open4MError` for anything else."""
        checksums.check(Path(folder), TextTokenizer.SETTINGS, TextTokenizer.WORDS)
        path = Path(folder) / TextTokenizer.SETTINGS
        settings = configs.load(Settings, path, FORMAT)
        path = Path(folder) / TextTokenizer.WORDS
        words = word_files.parse(files.read_bytes(path, word_files.LARGEST), str(path))
        if words.normalizer is None:
            raise Open4MError(f"{path}: not readable as a text tokenizer (it has no normalizer)")
        return TextTokenizer(words, settings)

    def _checked(self, token: int) -> int:
        token = int(token)
        if not 0 <= token < self.vocab_size:
            raise Open4MError(f"text tokenizer: token {token} is not in the vocabulary of {self.vocab_size}")
        return token


def _pipeline(model: WordPiece) -> Tokenizer:
    """Lower case without control characters, single spaces; then words and single punctuation marks."""
    words = Tokenizer(model)
    words.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return words


def _written(normalizer: normalizers.Normalizer, names: Sequence[str]) -> list[str]:
    """Class names as they occur in normalized text: in lower case, distinct and not empty."""
    first: dict[str, int] = {}  # name: its place, from 1, which is its line in a file of names
    faults = []
    for place, name in enumerate(names, 1):
        written = normalizer.normalize_str(_encodable(name))
        if not written:
            faults.append(f"name {place} is empty")
        elif first.setdefault(written, place) != place:
            faults.append(f"name {place}, {name!r}, is name {first[written]}")
    if faults:
        raise Open4MError(
            "text tokenizer: class names must be distinct in lower case and not empty: "
            f"{'; '.join(faults[:MAX_LISTED_FAULTS])}"
            + (f"; and {len(faults) - MAX_LISTED_FAULTS} more" if len(faults) > MAX_LISTED_FAULTS else "")
        )
    return list(first)


def _special_tokens(written: Sequence[str], settings: Settings) -> list[str]:
    """All tokens that are not word pieces, in the order of their ids; ``written`` class names are the last."""
    coordinates = [f"{axis}={b}" for axis in settings.axes for b in range(settings.bins)]
    special = [*CONTROL, *(f"[S_{k}]" for k in range(settings.sentinels)), *coordinates]
    clash = set(special) & set(written)
    if clash:
        raise Open4MError(f"text tokenizer: class names that mean something else: {', '.join(sorted(clash))}")
    return [*special, *written]


def _both_forms(characters: Iterable[str]) -> list[str]:
    """Characters as word pieces: first those that start a word, then those that continue one."""
    return [prefix + character for prefix in ("", _CONTINUED) for character in characters]


def _encodable(text: str) -> str:
    """The text with question marks for unpaired surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
