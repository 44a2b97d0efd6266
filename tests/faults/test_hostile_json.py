"""Every reader of JSON, given damaged and hostile documents: what it cannot use is an error of the user, never ours."""

import json

import pytest
from hostile import DOCUMENTS, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import CONFIG, FAMILIES

from open4m import config as configs
from open4m import configs as named
from open4m import files
from open4m.datasets import captions
from open4m.evaluate.report import Result, Row
from open4m.generate.request import Request
from open4m.hub.ml4m.files import read_settings
from open4m.labellers.clip import _normalization
from open4m.modalities import get
from open4m.model.config import FourMConfig
from open4m.nn.unet import UNetConfig
from open4m.reproduce import LineConfig
from open4m.store.manifest import Manifest
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.text import TextTokenizer
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun
from open4m.types import Open4MError

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
DIFFUSION = TokenizerConfig.of(
    "rgb", image_size=32, codebook_size=16, decoder=UNetConfig(channels=32), diffusion=DiffusionConfig()
)
CLASSES = TokenizerConfig.of(
    "semseg", image_size=32, codebook_size=16, class_names=("a", "b"), palette=((0, 0, 0), (1, 1, 1))
)
VECTOR = TokenizerConfig.of("dinov2_global", channels=8, codebook_size=16, codebooks=2)
ROW = Row(task="rgb → depth", metric="abs_rel", better="lower", model=1.0, upper_bound=0.5, trivial=2.0)
SHARD = {"file": "shard-00000.tar", "rows": 2, "bytes": 10, "sha256": "0" * 64, "keys_sha256": "0" * 64}
GIVEN = {
    "caption": {"text": "a cone"},
    "boxes": {"objects": [{"box": [0, 0, 1, 1], "label": "cone"}], "scores": [0.5]},
    "depth": {"value": {"base64": ""}, "mask": {"cells": [0, 3]}},
}
REQUESTS = [
    {"format": 2, "verb": "generate", "given": GIVEN, "targets": ["rgb"], "options": {"steps": 4, "guidance": 2.0}},
    {"format": 2, "verb": "inpaint", "given": {"rgb": {"base64": ""}}, "mask": {"boxes": [[0, 0, 0.5, 1]]}},
    {"format": 2, "verb": "vary", "given": {"rgb": {"base64": ""}}, "by": ["depth"], "samples": 2, "seed": 3},
    {"format": 2, "verb": "edit", "given": {"rgb": {"base64": ""}}, "changes": [{"index": 0, "by": [0.1, 0.2]}]},
    {"format": 2, "verb": "probe", "given": {"caption": {"text": "a"}}, "of": "caption", "sweep": {"weights": [1, 2]}},
    {"format": 2, "verb": "guide", "given": GIVEN, "targets": ["rgb"], "weights": {"caption": 2.0}, "avoid": ["b"]},
]


def written(config):
    return json.dumps({"format": 1, **configs.to_dict(config)}).encode()


def of_class(cls):
    return lambda path: configs.load(cls, path, 1)


READERS = {
    "model": (of_class(FourMConfig), [written(CONFIG), written(FAMILIES)], "config.json"),
    "tokenizer": (of_class(TokenizerConfig), [written(c) for c in (DIFFUSION, CLASSES, VECTOR)], "config.json"),
    "pre-training": (of_class(PretrainConfig), [written(named.get("4m-21-b"))], "config.json"),
    "tokenizer training": (of_class(TokenizerRun), [written(named.get("tokenizer-rgb"))], "config.json"),
    "line": (of_class(LineConfig), [written(named.get("scenes"))], "config.json"),
    "text": (
        lambda path: TextTokenizer.load(path.parent),
        [b'{"format": 1, "class_names": ["cone"], "bins": 8, "sentinels": 4}'],
        TextTokenizer.SETTINGS,
    ),
    "manifest": (
        lambda path: Manifest.read(path.parent),
        [json.dumps({"format": 1, "member": "txt", "shards": [SHARD]}).encode()],
        "manifest.json",
    ),
    "captions": (
        lambda path: list(captions.read([path])),
        [b'["a", {"caption": "b"}]', b'{"annotations": [{"caption": "b"}]}'],
        "captions.json",
    ),
    "caption lines": (lambda path: list(captions.read([path])), [b'{"caption": "b"}'], "captions.jsonl"),
    "settings of the authors": (
        lambda path: read_settings(path.parent),
        [b'{"dim": 8, "domains_in": ["rgb"]}'],
        "config.json",
    ),
    "boxes": (
        lambda path: get("boxes").read(path.read_bytes()),
        [b'[{"box": [0, 0, 1, 1], "label": "a"}]'],
        "boxes.json",
    ),
    "request": (
        lambda path: Request.from_json(files.read_json(path)),
        [json.dumps(request).encode() for request in REQUESTS],
        "request.json",
    ),
    "evaluation": (
        lambda path: Result.from_json(path.read_text(errors="surrogateescape")),
        [Result(samples=1, seed=0, options={"steps": 2}, rows=(ROW,)).to_json().encode()],
        "results.json",
    ),
    "preprocessor": (
        lambda path: _normalization(path.read_text(errors="surrogateescape"), str(path)),
        [b'{"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}'],
        "preprocessor_config.json",
    ),
}
"""Of every reader: how a file is read, documents that it can read or nearly, and the name of the file."""


@pytest.mark.parametrize("name", READERS)
@QUICK
@given(data=st.data())
def test_damaged_documents_are_errors_of_the_user(name, data, tmp_path_factory):
    read, documents, file = READERS[name]
    path = tmp_path_factory.getbasetemp() / "hostile" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.draw(st.sampled_from(documents).flatmap(damaged)))
    try:
        read(path)
    except Open4MError as error:
        if len(str(error)) > 2 * Open4MError.LONGEST:
            raise


@QUICK
@given(document=DOCUMENTS)
def test_what_json_is_read_can_be_written_again(document):
    try:
        value = files.parse_json(document, "document")
    except Open4MError as error:
        assert str(error).startswith("document: not readable as JSON")  # noqa: PT017 - either may be
        return
    again = json.loads(json.dumps(value, ensure_ascii=False).encode())
    assert again == value or value != value


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"[" * 100_000, "nested more than 64 levels deep"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 levels deep"),
        (b"1" * 301, "a number of 301 digits"),
        (b"-1e999", "a number that 64 bits cannot hold"),
        (b'{"a\\ud800": 1}', "half of a character"),
        (b"\xff", "codec can't decode"),
        (b"{", "Expecting property name"),
    ],
)
def test_what_is_wrong_with_json_is_said(document, message):
    with pytest.raises(Open4MError, match=rf"^a\.json: not readable as JSON \(.*{message}"):
        files.parse_json(document, "a.json")


def test_json_of_other_programs_is_read():
    assert files.parse_json(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00", "b": [1e300, ' + b"9" * 300 + b"]}", "a") == {
        "a": "😀",
        "b": [1e300, int("9" * 300)],
    }
    assert files.parse_json(b"[" * 64 + b"]" * 64, "a")
