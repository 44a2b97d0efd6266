"""A trained model learns a user's modality: all stages, again, and what they keep."""

import json

import numpy as np
import pytest
import torch
from addition_data import OLD, OUTLINES, TITLE, value, write_raw
from safetensors.torch import load_file

from open4m import FourM, modalities
from open4m.add_modality.stages import adopt
from open4m.cli.main import main
from open4m.types import Open4MError

SHORT = (
    "batch_size=4",
    "tokenizer_length=3 steps",
    "warmup_length=3 steps",
    "length=3 steps",
    "lr=1e-2",
    "compared=6",
    "budget=24",
    "warmup.train.smoke_test=false",
    "pretrain.train.smoke_test=false",
    "tokenizers.outlines.stages.0.train.smoke_test=false",
)


def add(old, raw, out, *words, file=OUTLINES):
    options = ["--modality", str(file), "--data", str(raw), "--out", str(out), "--device", "cpu"]
    return main(
        [
            "add-modality",
            str(old),
            *words,
            *options,
            *(word for word in SHORT if file.stem in word or "tokenizers." not in word),
        ]
    )


@pytest.fixture(scope="module")
def run(old, raw, tmp_path_factory):
    """A finished addition."""
    out = tmp_path_factory.mktemp("added") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modalities, "_registered", {})
        patch.setattr(modalities, "_carried", {})
        patch.setenv(modalities.FOLDERS_VARIABLE, "")
        assert add(old, raw, out) == 0
    return out


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_the_result_is_an_ordinary_model_that_generates_the_new_modality(run, old):
    with pytest.raises(Open4MError, match="was trained on outlines, which is not known here"):
        FourM.from_pretrained(run)
    model = FourM.from_pretrained(run, trust=True)
    result = model.generate({"rgb": value("rgb", 3)}, ["outlines", "depth"], seed=1)
    assert (result["outlines"].shape, result["outlines"].dtype) == ((32, 32), np.uint8)
    assert model.generate({"outlines": result["outlines"]}, ["caption"], seed=1)["caption"] is not None
    before = FourM.from_pretrained(old)
    assert model.config.keys == [*before.config.keys, "outlines"]
    for key in before.grids:  # tokens mean what they meant
        assert model.grids[key].fingerprint == before.grids[key].fingerprint
    assert model.text.fingerprint == before.text.fingerprint
    assert not model.config.spec("normals").is_input


def test_the_warm_up_changes_embeddings_of_the_new_modality_alone(run, old):
    before, warm = weights_of(old), weights_of(run / "warmup" / "model")
    assert warm.keys() == before.keys()
    for name, tensor in before.items():
        if not name.startswith("embeddings."):
            assert torch.equal(tensor, warm[name])
    after = weights_of(run / "4m" / "model")
    assert not torch.equal(after["encoder.0.mlp.down.weight"], warm["encoder.0.mlp.down.weight"])


def test_losses_of_old_modalities_are_compared_on_the_same_masks(run):
    """After the warm-up they are what they were, to the bit: nothing else can have changed them."""
    found = json.loads((run / "comparison.json").read_text())
    names = {name for name in found["losses"]["before"] if name.split("/")[0] in ("all_to_all", "rgb_to_all")}
    assert len(names) > 6
    for name in names:
        assert found["losses"]["warm"][name] == found["losses"]["before"][name]
    assert {*found["before"]} == {*OLD} == {*found["after"]}
    assert any(found["after"][key] != found["before"][key] for key in found["before"])
    assert found["new"]["uniform"] == pytest.approx(np.log(64))
    assert 0 < found["new"]["unigram"] < found["new"]["uniform"]


def test_finished_stages_are_skipped(run, old, raw, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert add(old, raw, run) == 0
    out = capsys.readouterr().out
    assert "| **outlines** |" in out
    assert "| rgb |" in out
    assert out.splitlines()[-1] == str(run / "model")
    changed = [p for p, time in before.items() if p.stat().st_mtime_ns != time and p.parent.name != "modalities"]
    assert changed == []


def test_stages_one_by_one_give_the_same_model(run, old, raw, tmp_path):
    for stage in ("tokenizers", "tokenize", "warmup", "train", "assemble"):
        assert add(old, raw, tmp_path / "run", "--only", stage) == 0
    whole, parts = weights_of(run / "model"), weights_of(tmp_path / "run" / "model")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_another_program_or_setting_is_another_run(run, old, raw, tmp_path, capsys):
    changed = tmp_path / "outlines.py"
    changed.write_text(OUTLINES.read_text() + "\n# changed\n")
    assert add(old, raw, run, file=changed) == 2
    assert "program" in capsys.readouterr().err
    assert add(old, raw, run, "share=0.5", file=changed) == 2


def test_a_sequence_is_made_by_a_function_of_the_user(old, tmp_path, capsys):
    """Labels, and the model's own text tokenizer."""
    root = write_raw(tmp_path / "raw", OLD)
    (tmp_path / "title.py").write_text(TITLE)
    (tmp_path / "labels.py").write_text(
        'import open4m\n\n\n@open4m.labeller("title")\ndef name(image):\n    return "a cube"\n'
    )
    words = ("--labeller", str(tmp_path / "labels.py"))
    assert add(old, root, tmp_path / "run", *words, file=tmp_path / "title.py") == 2
    assert "--trust-labellers" in capsys.readouterr().err
    assert add(old, root, tmp_path / "run", *words, "--trust-labellers", file=tmp_path / "title.py") == 0
    model = FourM.from_pretrained(tmp_path / "run")  # known in this process
    assert isinstance(model.generate({"rgb": value("rgb", 3)}, ["title"], seed=1)["title"], str)


@pytest.mark.slow
def test_adapters_instead_of_all_weights(old, raw, tmp_path):
    """Fields of the whole configuration can be given too."""
    words = ("pretrain.trainable.encoder=0", "pretrain.trainable.decoder=0", "pretrain.trainable.lora.rank=2")
    assert add(old, raw, tmp_path / "run", *words, "pretrain.trainable.embeddings=outlines") == 0
    before, after = weights_of(tmp_path / "run" / "warmup" / "model"), weights_of(tmp_path / "run" / "4m" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "encoder.0.mlp.down.weight" in changed
    assert not any("norm" in name or "mask_token" in name for name in changed)


def test_a_file_is_known_once(tmp_path):
    assert adopt(str(OUTLINES)) == adopt(str(OUTLINES)) == "outlines"
    assert adopt("depth") == "depth"
    other = tmp_path / "outlines.py"
    other.write_text(OUTLINES.read_text() + "\n")
    with pytest.raises(Open4MError, match="another modality is called outlines"):
        adopt(str(other))
    with pytest.raises(Open4MError, match="no such file; expected the file of a modality"):
        adopt(str(tmp_path / "none.py"))
