"""``tokenizer.json``: the words of text tokenizers, checked before the library ``tokenizers`` reads them.

Such a file is a program of a kind: its normalizers may write texts that grow without end, its regular expressions may
take for ever, its ids may lie anywhere. The library trusts it, and ends the process where memory ends. What may stand
in a file is therefore listed here; it is what the tokenizers of 4M, CLIP and BERT are made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from open4m import files
from open4m.types import Open4MError, shown

LARGEST = 1 << 26
"""Bytes of the largest file that is read."""

LARGEST_VOCABULARY, LONGEST_WORD, MOST_PARTS = 1 << 20, 1 << 10, 16
"""The most entries, the most characters of one, and the most steps of a normalizer or a splitter."""

NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "BertNormalizer", "Replace"}
SPLITTERS = {
    "BertPreTokenizer",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
    "Digits",
    "ByteLevel",
    "Metaspace",
    "Split",
}
PROCESSORS = {"BertProcessing", "RobertaProcessing", "TemplateProcessing", "ByteLevel"}
DECODERS = {"WordPiece", "ByteLevel", "BPEDecoder", "Metaspace", "Fuse"}
MODELS = {"WordPiece", "BPE", "WordLevel"}

_CHARACTER = re.compile(r"\[(?:\\[^BbAzZGKXRr]|[^\]\\])+\]|\\[pP]\{\w+\}|\\[sSdDwWntr]|\\[^\w]|[^\\(){}^$?\[\]|*+]")
"""What stands for exactly one character in a regular expression that is read here."""


def parse(text: str | bytes, where: str) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``, without padding and truncation; ``where`` names it in errors.

    Raises :class:`Open4MError` for what is no such file, and for what is not on the lists of this module.
    """
    return build(files.parse_json(text, where), where)


def build(stored: Any, where: str) -> Tokenizer:
    """The same of the file's JSON value."""
    try:
        _check(stored)
        return Tokenizer.from_str(json.dumps({**stored, "truncation": None, "padding": None}))
    except _Refused as error:
        raise Open4MError(f"{where}: not readable as a text tokenizer ({error})") from None
    except BaseException as error:  # the library raises Exception itself, and its panics are not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise Open4MError(f"{where}: not readable as a text tokenizer ({' '.join(str(error).split())})") from error


class _Refused(Exception):
    """What a file holds that is not on the lists."""


def _check(stored: Any) -> None:
    _expect(isinstance(stored, dict), "no object")
    entries = _entries(stored.get("model"))
    added = _added(stored.get("added_tokens") or [])
    known = {**entries, **added}
    unknown = stored["model"].get("unk_token")
    _expect(unknown in entries or (not unknown and stored["model"].get("type") != "WordPiece"), "no [UNK] token")
    ids = {*entries.values(), *added.values()}
    _expect(len({*entries.values()}) == len(entries), "two entries of its vocabulary have one id")
    _expect(not ids or max(ids) < len(known), f"an id is beyond its {len(known)} entries")
    _steps(stored.get("normalizer"), NORMALIZERS, "normalizers", "normalizer", _check_normalizer)
    _steps(stored.get("pre_tokenizer"), SPLITTERS, "pretokenizers", "pre_tokenizer", _check_splitter)
    _steps(stored.get("post_processor"), PROCESSORS, "processors", "post_processor", lambda step: _check_ids(step, ids))
    _steps(stored.get("decoder"), DECODERS, "decoders", "decoder", lambda step: None)


def _entries(model: Any) -> dict[str, int]:
    """The words of a model and their ids."""
    _expect(isinstance(model, dict) and isinstance(model.get("vocab"), dict), "it has no vocabulary")
    _expect(model.get("type", "BPE") in MODELS, f"a model of type {shown(model.get('type'))}")
    vocabulary, merges = model["vocab"], model.get("merges") or []
    _expect(len(vocabulary) <= LARGEST_VOCABULARY, f"{len(vocabulary)} entries, at most {LARGEST_VOCABULARY} are read")
    _expect(isinstance(merges, list) and len(merges) <= 2 * LARGEST_VOCABULARY, "too many merges")
    longest = model.get("max_input_chars_per_word", 100)
    _expect(type(longest) is int and 0 < longest <= LONGEST_WORD, f"words of {shown(longest)} characters")
    for word, number in vocabulary.items():
        _expect(type(number) is int and number >= 0 and len(word) <= LONGEST_WORD, f"its entry {shown(word)}")
    return vocabulary


def _added(tokens: Any) -> dict[str, int]:
    _expect(isinstance(tokens, list) and len(tokens) <= LARGEST_VOCABULARY, "added_tokens: no list")
    found = {}
    for token in tokens:
        _expect(isinstance(token, dict), "added_tokens: no list of objects")
        word, number = token.get("content"), token.get("id")
        _expect(isinstance(word, str) and 0 < len(word) <= LONGEST_WORD, f"the added token {shown(word)}")
        _expect(type(number) is int and number >= 0, f"the id {shown(number)} of the added token {shown(word)}")
        found[word] = number
    return found


def _steps(
    part: Any,
    allowed: set[str],
    several: str,
    name: str,
    check: Callable[[Mapping[str, Any]], None],
    depth: int = 0,
) -> None:
    """Check each step of a part of the pipeline, which may be a sequence of steps."""
    if part is None:
        return
    _expect(isinstance(part, dict), f"{name}: no object")
    kind = part.get("type")
    if kind != "Sequence":
        _expect(isinstance(kind, str) and kind in allowed, f"{name}: of type {shown(kind)}, which is not read here")
        check(part)
        return
    steps = part.get(several)
    _expect(isinstance(steps, list) and len(steps) <= MOST_PARTS and depth < 2, f"{name}: too many steps")
    for step in steps:
        _steps(step, allowed, several, name, check, depth + 1)


def _check_normalizer(step: Mapping[str, Any]) -> None:
    if step["type"] == "Replace":
        length, content = _pattern(step.get("pattern")), step.get("content")
        _expect(
            isinstance(content, str) and len(content) <= length,
            "normalizer: Replace writes more than it replaces: texts grow",
        )


def _check_splitter(step: Mapping[str, Any]) -> None:
    if step["type"] == "Split":
        _pattern(step.get("pattern"))
    if step["type"] == "Metaspace":
        replacement = step.get("replacement")
        _expect(isinstance(replacement, str) and len(replacement) == 1, "pre_tokenizer: Metaspace of a longer text")


def _pattern(pattern: Any) -> int:
    """How many characters a pattern matches at least. Refuses regular expressions that may take for ever: an
    alternative is characters one after another, of which the last one may be repeated."""
    _expect(isinstance(pattern, dict) and len(pattern) == 1, "a pattern that is no String and no Regex")
    ((kind, text),) = pattern.items()
    _expect(isinstance(text, str) and 0 < len(text) <= LONGEST_WORD, f"the pattern {shown(text)}")
    if kind == "String":
        return len(text)
    plain = _CHARACTER.sub("x", text)
    alternatives = plain.split("|")
    fits = kind == "Regex" and all(re.fullmatch(r"x+[*+]?", one) for one in alternatives)
    _expect(fits, f"the regular expression {shown(text)}, which is not read here")
    return min(one.count("x") - one.count("*") for one in alternatives)


def _check_ids(step: Mapping[str, Any], known: set[int]) -> None:
    """Refuse ids of special tokens that the vocabulary does not have."""
    used = [step[side][1] for side in ("sep", "cls") if isinstance(step.get(side), list) and len(step[side]) == 2]
    for token in (step.get("special_tokens") or {}).values() if isinstance(step.get("special_tokens"), dict) else ():
        used += token["ids"] if isinstance(token, dict) and isinstance(token.get("ids"), list) else [None]
    _expect(all(type(number) is int and number in known for number in used), "post_processor: ids of no token")


def _expect(fits: bool, found: str) -> None:
    if not fits:
        raise _Refused(found)
