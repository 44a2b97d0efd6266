"""Every reader of JSON, given damaged and hostile documents: what it cannot use is an error of the user, never ours."""

import base64
import json

import numpy as np
import pytest
import torch
from hostile import DOCUMENTS, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from symbol_values import EXAMPLES, PERSON
from tiny_model import CONFIG, FAMILIES

from open4m import checksums, files, weights
from open4m import config as configs
from open4m import configs as named
from open4m.datasets import captions
from open4m.evaluate import curves
from open4m.evaluate.report import Result, Row
from open4m.generate import outputs, record
from open4m.generate.request import Request
from open4m.hub.ml4m import source as origins
from open4m.hub.ml4m.files import read_settings
from open4m.labellers.clip import _normalization
from open4m.labellers.reader import ReaderConfig
from open4m.modalities import codecs, get
from open4m.model import plans
from open4m.model.config import FourMConfig
from open4m.model.plans import Plans
from open4m.nn.unet import UNetConfig
from open4m.reproduce import LineConfig
from open4m.store.manifest import Manifest
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.text import TextTokenizer
from open4m.train import checkpoint
from open4m.train.log import RunLog
from open4m.train.recipes.pretrain import PretrainConfig, _recorded
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
SHARD = {"file": "shard-00000.tar", "rows": 2, "sha256": "0" * 64, "keys_sha256": "0" * 64}
DEPTH = base64.b64encode(codecs.write_array(np.ones((4, 4), dtype=np.float32))).decode()
RGB = base64.b64encode(codecs.encode_png(np.zeros((4, 4, 3), dtype=np.uint8))).decode()
GIVEN = {
    "caption": {"text": "a cone"},
    "boxes": {"objects": [{"box": [0, 0, 1, 1], "label": "cone"}], "scores": [0.5]},
    "depth": {"value": {"base64": DEPTH}, "mask": {"cells": [0, 3]}},
}
REQUESTS = [
    {"format": 2, "verb": "generate", "given": GIVEN, "targets": ["rgb"], "options": {"steps": 4, "guidance": 2.0}},
    {"format": 2, "verb": "inpaint", "given": {"rgb": {"base64": RGB}}, "mask": {"boxes": [[0, 0, 0.5, 1]]}},
    {"format": 2, "verb": "vary", "given": {"rgb": {"base64": RGB}}, "by": ["depth"], "samples": 2, "seed": 3},
    {"format": 2, "verb": "edit", "given": {"rgb": {"base64": RGB}}, "changes": [{"move": "a", "to": [0, 0, 1, 1]}]},
    {
        "format": 2,
        "verb": "probe",
        "given": {"caption": {"text": "a"}},
        "of": "caption",
        "sweep": {"values": [{"text": "b"}]},
    },
    {"format": 2, "verb": "guide", "given": GIVEN, "targets": ["rgb"], "weights": {"caption": 2.0}, "avoid": ["b"]},
]


TENSORS = {"b": torch.zeros(2)}
NETWORK = (torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))


def written(config):
    return json.dumps({"format": 1, **configs.to_dict(config)}).encode()


def of_class(cls):
    return lambda path: configs.load(cls, path, 1)


def symbols(name):
    """The reader of a modality's files, whose values are drawn and written again as well."""
    modality = get(name)

    def read(path):
        value = modality.read(path.read_bytes())
        modality.render(value, 16)
        assert modality.read(modality.write(value)) == value

    more = [[{**PERSON, "rotations": [0.0] * 69}]] if name == "human_poses" else []
    return read, [modality.write(modality.convert(value)) for value in [*EXAMPLES[name], *more]], f"{name}.json"


def metrics(path):
    """What resuming reads of a run's metrics, and what is drawn of them, by another test."""
    path.write_bytes(path.read_bytes() + b"\n")
    RunLog(path.parent, "run", 10, 5).close()
    curves.read_curves(path.parent)


RUN = {
    "train": {"epoch_samples": 3},
    "task": {"model": {"modalities": [configs.to_dict(spec) for spec in CONFIG.modalities]}},
}
LINE = {"step": 5, "seconds": 3.0, "validation/a/loss": 2.0, "validation/b": 1}
RECORD = {
    "format": 3,
    "made_with": {},
    "request": REQUESTS[0],
    "results": [
        {
            "seed": 0,
            "plan": [{"target": "rgb"}],
            "given": GIVEN,
            "conditions": {"a": GIVEN},
            "frame": None,
            "planned": {},
            "tokens": {"rgb": [1]},
            "log_probability": {"rgb": [0.5]},
            "entropy": {"rgb": [None]},
        },
    ],
}

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
    "metrics": (metrics, [json.dumps(LINE).encode()], "metrics.jsonl"),
    "run": (
        lambda path: _recorded(named.get("4m-21-b"), path.parent),
        [json.dumps({"format": 1, **RUN}).encode()],
        "config.json",
    ),
    "state of a checkpoint": (
        lambda path: checkpoint._restore(path.parent, *NETWORK, None),
        [b'{"step": 3}'],
        checkpoint.STATE,
    ),
    "sums of a checkpoint": (
        lambda path: checkpoint._damage(path.parent),
        [b'{"model.safetensors": "0", "optimizer.safetensors": "0", "state.json": "0"}'],
        checksums.FILE,
    ),
    "plans": (
        lambda path: Plans.load(path.parent),
        [b'{"format": 1, "tasks": {"rgb": {"rgb": {"steps": 3}}}, "merged": {"rgb": 3}, "about": {}}'],
        plans.FILE,
    ),
    "origin": (
        lambda path: origins.restored(path.parent, TENSORS),
        [
            b'{"format": 1, "name": "a", "types": {"b": "float16"}, "equal": {"a": "b"}, "weights": "%s"}'
            % weights.fingerprint(TENSORS).encode()
        ],
        origins.FILE,
    ),
    "record": (lambda path: record.read(path), [json.dumps(RECORD).encode()], record.NAME),
    "an earlier result": (lambda path: outputs.remove(path.parent), [json.dumps(RECORD).encode()], record.NAME),
    "reader of objects": (
        of_class(ReaderConfig),
        [written(ReaderConfig(attributes={"shape": ("cone", "ball")}))],
        "config.json",
    ),
    "preprocessor": (
        lambda path: _normalization(path.read_text(errors="surrogateescape"), str(path)),
        [b'{"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}'],
        "preprocessor_config.json",
    ),
} | {name: symbols(name) for name in EXAMPLES}
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


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"text", "run", "state of a checkpoint"}))
def test_whole_documents_are_read(name, tmp_path):
    """So that damaged ones get past what is read first. Those left out need other files beside them."""
    read, documents, file = READERS[name]
    for number, document in enumerate(documents):
        path = tmp_path / str(number) / file
        path.parent.mkdir()
        path.write_bytes(document)
        read(path)


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
