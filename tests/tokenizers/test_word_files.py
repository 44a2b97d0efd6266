"""Hostile ``tokenizer.json`` files: each is refused in words, before the library that trusts them has them."""

import copy
import json

import pytest
from tokenizers import Tokenizer

from open4m.hub import locate
from open4m.tokenizers import word_files
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Open4MError

OURS = json.loads((locate.resolve("scenes") / "tokenizers" / "text" / "tokenizer.json").read_text())
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP = {
    "version": "1.0",
    "added_tokens": [
        {"id": 5, "content": "<|startoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": True, "special": True}
    ],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": CLIP_SPLIT}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
    "post_processor": {
        "type": "RobertaProcessing",
        "sep": ["<|startoftext|>", 5],
        "cls": ["<|startoftext|>", 5],
        "trim_offsets": False,
        "add_prefix_space": False,
    },
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<|startoftext|>",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "vocab": {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5},
        "merges": ["a b</w>"],
    },
}


@pytest.mark.parametrize("stored", [OURS, CLIP], ids=["ours", "clip"])
def test_files_of_known_form_are_read_as_the_library_reads_them(stored):
    found, expected = word_files.build(stored, "file"), Tokenizer.from_str(json.dumps(stored))
    for text in ("ab a b", "A red  Cone, and\tb", ""):
        assert found.encode(text).ids == expected.encode(text).ids


def test_only_word_pieces_need_a_token_for_unknown_words():
    for unknown in ("", None):
        stored = {**CLIP, "model": {**CLIP["model"], "unk_token": unknown}}
        assert word_files.build(stored, "file").encode("ab").tokens == ["<|startoftext|>", "ab</w>", "<|startoftext|>"]
        with pytest.raises(Open4MError, match=r"no \[UNK\] token"):
            word_files.build({**OURS, "model": {**OURS["model"], "unk_token": unknown}}, "file")


def test_padding_and_truncation_are_left_out():
    stored = {**OURS, "padding": {"strategy": {"Fixed": 10**9}, "pad_id": 0}, "truncation": {"max_length": 1}}
    assert len(word_files.build(stored, "file").encode("a red cone").ids) == 3


def replaced(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": False}


def doubled(count):
    return {"type": "Sequence", "normalizers": [replaced({"String": "a"}, "aa")] * count}


def nested(depth):
    return {"type": "Sequence", "normalizers": [nested(depth - 1)]} if depth else {"type": "NFC"}


HOSTILE = {
    "no object": ((), [], "no object"),
    "no model": (("model",), None, "no vocabulary"),
    "another model": (("model", "type"), "Unigram", "a model of type 'Unigram'"),
    "an id beyond the vocabulary": (("model", "vocab", "red"), 10**9, "an id is beyond its 846 entries"),
    "a negative id": (("model", "vocab", "red"), -1, "its entry 'red'"),
    "an id that is text": (("model", "vocab", "red"), "1", "its entry 'red'"),
    "an id twice": (("model", "vocab", "red"), OURS["model"]["vocab"]["blue"], "two entries of its vocabulary"),
    "words of any length": (("model", "max_input_chars_per_word"), 10**9, "words of 1000000000 characters"),
    "no token for unknown words": (("model", "unk_token"), "[NONE]", r"no \[UNK\] token"),
    "an added id beyond": (("added_tokens", 0, "id"), 10**6, "an id is beyond"),
    "an empty added token": (("added_tokens", 0, "content"), "", "the added token ''"),
    "added tokens of another kind": (("added_tokens",), {"a": 1}, "added_tokens: no list"),
    "texts that double": (("normalizer",), doubled(12), "texts grow"),
    "a text before each": (("normalizer",), {"type": "Prepend", "prepend": "x" * 10**6}, "of type 'Prepend'"),
    "a growing expression": (("normalizer",), replaced({"Regex": "a*"}, "b"), "texts grow"),
    "an empty expression": (("normalizer",), replaced({"Regex": ""}, "b"), "the pattern ''"),
    "an open bracket": (("normalizer",), replaced({"Regex": "((("}, "b"), r"the regular expression '\(\(\('"),
    "an expression without end": (("normalizer",), replaced({"Regex": "(a|aa|a*)*x"}, ""), "the regular expression"),
    "repetitions in a row": (("normalizer",), replaced({"Regex": "a*a*a*x"}, ""), "the regular expression"),
    "an expression that looks ahead": (("pre_tokenizer",), split(r"\s+(?!\S)"), "the regular expression"),
    "compiled tables": (("normalizer",), {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "'Precompiled'"),
    "deep nesting": (("normalizer",), nested(9), "too many steps"),
    "many steps": (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 99}, "too many steps"),
    "steps that are no objects": (("normalizer",), {"type": "Sequence", "normalizers": [5]}, "no object"),
    "an unknown splitter": (("pre_tokenizer",), {"type": "UnicodeScripts"}, "of type 'UnicodeScripts'"),
    "an unknown decoder": (("decoder",), {"type": "CTC"}, "of type 'CTC'"),
    "special tokens of no id": (
        ("post_processor",),
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {"a": {"id": "a", "ids": [10**6]}}},
        "ids of no token",
    ),
    "a wrong type that the library finds": (("version",), 5, "not readable as a text tokenizer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_words(name):
    path, value, message = HOSTILE[name]
    stored = copy.deepcopy(OURS)
    inner = stored
    for key in path[:-1]:
        inner = inner[key]
    if path:
        inner[path[-1]] = value
    with pytest.raises(Open4MError, match=f"file: .*{message}"):
        word_files.build(stored if path else value, "file")


def test_a_panic_of_the_library_is_a_users_error(monkeypatch):
    """A Rust panic derives from BaseException."""

    class PanicException(BaseException):
        pass

    class Panicking:
        @staticmethod
        def from_str(text):
            raise PanicException("index out of bounds")

    monkeypatch.setattr(word_files, "Tokenizer", Panicking)
    with pytest.raises(Open4MError, match="index out of bounds"):
        word_files.build(OURS, "file")


def test_a_signal_is_no_error_of_the_file(monkeypatch):
    class Interrupted:
        @staticmethod
        def from_str(text):
            raise KeyboardInterrupt

    monkeypatch.setattr(word_files, "Tokenizer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        word_files.build(OURS, "file")


def test_a_text_tokenizer_without_a_normalizer_is_refused(tmp_path):
    TextTokenizer.load(locate.resolve("scenes") / "tokenizers" / "text").save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**OURS, "normalizer": None}))
    (tmp_path / "sha256.json").unlink()
    with pytest.raises(Open4MError, match="has no normalizer"):
        TextTokenizer.load(tmp_path)
