"""Pretrained directories: what is missing or wrong in one is said."""

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file

from open4m import files, weights
from open4m.hub import locate
from open4m.hub.ml4m import files as ml4m_files
from open4m.types import Open4MError


def make_model(seed=0, width=4):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width))


def test_weights_survive_a_file_bit_for_bit(tmp_path):
    model, other = make_model(), make_model(1)
    weights.save_weights(tmp_path / "w", model)
    weights.load_weights(tmp_path / "w", other)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_half_precision_files_are_smaller_and_widened_when_read(tmp_path):
    model, other = make_model(), make_model(1)
    weights.save_weights(tmp_path / "w", model, half=True)
    weights.load_weights(tmp_path / "w", other)
    assert other[0].weight.dtype == torch.float32
    assert torch.equal(other[0].weight, model[0].weight.bfloat16().float())
    assert other[1].num_batches_tracked.dtype == torch.int64


def test_other_tensors_than_the_models_are_refused(tmp_path):
    tensors = make_model().state_dict()
    path = tmp_path / "model.safetensors"
    save_file({"extra": torch.zeros(1), **{k: v for k, v in tensors.items() if k != "0.bias"}}, path)
    with pytest.raises(Open4MError, match=r"missing: 0\.bias; unexpected: extra"):
        weights.load_weights(path, make_model())
    save_file(make_model(width=5).state_dict(), path)
    with pytest.raises(Open4MError, match=r"0\.bias has shape \(5,\), expected \(4,\)"):
        weights.load_weights(path, make_model())


def test_damaged_and_missing_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(Open4MError, match=r"model\.safetensors: no such file"):
        weights.load_weights(path, make_model())
    weights.save_weights(path, make_model())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Open4MError, match=r"model\.safetensors: not readable"):
        weights.load_weights(path, make_model())


def test_directories_are_resolved_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(Open4MError, match=r"nothing: neither a directory, nor .* shipped model .*none are installed"):
        locate.resolve("nothing")
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(Open4MError, match=r"it has no config\.json and no model\.safetensors"):
        locate.resolve(own)
    (own / weights.CONFIG).write_text("{}")
    with pytest.raises(Open4MError, match=r"it has no model\.safetensors"):
        locate.resolve(own)
    (own / weights.WEIGHTS).write_bytes(b"")
    assert locate.resolve(str(own)) == own
    shipped = tmp_path / "shipped" / "small"
    shipped.mkdir(parents=True)
    (shipped / weights.CONFIG).write_text("{}")
    assert locate.shipped() == ["small"]
    assert locate.resolve("small") == shipped


def test_a_safetensors_file_is_a_model_and_other_files_are_not(tmp_path):
    for name in ("model.safetensors", "model.bin"):
        (tmp_path / name).write_bytes(b"")
    assert locate.resolve(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
    with pytest.raises(Open4MError, match=r"model\.bin: neither a directory, nor a safetensors file"):
        locate.resolve(tmp_path / "model.bin")


def test_a_name_on_the_hub_is_downloaded_unless_it_is_a_directory_here(tmp_path, monkeypatch):
    downloaded, calls = tmp_path / "cache", []
    downloaded.mkdir()
    for name in (weights.CONFIG, weights.WEIGHTS):
        (downloaded / name).write_bytes(b"")

    def download(name, allow_patterns):
        calls.append((name, allow_patterns))
        return str(downloaded)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert locate.resolve("owner/4M-7_B.v1") == downloaded
    assert calls == [("owner/4M-7_B.v1", locate.PATTERNS)]
    kept = {"config.json", "model.safetensors", "README.md", "tokenizers/*", "modalities/*.py", "super_resolution/*"}
    assert kept | {"*.json", "LICENSE*", "source.safetensors"} == {*locate.PATTERNS}  # and nothing that is run
    local = tmp_path / "owner" / "4M-7_B.v1"
    local.parent.mkdir()
    downloaded.rename(local)
    assert locate.resolve("owner/4M-7_B.v1").resolve() == local
    for name in ("a/b/c", "other/", "other/a b"):
        with pytest.raises(Open4MError, match="neither a directory"):
            locate.resolve(name)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "failure",
    [
        LocalEntryNotFoundError("offline\nmore"),
        HFValidationError("offline"),
        OSError("offline"),
        HfHubHTTPError.__base__("offline"),  # of the library by which the hub's client connects
    ],
)
def test_a_download_that_fails_is_a_mistake_with_a_reason(failure, monkeypatch):
    def download(name, **_):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(Open4MError, match=r"owner/model: not a directory here, and not .* from the hub \(offline\)"):
        locate.resolve("owner/model")


def test_what_was_downloaded_must_be_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    with pytest.raises(Open4MError, match=r"it has no config\.json and no model\.safetensors"):
        locate.resolve("owner/model")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    def write(folder, whole):
        folder.mkdir()
        (folder / weights.CONFIG).write_text("{}")
        if not whole:
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        files.write_folder(tmp_path / "model", lambda folder: write(folder, False))
    assert not list(tmp_path.iterdir())
    files.write_folder(tmp_path / "model", lambda folder: write(folder, True))
    assert [path.name for path in tmp_path.rglob("*")] == ["model", weights.CONFIG]


def test_settings_in_a_header_are_literals_or_json_and_names_with_a_dot_are_none(tmp_path):
    header = {
        "a": "True",
        "b": "true",
        "c": "None",
        "d": "null",
        "e": "[1, 'x']",
        "f": '{"y": false}',
        "g": "SiLU",
        "h": "4.0",
        "out.weight": "in.weight",
        "none.weight": "unknown",
    }
    save_file({"in.weight": torch.ones(2).half()}, tmp_path / "m.safetensors", header)
    expected = {"a": True, "b": True, "c": None, "d": None, "e": [1, "x"], "f": {"y": False}, "g": "SiLU", "h": 4.0}
    assert ml4m_files.read_settings(tmp_path / "m.safetensors") == expected
    stored = ml4m_files.read_tensors(tmp_path / "m.safetensors")
    assert stored.repeated == {"out.weight": "in.weight"}
    assert stored.tensors.keys() == stored.rounding.keys() == {"in.weight", "out.weight"}
    assert set(stored.rounding.values()) == {2**-11}
    assert all(tensor.dtype == torch.float32 for tensor in stored.tensors.values())


def test_the_folder_of_a_run_stands_for_its_model(tmp_path):
    (tmp_path / "model").mkdir()
    for name in (locate.CONFIG, locate.WEIGHTS):
        (tmp_path / "model" / name).touch()
    assert locate.resolve(tmp_path) == tmp_path / "model"
    (tmp_path / "model" / locate.WEIGHTS).unlink()
    with pytest.raises(Open4MError, match=r"not a model directory, it has no config\.json and no model\.safetensors$"):
        locate.resolve(tmp_path)


def test_a_tokenizer_that_is_not_there_names_those_that_are(tmp_path):
    for folder in ("tokenizers/depth/model", "tokenizers/rgb"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / weights.WEIGHTS).touch()
    asked = tmp_path / "tokenizers" / "depht"
    there = f"there are {asked.parent / 'depth'}, {asked.parent / 'rgb'}$"
    with pytest.raises(Open4MError, match=f"^{asked}: neither the folder of a tokenizer nor MODEL/MODALITY.*{there}"):
        locate.resolve_tokenizer(asked)
    with pytest.raises(Open4MError, match=r"has no tokenizer 'depht' .*scenes/depth"):
        locate.resolve_tokenizer("scenes/depht")
