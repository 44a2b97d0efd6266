"""``open4m import``: a checkpoint of the authors becomes a model directory. What is said of a generated value."""

import errno

import huggingface_hub
import pytest
import safetensors.torch
import torch
from ml4m_checkpoints import checkpoint, write
from safetensors import SafetensorError

from open4m import checksums, weights
from open4m.cli import main
from open4m.generate import outputs
from open4m.generate.pipeline import FourM
from open4m.hub.ml4m import source as origins
from open4m.hub.ml4m import transformer
from open4m.types import Boxes


@pytest.mark.parametrize("source", ["directory", "file", "name"])
def test_import_writes_an_ordinary_directory(source, tmp_path, monkeypatch, capsys):
    settings, tensors = checkpoint()
    path = write(tmp_path / "theirs.safetensors", settings, tensors, header=source == "file")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: {"owner/model": str(path)}[name])
    out = tmp_path / "deep" / "ours"
    assert main.main(["import", "owner/model" if source == "name" else str(path), str(out)]) == 0
    expected, found = transformer.load(path), FourM.from_pretrained(out)
    assert found.config == expected.config
    state = found.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.weights.items())
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(expected.names)] == [
        "rgb@224 -> rgb_pixels: pixels, 3×3 tokens, 3 channels, input",
        "caption -> caption: sequence, up to 256 tokens, 13 entries, input and target",
        "det -> boxes: sequence, up to 256 tokens, 13 entries, input and target",
        "t5_caption -> t5_caption: vectors, up to 77 tokens, 6 channels, input",
        "tok_clip@224 -> clip: grid, 2×2 tokens, 6 entries, input",
        "tok_rgb@224 -> rgb: grid, 2×2 tokens, 7 entries, input and target",
        "tok_rgb@448 -> rgb@448: grid, 4×4 tokens, 7 entries, input and target",
        "tok_dinov2_global -> dinov2_global: grid, 4×4 tokens, 9 entries, input and target",
        "tok_depth@224 -> depth: grid, 3×3 tokens, 5 entries, target",
    ]
    assert "not needed: decoder_embeddings.tok_rgb@224.token_emb.weight, " in lines[-2]
    assert lines[-2].endswith("; repeated: none")
    assert lines[-1] == str(out)


def test_an_import_has_a_card(tmp_path, capsys):
    settings, tensors = checkpoint(tied=True)
    absent, kept = (f"decoder_embeddings.caption.{part}.weight" for part in ("token_emb", "to_logits"))
    del tensors[absent]
    path, out = write(tmp_path / "theirs", settings, tensors), tmp_path / "ours"
    out.mkdir()
    assert main.main(["import", str(path), str(out)]) == 0
    assert f"; repeated: {absent} (by {kept})\n" in capsys.readouterr().out
    card = (out / weights.CARD).read_text()
    for part in (
        f"`{path}`",
        "| det | boxes |",
        "| tok_rgb@448 | rgb@448 |",
        f"the same: {absent} (by {kept})",
        "kept for exports alone: decoder_embeddings.tok_rgb@224.token_emb.weight, ",
        "float32",
    ):
        assert part in card
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [weights.CARD, weights.CONFIG, weights.WEIGHTS, origins.FILE, origins.KEPT, checksums.FILE]
    )


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
def test_an_import_that_cannot_be_written_leaves_nothing(error, tmp_path, capsys, monkeypatch):
    path, out = write(tmp_path / "theirs", *checkpoint()), tmp_path / "ours"

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", fail)
        assert main.main(["import", str(path), str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"open4m: {out}/")
    assert message.endswith("; nothing was kept\n")
    assert "No space left" in message
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
    assert main.main(["import", str(path), str(out)]) == 0


def test_import_does_not_replace_the_current_directory(tmp_path, capsys, monkeypatch):
    path, here = write(tmp_path / "theirs", *checkpoint()), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main.main(["import", str(path), "."]) == 2
    assert ".: a mount or the current directory" in capsys.readouterr().err
    assert main.main(["import", str(path), "ours"]) == 0


def test_import_overwrites_nothing(tmp_path, capsys):
    path, out = write(tmp_path / "theirs", *checkpoint()), tmp_path / "ours"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for taken in (out, tmp_path / "file", path):
        assert main.main(["import", str(path), str(taken)]) == 2
        assert capsys.readouterr().err == f"open4m: {taken}: exists and is not empty; name another directory\n"
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_a_failed_import_says_why_in_one_line_and_writes_nothing(tmp_path, capsys):
    settings, tensors = checkpoint()
    del tensors["mask_token"]
    out = tmp_path / "ours"
    ours = tmp_path / "other"
    FourM(FourM.from_pretrained(write(tmp_path / "good", *checkpoint())).model, {}, None).save(ours)
    (ours / weights.CONFIG).write_text("{}")
    for source, message in (
        (write(tmp_path / "theirs", settings, tensors), "missing: mask_token; unexpected: none"),
        (ours, "not a 4M transformer of the authors"),
        (tmp_path / "none", "neither a directory, nor a safetensors file"),
    ):
        assert main.main(["import", str(source), str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()
    (ours / weights.CONFIG).unlink()
    assert main.main(["import", str(ours), str(out)]) == 2
    assert "not a 4M transformer of the authors" in capsys.readouterr().err


def test_a_directory_of_ours_is_copied_as_it_is(tmp_path, capsys):
    ours, out = tmp_path / "other", tmp_path / "copy"
    FourM(FourM.from_pretrained(write(tmp_path / "good", *checkpoint())).model, {}, None).save(ours)
    (ours / "plans.json").write_text("{}")
    assert main.main(["import", str(ours), str(out), "--alone"]) == 2
    assert "leave out --alone" in capsys.readouterr().err
    assert main.main(["import", str(ours), str(out)]) == 0
    held = {p.relative_to(ours): p.read_bytes() for p in ours.rglob("*") if p.is_file()}
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == held


def test_generated_boxes_are_said_to_be_malformed():
    box = [0, 0, 1, 1]
    for value, words in (
        ("a cat", ": a cat"),
        (Boxes([], []), ": 0 boxes"),
        (Boxes([box], ["cat"]), ": 1 box"),
        (Boxes([box] * 2, ["cat"] * 2, malformed=3), ": 2 boxes, 3 malformed"),
        (torch.zeros(2), ""),
    ):
        assert outputs.summary(value) == words
