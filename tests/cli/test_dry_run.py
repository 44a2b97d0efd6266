"""``open4m train --dry-run`` (``cli/dry_run.py``): what it prints, also of a part that is trained."""

import pytest

from open4m.cli.main import main


def test_the_command_prints_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "4m-7-ti", "--dry-run", "--ranks", "64", "--gpu", "h100", "train.sharding=zero3"]) == 0
    printed = capsys.readouterr().out
    assert "sharding zero3; 128 samples per step each" in printed
    assert "steps           238,419" in printed
    assert "989 TFLOP/s per rank (H100, from its data sheet), of which 40%" in printed
    assert main(["train", "debug", "--dry-run", "--peak-tflops", "0.1", "--mfu", "0.25"]) == 0
    assert "of which 25% are reached" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["debug", "--gpu", "abacus"], "--gpu abacus: not known"),
        (["debug", "--mfu", "2"], "--mfu: expected"),
        (["debug", "--ranks", "9"], "ranks: expected 1 to 8"),
        (["tokenizer-rgb-debug"], "no pre-training"),
    ],
)
def test_mistakes_are_said(words, message, capsys):
    assert main(["train", *words, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "chosen", [["trainable.lora.rank=8"], ["trainable.embeddings=depth", "train.ema=0.99"]], ids=["lora", "embeddings"]
)
def test_parts_of_a_model_are_counted(chosen, capsys):
    words = ["trainable.encoder=0", "trainable.decoder=0", "train.batch_size=16"]
    assert main(["train", "4m-7-ti", "--dry-run", *chosen, *words]) == 0
    assert "; trained: " in capsys.readouterr().out
