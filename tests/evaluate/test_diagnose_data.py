"""What ``open4m diagnose`` is made on: token stores, raw shards, scenes; and the command."""

import dataclasses
import json

import numpy as np
import pytest

from open4m import modalities
from open4m.cli.main import main
from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES
from open4m.datasets.scenes.world import COLORS
from open4m.evaluate.diagnose import open_data
from open4m.evaluate.diagnose.data import encoded, even_batches, size_of
from open4m.evaluate.suites.scene_labels import objects, scene_data
from open4m.store.shards import write_shard
from open4m.store.tokens import TokenHeader, write_token_shard
from open4m.types import Open4MError

LENGTH = 256  # of the fixture's sequences


def write_raw(root, samples, names):
    for name in names:
        modality = modalities.get(name)
        items = [(f"{i:03d}", modality.write(modality.convert(s[name]))) for i, s in enumerate(samples)]
        write_shard(root, name, 0, items)


def write_tokens(root, model, rows, keys):
    for key in keys:
        spec, names = model.config.spec(key), [f"{i:03d}" for i in range(size_of(rows))]
        if spec.is_causal:
            tokens = [ids[:n] for ids, n in zip(rows.ids[key], rows.lengths[key], strict=True)]
            header = TokenHeader(
                kind="sequence",
                tokenizer=model.text.fingerprint,
                vocab_size=spec.vocab_size,
                max_length=spec.max_length,
            )
        else:
            tokens = rows.ids[key]
            header = TokenHeader(
                kind="grid", tokenizer=model.grids[key].fingerprint, vocab_size=spec.vocab_size, grid=spec.grid
            )
        write_token_shard(root, key, 0, names, tokens, header=header)


@pytest.fixture(scope="module")
def rows(model, held_out):
    return encoded(model, held_out)


def test_samples_are_encoded_as_the_model_reads_them(model, held_out, rows):
    for key in ("rgb", "depth", "semseg"):
        expected = [model.encode(key, sample[key]) for sample in held_out]
        np.testing.assert_array_equal(rows.ids[key], expected)
    for i, sample in enumerate(held_out):
        for key in ("caption", "boxes"):
            ids = model.encode(key, sample[key], cut=True)
            assert rows.lengths[key][i] == len(ids)
            assert rows.ids[key][i, : len(ids)].tolist() == ids.tolist()
        np.testing.assert_array_equal(
            rows.pixels["rgb_pixels"][i], model.encode_input("rgb_pixels", sample["rgb"]).numpy()
        )
    assert rows.pixels["rgb_pixels"].shape == (5, 3, 32, 32)
    assert "clip" not in rows.ids


def test_a_diagnosis_is_made_on_samples_that_have_all_and_without_what_too_few_have(tmp_path, model, held_out, caplog):
    for name, lacking in (("rgb", ()), ("depth", (0, 2)), ("caption", (1, 2, 3, 4))):
        modality = modalities.get(name)
        files = [modality.write(modality.convert(sample[name])) for sample in held_out]
        items = [(f"{i:03d}", None if i in lacking else file) for i, file in enumerate(files)]
        write_shard(tmp_path / "raw", name, 0, items)
    data = open_data(model, tmp_path / "raw", 4, batch_size=2).test
    assert len(data) == 3
    assert "caption is not diagnosed" in caplog.text
    whole = encoded(model, [held_out[i] for i in (1, 3, 4)])
    np.testing.assert_array_equal(np.concatenate([rows.ids["depth"] for rows in data.batches]), whole.ids["depth"])
    assert all(rows.present is None or not rows.present for rows in data.batches)
    ids = encoded(model, held_out).ids["depth"]
    header = TokenHeader(
        kind="grid",
        tokenizer=model.grids["depth"].fingerprint,
        vocab_size=model.config.spec("depth").vocab_size,
        grid=model.config.spec("depth").grid,
    )
    for key in ("depth", "rgb"):
        own = dataclasses.replace(
            header, tokenizer=model.grids[key].fingerprint, vocab_size=model.config.spec(key).vocab_size
        )
        tokens = [None if i == 3 and key == "depth" else ids[i] for i in range(5)]
        write_token_shard(tmp_path / "tokens", key, 0, [f"{i:03d}" for i in range(5)], tokens, header=own)
    stored = open_data(model, tmp_path / "tokens", 5, batch_size=5).test
    np.testing.assert_array_equal(stored.batches[0].ids["depth"], ids[[0, 1, 2, 4]])


def test_a_token_store_and_raw_shards_hold_the_same_samples(tmp_path, model, held_out, rows):
    write_raw(tmp_path / "raw", held_out, ["rgb", "depth", "caption"])
    write_tokens(tmp_path / "tokens", model, rows, ["depth", "caption"])
    raw, tokens = (open_data(model, tmp_path / name, 4, batch_size=2) for name in ("raw", "tokens"))
    assert (len(raw.test), len(tokens.test)) == (4, 4)
    assert raw.train is None
    for batch, other in zip(raw.test.batches, tokens.test.batches, strict=True):
        for key in ("depth", "caption"):
            np.testing.assert_array_equal(batch.ids[key], other.ids[key])
        np.testing.assert_array_equal(batch.lengths["caption"], other.lengths["caption"])
        assert "rgb_pixels" in batch.pixels
        assert "rgb_pixels" not in other.pixels


def test_a_folder_with_splits_has_both(tmp_path, model, rows):
    write_tokens(tmp_path / "train", model, rows, ["depth", "caption"])
    with pytest.raises(Open4MError, match="add a test split"):
        open_data(model, tmp_path, 4)
    write_tokens(tmp_path / "validation", model, rows, ["depth", "caption"])
    data = open_data(model, tmp_path, 100)
    assert (len(data.train), len(data.test)) == (5, 5)


def test_data_that_cannot_be_diagnosed_is_refused(tmp_path, model, held_out, rows):
    with pytest.raises(Open4MError, match="no such folder"):
        open_data(model, tmp_path / "none", 4)
    with pytest.raises(Open4MError, match="holds no modality of the model"):
        open_data(model, tmp_path, 4)
    with pytest.raises(Open4MError, match="at least 2 samples"):
        even_batches(1, 32)
    write_tokens(tmp_path / "tokens", model, rows, ["depth", "caption"])
    other = {key: tokenizer for key, tokenizer in model.grids.items() if key != "depth"}
    retrained = type(model)(model.model, {**other, "depth": model.grids["normals"]}, model.text)
    with pytest.raises(Open4MError, match="tokenize again"):
        open_data(retrained, tmp_path / "tokens", 4)


def test_no_batch_has_a_single_sample():
    for count in range(2, 200):
        sizes = [len(batch) for batch in even_batches(count, 32)]
        assert sum(sizes) == count
        assert min(sizes) >= 2
        assert max(sizes) < 64


def test_objects_of_scenes_have_the_place_that_shows_most_of_them(scenes, held_out):
    found = 0
    for i, sample in enumerate(held_out):
        solids = scenes.scene(i).objects
        made = objects(scenes, i, sample, (4, 4))
        assert len(made) in (0, len(solids))
        for (place, shape, color, center), solid in zip(made, solids, strict=bool(made)):
            assert (shape, color) == (solid.shape, solid.color)
            row, column = (int(fraction * 4) for fraction in place)
            cell = sample["semseg"][row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            assert (cell == CLASSES.index(shape)).any()
            assert all(0 < c < 1 for c in center)
            found += 1
    assert found > 0


def test_scenes_bring_the_labels_of_their_objects(tmp_path, model):
    model.save(tmp_path / "model")  # which comes without a CLIP
    data = scene_data(model, tmp_path / "model", samples=3, batch_size=3)
    assert "clip" not in data.test.batches[0].ids
    assert (len(data.train), len(data.test)) == (3, 3)
    labels = data.test.labels
    assert labels["shape"].classes == OBJECT_CLASSES
    assert labels["color"].classes == tuple(COLORS)
    assert labels["shape"].value.max() < len(OBJECT_CLASSES)
    assert set(labels["shape"].sample) <= {0, 1, 2}
    sizes = {len(getattr(label, field)) for label in labels.values() for field in ("sample", "place", "value")}
    assert len(sizes) == 1


def test_the_command_writes_numbers_and_a_picture(tmp_path, model, held_out, capsys):
    small = type(model)(model.model.eval(), model.grids, model.text)
    small.save(tmp_path / "model")
    for split in ("train", "test"):
        write_raw(tmp_path / "raw" / split, held_out, ["rgb", "semseg", "caption"])
    arguments = ["diagnose", str(tmp_path / "model"), "--data", str(tmp_path / "raw"), "--samples", "4"]
    arguments += ["--overfit", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "rgb_pixels" in printed
    assert str(tmp_path / "out" / "diagnose.json") in printed
    result = json.loads((tmp_path / "out" / "diagnose.json").read_text())
    assert (result["test_samples"], result["train_samples"]) == (4, 4)
    names = {check["name"] for check in result["checks"]}
    assert names == {
        "positions",
        "use of inputs",
        "use for targets",
        "embedding",
        "one token",
        "train against test",
        "free running",
        "linear probe",
        "overfit",
    }
    assert {"rgb_pixels, cell", "rgb_pixels, semseg class"} >= {
        check["subject"] for check in result["checks"] if check["name"] == "linear probe"
    }
    assert (tmp_path / "out" / "diagnose.png").is_file()


def test_a_model_of_other_classes_than_scenes_asks_for_data(tmp_path, model, monkeypatch):
    model.save(tmp_path / "model")

    def refuse(*_):
        raise Open4MError("semseg: class id 8")

    monkeypatch.setattr("open4m.evaluate.suites.scene_labels.encoded", refuse)
    with pytest.raises(Open4MError, match=r"class id 8; rendered scenes do not fit .* --data"):
        scene_data(model, tmp_path / "model", samples=2, batch_size=2)


def test_the_command_refuses_what_it_cannot_read(tmp_path, capsys):
    assert main(["diagnose", "scenes", "--data", str(tmp_path / "none"), "--device", "cpu"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_direction_that_was_not_trained_is_not_measured(model, rows):
    from open4m.evaluate.diagnose import measure
    from open4m.model.config import Direction
    from open4m.model.fourm import FourMTransformer

    only = (Direction(inputs=("depth",), targets=("caption",)),)
    config = dataclasses.replace(model.config, directions=only)
    user = type(model)(FourMTransformer(config), model.grids, model.text)
    assert measure.directions(user, measure.present([rows])) == {"depth": ["caption"]}
