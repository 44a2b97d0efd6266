"""The authors' files, damaged or made to harm: a user's error, never ours, and no memory for what is only claimed."""

import contextlib
import json
import shutil

import pytest
import tiny_hub
import torch
from hostile import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml4m_checkpoints import checkpoint, write
from safetensors.torch import load_file, save_file

from open4m.evaluate.published import ready_card
from open4m.hub.ml4m import source, table, tokenizer, transformer
from open4m.types import Open4MError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    owner = tiny_hub.make(root)
    write(root / "transformer", *checkpoint())
    return {
        "transformer": (root / "transformer", transformer.load),
        "rgb": (owner / table.tokenizer_of("rgb"), lambda path: tokenizer.load(path, "rgb")),
        "semseg": (owner / table.tokenizer_of("semseg"), lambda path: tokenizer.load(path, "semseg")),
    }


@pytest.mark.parametrize("name", ["transformer", "rgb", "semseg"])
@QUICK
@given(data=st.data())
def test_a_damaged_configuration_is_an_error_of_the_user(name, data, folders):
    folder, load = folders[name]
    path = folder / "config.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(whole)))
        load(folder)
    except Open4MError as error:
        if len(str(error)) > 2 * Open4MError.LONGEST:
            raise
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("transformer", {"dim": 1 << 30}),
        ("transformer", {"encoder_depth": 1 << 30}),
        ("transformer", {"num_register_tokens": 1 << 30}),
        ("transformer", {"domains_in": ["../../rgb"]}),
        ("rgb", {"n_channels": 1 << 30}),
        ("rgb", {"image_size": 1 << 30}),
        ("rgb", {"patch_size": 0}),
        ("rgb", {"patch_size": 1 << 30}),
        ("rgb", {"image_size": "448"}),
        ("rgb", {"n_labels": 1 << 30}),
        ("semseg", {"n_labels": 1 << 30}),
        ("semseg", {"n_labels": True}),
    ],
)
def test_no_memory_is_taken_for_sizes_that_are_only_claimed(name, change, folders, tmp_path):
    folder, load = folders[name]
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Open4MError, match="copy"):
        load(tmp_path / "copy")


@pytest.mark.parametrize("name", ["transformer", "rgb", "semseg"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 5, 7, 11)], ids=str)
def test_tensors_of_any_shape_are_an_error_of_the_user(name, shape, folders, tmp_path):
    folder, load = folders[name]
    tensors = load_file(folder / "model.safetensors")
    used = [victim for victim in tensors if not victim.endswith(("initted", "cluster_size"))]
    for victim in used[:: max(1, len(used) // 12)]:
        shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        save_file({**tensors, victim: torch.zeros(shape)}, tmp_path / "copy" / "model.safetensors")
        with pytest.raises(Open4MError, match="copy"):
            load(tmp_path / "copy")


@QUICK
@given(data=st.data())
def test_a_damaged_record_of_an_import_is_an_error_of_the_user(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "source"
    folder.mkdir(exist_ok=True)
    whole = {"format": 1, "name": "x", "settings": {"dim": 1}, "types": {"a": "float32"}, "weights": "", "equal": {}}
    (folder / source.FILE).write_bytes(data.draw(damaged(json.dumps(whole).encode())))
    with contextlib.suppress(Open4MError):
        source.restored(folder, {"a": torch.zeros(2)})


def test_a_card_that_is_no_text_is_not_published(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    with pytest.raises(Open4MError, match=r"README\.md: no text in UTF-8"):
        ready_card(tmp_path)
