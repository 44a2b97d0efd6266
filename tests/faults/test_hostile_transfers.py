"""Saved transfers of others, and labelled data as nobody expects them: a user's error that says what is wrong, no
program that is run without trust, no memory for what is only claimed."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import model  # noqa: F401
from toy_labelled import Toy

from open4m import weights
from open4m.config import Duration
from open4m.datasets import labelled
from open4m.datasets.coco_files import mask_of
from open4m.datasets.labelled import scenes
from open4m.datasets.labelled.base import NoSplit
from open4m.train.config import TrainConfig
from open4m.transfer.augment import lists
from open4m.transfer.augment.mixing import Mixing
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.origin import open_origin
from open4m.transfer.recipe import EVALUATION, transfer
from open4m.transfer.transferred import HEAD_FILE, Transferred
from open4m.types import Open4MError

LAYERS = {"semseg": {"depth": 1, "channels": 4}, "depth": {"depth": 1, "channels": 4}, "maps": {"depth": 1}}


def config(kind, batch=2, head=None, **others):
    train = TrainConfig(length=Duration(1, "steps"), batch_size=batch, precision="fp32", workers=0, smoke_test=False)
    known = {"augment": lists.plain(8), "head": LAYERS.get(kind, {}) if head is None else head}
    return TransferConfig(kind=kind, train=train, **{**known, **others})


@pytest.fixture(scope="module")
def start(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "model"
    request.getfixturevalue("model").save(folder)
    return folder


@pytest.fixture(scope="module")
def saved(start, tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelled, "open_split", lambda root, split, name="", label="": Toy.open(root, split, label))
        transfer(config("semseg", test_samples=2, evaluate_samples=2), str(start), root, root / "run")
    return root / "run" / "model"


@pytest.fixture
def copy(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    (folder / "sha256.json").unlink()  # who means harm makes it anew
    return folder


def edit(folder, change):
    path = folder / weights.CONFIG
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("how", ["absolute", "relative"])
@pytest.mark.parametrize("trust", [False, True])
def test_fault_21_a_file_that_a_saved_transfer_names_is_never_run(how, trust, copy, tmp_path, monkeypatch):
    program = tmp_path / "elsewhere.py"
    program.write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nfrom open4m.transfer.heads.semseg import HEAD\n")
    monkeypatch.chdir(copy)
    edit(copy, lambda c: c.update(kind=str(program) if how == "absolute" else "../elsewhere.py"))
    with pytest.raises(Open4MError, match=r"kind: expected classification, .* or head.py, got"):
        Transferred.from_pretrained(copy, trust=trust)
    with pytest.raises(Open4MError, match="kind: expected"):
        open_origin(copy, BackboneConfig())
    assert not (tmp_path / "mark").exists()


def test_fault_21_a_transfer_begins_with_the_encoder_of_another_and_does_not_run_its_head(copy, tmp_path):
    (copy / HEAD_FILE).write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    edit(copy, lambda c: c.update(kind=HEAD_FILE, head={"anything": 1}))
    with pytest.raises(Open4MError, match="--trust"):
        Transferred.from_pretrained(copy)
    found = open_origin(copy, BackboneConfig()).make()
    assert found.width == 32
    assert not (tmp_path / "mark").exists()


CLAIMED = {
    "side": lambda c: c["place"]["steps"][0].update(side=1 << 20),
    "size of another": lambda c: c.update(image_size=10**9),
    "size without patches": lambda c: (c.update(image_size=9), c["place"]["steps"][0].update(side=9)),
    "no grid": lambda c: c["encoder"].update(image_size=1),
    "no inputs": lambda c: c["encoder"].update(inputs=[]),
    "inputs twice": lambda c: c["encoder"].update(inputs=2 * c["encoder"]["inputs"]),
    "no names": lambda c: c.update(names=[]),
    "names twice": lambda c: c.update(names=["rgb", "rgb"]),
    "pooling": lambda c: c.update(pooling="x"),
    "layers": lambda c: c["encoder"]["architecture"].update(encoder_depth=10**9),
    "width": lambda c: c["encoder"]["architecture"].update(dim=1 << 20),
    "channels": lambda c: c["head"].update(channels=1 << 20, finer=4),
    "more than numbers hold": lambda c: c["head"].update(channels=1 << 20, finer=1 << 20),
    "classes": lambda c: c.update(classes=["a", "b"]),
}


@pytest.mark.parametrize("change", CLAIMED.values(), ids=CLAIMED)
def test_fault_22_sizes_that_a_saved_transfer_only_claims_are_refused(change, copy):
    edit(copy, change)
    with pytest.raises(Open4MError):
        Transferred.from_pretrained(copy)


@pytest.mark.parametrize(("how", "words"), [("missing", "missing: "), ("shape", "has shape"), ("nan", "not finite")])
def test_fault_23_tensors_of_a_saved_transfer_are_all_there_and_finite(how, words, copy):
    tensors = load_file(copy / weights.WEIGHTS)
    name = "backbone.modality"
    changed = {"missing": None, "shape": torch.zeros(5, 32), "nan": tensors.pop(name) * torch.nan}[how]
    save_file(tensors | ({} if changed is None else {name: changed}), copy / weights.WEIGHTS)
    for read in (Transferred.from_pretrained, lambda folder: open_origin(folder, BackboneConfig())):
        with pytest.raises(Open4MError, match=words):
            read(copy)


def test_fault_8_a_changed_head_file_is_noticed_before_it_is_run(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    (folder / HEAD_FILE).write_text("raise SystemExit\n")
    sums = json.loads((folder / "sha256.json").read_text())
    (folder / "sha256.json").write_text(json.dumps({**sums, HEAD_FILE: "0" * 64}))
    with pytest.raises(Open4MError, match=r"head\.py: the content is not what"):
        Transferred.from_pretrained(folder, trust=True)


# ---- labelled data


def run(monkeypatch, start, folder, settings, change=None, counts=None):
    """A transfer of one step on toy examples that are changed."""

    class Odd(Toy):
        def __getitem__(self, index):
            return {**super().__getitem__(index), **(change or {})}

    def opened(root, split, name="", label=""):
        count = {"train": 4, "validation": 3, **(counts or {})}.get(split)
        if count is None:
            raise NoSplit("no such split")
        return Odd(count, {"train": 0, "validation": 1, "test": 2}[split])

    monkeypatch.setattr(labelled, "open_split", opened)
    return transfer(settings, str(start), folder, folder / "run")


MAP = np.zeros((32, 32), np.float32)
WRONG = {
    "segments beyond": (config("semseg"), {"semseg": np.full((32, 32), 77, np.uint8)}, r"toy-.*: semseg: .*got 77"),
    "negative segments": (config("semseg"), {"semseg": np.full((32, 32), -1)}, r"semseg: .*got -1"),
    "label beyond": (config("classification"), {"label": 7}, r"label: .*from 0 to 2, got 7"),
    "label that is no class": (config("classification"), {"label": 0.5}, r"label: .*got float64"),
    "depth of two kinds": (config("depth"), {"depth": MAP[..., None]}, r"expected maps \(H, W\)"),
    "more channels": (config("maps"), {"edges": np.stack([MAP] * 3, -1)}, r"head.outputs: edges has 3 channels, got 1"),
    "fewer channels": (config("maps", head={"depth": 1, "outputs": 3}), {"edges": MAP}, "edges has 1 channels, got 3"),
    "batch norm of one": (config("classification", 1, {"norm": "batch"}), {}, "from two images at least"),
    "mixed segments": (
        config("semseg", augment=dataclasses.replace(lists.plain(8), mixing=Mixing())),
        {},
        r"augment\.mixing: mixes labels",
    ),
    "unknown input": (config("semseg", backbone=BackboneConfig(inputs=("nope",))), {}, "does not read nope"),
    "sequence": (config("semseg", backbone=BackboneConfig(inputs=("caption",))), {}, "caption have no places"),
    "rank": (config("semseg", backbone=BackboneConfig(tune="lora", lora_rank=1 << 20)), {}, "32 at most, the width"),
    "sizes": (config("semseg", head={"channels": 1 << 20, "finer": 1 << 20}), {}, "sizes that no network can have"),
}


@pytest.mark.parametrize(("settings", "change", "words"), WRONG.values(), ids=WRONG)
def test_fault_17_what_a_head_cannot_learn_is_named(settings, change, words, start, tmp_path, monkeypatch):
    with pytest.raises(Open4MError, match=words):
        run(monkeypatch, start, tmp_path, settings, change)


def test_fault_17_settings_of_encoders_that_make_no_sense_are_named():
    with pytest.raises(Open4MError, match="rgb is named twice"):
        BackboneConfig(inputs=("rgb", "rgb"))
    with pytest.raises(Open4MError, match="lora_rank: expected 1 at least"):
        BackboneConfig(tune="lora", lora_rank=0)


UNKNOWN = {
    "semseg": {"semseg": np.full((32, 32), 255, np.uint8)},
    "depth": {"depth": np.full((32, 32), np.nan, np.float32)},
    "maps": {"edges": np.full((32, 32), np.nan, np.float32)},
}


def strictly(path):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.filterwarnings("error:Mean of empty slice", "error:All-NaN", "error:invalid value")
@pytest.mark.parametrize("kind", UNKNOWN)
def test_fault_16_data_without_any_label_have_figures_that_are_null(kind, start, tmp_path, monkeypatch):
    found = run(monkeypatch, start, tmp_path, config(kind), UNKNOWN[kind])
    assert np.isnan(list(found.figures.values.values())).all()
    written = strictly(tmp_path / "run" / EVALUATION)
    assert set(written["figures"]["values"].values()) == {None}
    again = run(monkeypatch, start, tmp_path, config(kind), UNKNOWN[kind])
    assert np.isnan(again.figures.values[again.main])
    losses = [line["loss"] for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").open()) if "loss" in line]
    assert not np.any(losses)


@pytest.mark.parametrize("damage", [lambda t: t[: len(t) // 2], lambda t: "", lambda t: "{}", lambda t: "[1]"])
def test_fault_8_damaged_figures_of_a_run_are_measured_again(damage, start, tmp_path, monkeypatch):
    before = run(monkeypatch, start, tmp_path, config("semseg"))
    path = tmp_path / "run" / EVALUATION
    text = path.read_text()
    path.write_text(damage(text))
    assert run(monkeypatch, start, tmp_path, config("semseg")) == before
    assert path.read_text() == text


def test_splits_without_examples_are_named_or_not_measured(start, tmp_path, monkeypatch):
    with pytest.raises(Open4MError, match="no validation examples"):
        run(monkeypatch, start, tmp_path, config("classification"), counts={"validation": 0})
    with pytest.raises(Open4MError, match="no training examples"):
        run(monkeypatch, start, tmp_path, config("classification"), counts={"train": 0})
    found = run(monkeypatch, start, tmp_path, config("classification"), counts={"test": 0})
    assert (found.split, found.samples) == ("validation", 3)


def test_an_outline_that_runs_to_and_fro_far_away_takes_no_memory():
    zigzag = [[-1e6, -1e6, 1e6, 1e6] * 2000]
    with pytest.raises(ValueError, match="steps, at most"):
        mask_of(zigzag, (8, 8))
    assert mask_of([[-1e6, -1e6, 1e6, -1e6, 1e6, 1e6]], (8, 8)).any()  # one large triangle is none of these


@pytest.mark.parametrize("seed", range(20))
def test_fault_8_a_damaged_rendered_scene_is_named_and_says_how_to_get_it_again(seed, tmp_path):
    scenes.make(tmp_path, train=1, validation=1, test=1, image_size=16)
    data = scenes.LABELLED.open(tmp_path, "train")
    whole = data[0]["rgb"]
    path = next(tmp_path.rglob("*.npz"))
    draw, content = np.random.default_rng(seed), bytearray(path.read_bytes())
    if seed % 2:
        content = content[: int(draw.integers(len(content)))]
    else:
        content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
    path.write_bytes(bytes(content))
    with contextlib.suppress(Open4MError):
        np.testing.assert_array_equal(data[0]["rgb"], whole)  # a bit that means nothing, such as a date
        return
    with pytest.raises(Open4MError, match=rf"{path.name}: not readable .* delete it"):
        data[0]


OTHERS = {
    "none": {},
    "another size": {"rgb": np.zeros((8, 8, 3), np.uint8)},
    "another type": {"depth": np.zeros((16, 16), np.int32)},
    "wider numbers": {"rgb": np.zeros((16, 16, 3), np.uint16)},
    "bytes of another machine": {"depth": np.ones((16, 16), ">f4")},
    "no such class": {"shapes": np.array([99], np.int16)},
    "program": {"rgb": np.array([{"a": 1}], dtype=object)},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_fault_21_other_arrays_than_those_of_a_scene_are_refused(change, tmp_path):
    scenes.make(tmp_path, train=1, validation=1, test=1, image_size=16)
    data = scenes.LABELLED.open(tmp_path, "train")
    data[0]
    path = next(tmp_path.rglob("*.npz"))
    arrays = dict(np.load(path)) | change if change else {}
    np.savez(path, **arrays)
    with pytest.raises(Open4MError, match="delete it to have it rendered again"):
        data[0]
