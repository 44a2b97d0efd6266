"""Results at rest: exact, safe to read from anywhere, and made again to the token."""

import contextlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.generate import record, verbs
from open4m.generate.masks import Cells, Masked
from open4m.types import Boxes, Open4MError

BOXES = Boxes([[0, 0, 1 / 3, 0.1], [0.5, 0.5, 1, 1]], ["cube", "ball"], (0.25, 1.0))
NORMALS = np.float32([[[0.6, 0, 0.8]] * 5] * 4)


def kept(model, results, folder):
    path = record.write(folder, "tiny", model.fingerprint, "cpu", results)
    return record.read(path)


@pytest.mark.parametrize("mask", [(0, 0, 0.5, 1), [(0, 0, 0.5, 1), (0.75, 0.75, 1, 1)], Cells((0, 5)), np.eye(9), None])
def test_a_result_is_made_again_to_the_token(model, image, mask, tmp_path):
    shown = {"rgb": image, "boxes": BOXES, "caption": "a “red” cube"}
    if mask is not None:
        shown["depth"] = Masked(np.linspace(1, 3, 81, dtype=np.float32).reshape(9, 9), mask)
    results = model.generate(
        [shown] * 2, ["depth", "semseg"], seed=[3, 9], entropies=True, guidance={"caption": 2.0, "avoid": -1.0},
        conditions={"avoid": {"caption": "a ball"}}, depth={"temperature": (1.0, 0.5), "tokens": (3, 2)},
    )  # fmt: skip
    found = kept(model, results, tmp_path)
    again = record.replay(model, found)
    assert record.differences(found, again) == []
    for old, new, stored in zip(results, again, found.calls[0], strict=True):
        assert (new.plan, new.seed, new.conditions) == (old.plan, old.seed, old.conditions)
        assert new.given["boxes"] == old.given["boxes"]
        for key in old.tokens:
            assert np.array_equal(new.tokens[key], old.tokens[key])
            np.testing.assert_allclose(stored.log_probability[key], old.log_probability[key], atol=1e-6)
            np.testing.assert_allclose(stored.entropy[key], old.entropy[key], atol=1e-6)
            assert np.array_equal(new.values[key], old.values[key])


def test_values_come_back_bit_by_bit(model, image, tmp_path):
    shown = {"depth": np.random.default_rng(0).uniform(1, 9, (7, 5)), "semseg": np.arange(6).reshape(2, 3) % 3}
    (found,) = kept(model, [model.generate({**shown, "boxes": BOXES}, ["caption"])], tmp_path).calls[0]
    assert np.array_equal(found.given["depth"], shown["depth"].astype(np.float32))
    assert found.given["depth"].dtype == np.float32
    assert found.given["semseg"].dtype == np.uint8
    assert found.given["boxes"] == BOXES


def test_calls_are_kept_apart_and_what_they_share_is_written_once(model, segments, tmp_path):
    results = verbs.probe_weight(model, {"semseg": segments, "caption": "a ball"}, "semseg", [0.0, 2.0])
    results += verbs.probe(model, {"semseg": segments}, "caption", ["a cube", "a ball"])
    found = kept(model, results, tmp_path)
    assert [len(call) for call in found.calls] == [1, 1, 2]
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert record.differences(found, record.replay(model, found)) == []


def test_differences_are_said_and_another_model_is_an_error(model, image, tmp_path):
    result = model.generate({"rgb": image}, ["depth", "caption"])
    result.tokens["depth"][3] += 1
    result.tokens["caption"] = result.tokens["caption"][:-1]
    path = record.write(tmp_path, "tiny", model.fingerprint, "cpu", [result])
    found = record.read(path)
    length = len(result.tokens["caption"])
    assert record.differences(found, record.replay(model, found)) == [
        "result 1, depth: 1 of 16 tokens differ", f"result 1, caption: 1 of {length} tokens differ",
    ]  # fmt: skip
    path.write_text(path.read_text().replace(model.fingerprint, "0" * 16))
    with pytest.raises(Open4MError, match=f"another model made .* tiny with fingerprint 0000.*{model.fingerprint}"):
        record.replay(model, record.read(path))


def test_a_record_needs_no_pickle_and_leaves_its_folder_for_nothing(model, segments, tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    path = record.write(folder, "tiny", model.fingerprint, "cpu", [model.generate({"semseg": segments}, ["depth"])])
    (array,) = folder.glob("*.npy")
    (tmp_path / "other.npy").write_bytes(array.read_bytes())
    text = path.read_text()
    for name in ("../other.npy", str(tmp_path / "other.npy"), "result.json", ".npy", "a\\u0000.npy"):
        path.write_text(text.replace(array.name, name))
        with pytest.raises(Open4MError, match="npy files in its own folder"):
            record.read(path)
    path.write_text(text)

    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("trapped").touch, ())

    np.save(array, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(Open4MError, match=r"not a readable \.npy array"):
        record.read(path)
    array.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(Open4MError, match=r"not a readable \.npy array"):
        record.read(path)
    assert not (tmp_path / "trapped").exists()
    array.unlink()
    with pytest.raises(Open4MError, match="cannot be read"):
        record.read(path)


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_damaged_record_is_a_users_error(model, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("record")
    shown = {"boxes": BOXES, "depth": Masked(np.full((9, 9), 2.0), Cells((1,)))}
    path = record.write(folder, "tiny", model.fingerprint, "cpu", [model.generate(shown, ["depth"])])
    content = json.loads(path.read_text())
    place, key = content, None
    while isinstance(place, dict | list) and place:  # one value anywhere becomes something else
        parent, key = place, data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        place = parent[key]
        if data.draw(st.booleans()):
            break
    other = data.draw(st.sampled_from([None, [], {}, "x", -1, 1e400, [[]], {"array": 5}, True]))
    parent[key] = other
    path.write_text(json.dumps(content))
    with contextlib.suppress(Open4MError):  # and nothing else
        found = record.read(path)
        record.differences(found, record.replay(model, found))


@pytest.mark.parametrize("text", ["", "{}", "[]", "5", '{"format": "open4m result 9"}', "[" * 100_000, "\x00"])
def test_what_is_no_record_is_refused(text, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(Open4MError, match=r"result\.json: not"):
        record.read(path)
    with pytest.raises(Open4MError, match="cannot be read"):
        record.read(tmp_path / "none.json")
