"""Pretrained models are read from safe files alone, and what cannot be read is one line that says what to do."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import glpn, segformer

from open4m import labellers
from open4m.labellers.checkpoints import Checkpoint, check_config
from open4m.labellers.depth import DepthLabeller
from open4m.types import Open4MError

pytestmark = pytest.mark.xdist_group("networks")


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_refused_and_not_run(tmp_path):
    folder = glpn(tmp_path / "network")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(Open4MError, match=r"^[^\n]*expected DepthEstimation with weights as model\.safetensors[^\n]*$"):
        DepthLabeller.load(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Marker(tmp_path / "marker")))
    with pytest.raises(Open4MError, match=r"model\.safetensors"):
        DepthLabeller.load(str(folder))
    assert not (tmp_path / "marker").exists()


def test_code_of_a_model_is_not_run(tmp_path):
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    with pytest.raises(Open4MError, match=r"expected config\.json of a network that transformers knows"):
        DepthLabeller.load(str(folder))
    assert not (tmp_path / "marker").exists()


def test_incomplete_damaged_and_other_networks_are_refused(tmp_path):
    folder = glpn(tmp_path / "network")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "head" in name)
    save_file({n: t for n, t in weights.items() if n != name}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Open4MError, match=rf"weights are missing.*{name}"):
        DepthLabeller.load(str(folder))
    broken = {**weights, name: torch.full_like(weights[name], torch.inf)}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Open4MError, match=rf"tensors hold numbers that are not finite, {name}"):
        DepthLabeller.load(str(folder))
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(Open4MError, match="expected DepthEstimation"):
        DepthLabeller.load(str(folder))
    with pytest.raises(Open4MError, match="a segformer network, expected one of DepthEstimation"):
        DepthLabeller.load(str(segformer(tmp_path / "other")))


def test_a_name_is_a_folder_a_download_or_a_name_on_the_hub(tmp_path, monkeypatch):
    with pytest.raises(Open4MError, match="no such folder"):
        DepthLabeller.load(str(tmp_path / "a" / "b" / "missing"))
    glpn(tmp_path / "owner" / "model")
    monkeypatch.setenv("OPEN4M_HUB", str(tmp_path))
    assert Checkpoint("owner/model").folder == tmp_path / "owner" / "model"
    asked = []

    def refuse(name, **options):
        asked.append((name, options["revision"], options["allow_patterns"]))
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    message = r"not downloaded.*no network.*hf download nobody/model --revision v2 --local-dir FOLDER"
    with pytest.raises(Open4MError, match=message):
        Checkpoint("nobody/model", "v2").config()
    ((name, revision, patterns),) = asked
    assert (name, revision) == ("nobody/model", "v2")
    assert not any(pattern.endswith(("bin", "py", "pt", "*")) for pattern in patterns)


def test_the_commit_of_a_download_is_known(tmp_path):
    folder = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    assert (Checkpoint(str(folder)).commit, Checkpoint(str(tmp_path)).commit) == ("0123abc", "")


def test_without_transformers_the_error_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Open4MError, match=r"open4m\[labellers\]"):
        Checkpoint(str(tmp_path)).config()


def test_modalities_find_their_labellers():
    assert labellers.named("canny_edge", "100,200") == ("canny", "100,200")
    assert labellers.named("boxes", "reader:folder") == ("reader", "folder")
    assert labellers.named("caption", "labels.py:mine") == ("functions", "labels.py:mine")
    with pytest.raises(Open4MError, match=r"sam_edge: no labeller makes it; write a function .*sam_edge=labels\.py"):
        labellers.named("sam_edge", "x/y")
    with pytest.raises(Open4MError, match="boxes: name the network that makes it"):
        labellers.named("boxes", "")


def test_names_of_classes_are_no_fields():
    check_config({"label2id": {"cd players": 5000, "depth gauge": 10**9}, "num_hidden_layers": 12}, "config.json")
    with pytest.raises(Open4MError, match="num_hidden_layers is 5000, at most 1024"):
        check_config({"text_config": {"num_hidden_layers": 5000}}, "config.json")


def test_attention_of_a_downloaded_program_is_refused(tmp_path):
    folder = glpn(tmp_path / "model")
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"attn_implementation": "owner/kernel"}))
    with pytest.raises(Open4MError, match="asks for attention by 'owner/kernel', which would be downloaded and run"):
        DepthLabeller.load(str(folder))
    path.write_text(json.dumps(stored | {"depths": [1, 10**9]}))
    with pytest.raises(Open4MError, match="depths is 1000000000, at most 1024 is read"):
        DepthLabeller.load(str(folder))
