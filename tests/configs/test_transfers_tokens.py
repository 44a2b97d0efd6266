"""The benchmark's transfers are those of the paper's E.1, with the settings of Tables 10 to 13."""

import dataclasses

import pytest

from open4m import configs, modalities
from open4m.cli.main import main
from open4m.configs.transfers_tokens import COLORED, CROPPED, DATA, DEVIATIONS, RESIZED, SCENES_TASKS, TASKS
from open4m.data.encoders import Output
from open4m.types import Open4MError

BY_NAME = {task.name: task for task in (*TASKS, *SCENES_TASKS)}
TASKONOMY, HYPERSIM = "taskonomy", "hypersim"


def test_there_are_35_in_five_groups():
    groups = [task.group for task in TASKS]
    assert len({task.name for task in TASKS}) == 35
    assert {group: groups.count(group) for group in groups} == {
        "COCO Det.": 1,
        "ADE20K Seg.": 1,
        "RGB→X": 10,
        "X→Y": 11,
        "X+Y→Z": 12,
    }
    sets = [(group, data) for group in ("RGB→X", "X→Y", "X+Y→Z") for data in (TASKONOMY, HYPERSIM)]
    assert [sum((t.group, t.data) == one for t in TASKS) for one in sets] == [7, 3, 6, 5, 6, 6]


# E.1 in its order; rgb_pixels is "RGB (pixels)", rgb "RGB (tokens)"
PAPER = {
    ("COCO Det.", "coco"): ["rgb_pixels → boxes"],
    ("ADE20K Seg.", "ade20k"): ["rgb_pixels → semseg"],
    ("RGB→X", TASKONOMY): [
        "rgb_pixels → depth",
        "rgb_pixels → curvature",
        "rgb_pixels → reshading",
        "rgb_pixels → occlusion_edges",
        "rgb_pixels → edges_2d",
        "rgb_pixels → keypoints_2d",
        "rgb_pixels → keypoints_3d",
    ],
    ("RGB→X", HYPERSIM): ["rgb_pixels → normals", "rgb_pixels → semseg", "rgb_pixels → edges_2d"],
    ("X→Y", TASKONOMY): [
        "curvature → keypoints_2d",
        "depth → normals",
        "edges_2d → depth",
        "normals → edges_2d",
        "occlusion_edges → curvature",
        "rgb → normals",
    ],
    ("X→Y", HYPERSIM): [
        "rgb → semseg",
        "edges_2d → semseg",
        "normals → semseg",
        "semseg → edges_2d",
        "semseg → normals",
    ],
    ("X+Y→Z", TASKONOMY): [
        "rgb_pixels + normals → depth",
        "rgb_pixels + depth → reshading",
        "reshading + keypoints_2d → normals",
        "edges_2d + keypoints_3d → rgb",
        "edges_2d + curvature → occlusion_edges",
        "occlusion_edges + keypoints_2d → curvature",
    ],
    ("X+Y→Z", HYPERSIM): [
        "rgb_pixels + depth → semseg",
        "rgb_pixels + normals → semseg",
        "rgb_pixels + semseg → depth",
        "depth + semseg → rgb",
        "keypoints_2d + normals → semseg",
        "edges_2d + depth → semseg",
    ],
}


def test_every_task_is_one_of_the_papers():
    found = {}
    for task in TASKS:
        found.setdefault((task.group, task.data), []).append(f"{' + '.join(task.inputs)} → {task.target}")
    assert found == PAPER


def test_deviations_are_those_of_table_15():
    expected = {"COCO Det.": 0.008, "ADE20K Seg.": 0.008, "RGB→X": 0.021, "X→Y": 0.018, "X+Y→Z": 0.016}
    assert {**expected, "average loss": 0.010} == DEVIATIONS


def test_groups_are_what_they_are_called():
    for task in TASKS:
        if task.group == "RGB→X":
            assert task.inputs == ("rgb_pixels",)
        if task.group in ("X→Y", "X+Y→Z"):
            assert len(task.inputs) == (1 if task.group == "X→Y" else 2)
            assert task.inputs != ("rgb_pixels",)
        assert all(modalities.is_known(key) for key in task.keys)
        assert modalities.get(task.target).family.has_vocabulary


# epochs, warm-up, frozen, frozen base rate, weight decay, evaluations every so many epochs
TABLES = {
    "coco-rgb_pixels-to-boxes": (100, 5, 0, None, 0.05, 2),
    "ade20k-rgb_pixels-to-semseg": (200, 20, 0, None, 0.5, 4),
    "taskonomy-rgb_pixels-to-curvature": (100, 5, 0, 1e-4, 0.05, 2),
    "hypersim-rgb_pixels-to-normals": (50, 2, 2, 1e-4, 0.05, 1),
    "taskonomy-normals-to-edges_2d": (100, 5, 25, 2e-3, 0.05, 2),
    "hypersim-keypoints_2d+normals-to-semseg": (50, 2, 20, 2e-3, 0.05, 1),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_settings_of_tables_10_to_13(name):
    epochs, warmup, frozen, frozen_lr, decay, every = TABLES[name]
    task = BY_NAME[name]
    assert (task.epochs, task.warmup_epochs, task.frozen_epochs, task.weight_decay) == (epochs, warmup, frozen, decay)
    assert frozen_lr in (None, task.frozen_lr)
    assert (task.base_lr, task.betas, task.batch_size, task.ema, task.clip) == (1e-4, (0.9, 0.999), 256, 0.998, None)
    assert task.epochs / task.evaluations == every


def test_augmentations_are_those_of_the_tables():
    assert BY_NAME["coco-rgb_pixels-to-boxes"].crops == RESIZED
    assert (RESIZED.resized, RESIZED.color > 0) == ((0.1, 2.0), True)
    assert (CROPPED.scale, CROPPED.ratio, CROPPED.color) == ((0.2, 1.0), (0.75, 4 / 3), 0)
    assert dataclasses.replace(COLORED, color=0.0) == CROPPED
    assert BY_NAME["ade20k-rgb_pixels-to-semseg"].crops == CROPPED
    for task in TASKS[2:]:
        if task.group == "RGB→X":
            colored = task.data == HYPERSIM
        else:  # "only if RGB is in the input", be it pixels or tokens
            colored = bool({"rgb", "rgb_pixels"} & {*task.inputs})
        assert task.crops == (COLORED if colored else CROPPED), task.name


@pytest.mark.parametrize("name", DATA)
def test_data_have_tokenizers_of_all_that_their_transfers_name(name):
    data = DATA[name]()
    assert data.name == name
    keys = {key for task in BY_NAME.values() if task.data == name for key in task.keys}
    assert {k for k in keys if modalities.get(k).family.has_codebook} == {*data.tokenizers}
    for run in data.tokenizers.values():
        (stage,) = run.stages
        assert (run.image_size, run.patch_size) == (data.image_size, 16)
        if not data.world:
            assert str(stage.train.length) == "1.5k epochs"
            assert str(stage.train.warmup) == "150 epochs"
            assert stage.crop_scale == (0.2, 1.0)
    assert set(data.max_length) == {k for k in keys if modalities.get(k).family.is_causal}
    assert data.max_length.get("boxes", 0) <= Output.max_length


def test_every_transfer_is_a_configuration_that_train_does_not_take(capsys):
    for name, task in BY_NAME.items():
        assert configs.get(f"transfer-{name}") == task
    assert main(["train", "transfer-coco-rgb_pixels-to-boxes"]) == 2
    assert "open4m benchmark transfers --tasks coco-rgb_pixels-to-boxes" in capsys.readouterr().err
    with pytest.raises(Open4MError, match="did you mean transfer-taskonomy-depth-to-normals"):
        configs.get("transfer-taskonomy-depth-normals")
