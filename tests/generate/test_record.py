"""Results at rest: exact, safe to read from anywhere, and made again to the token."""

import errno
import json
import os
import pickle

import numpy as np
import pytest

from open4m import files
from open4m.generate import record
from open4m.generate.changes import Values, Weights
from open4m.generate.masks import Cells, Masked
from open4m.generate.pipeline import FourM
from open4m.generate.request import Extract, Generate, Probe
from open4m.types import Boxes, Open4MError

BOXES = Boxes([[0, 0, 1 / 3, 0.1], [0.5, 0.5, 1, 1]], ["cube", "ball"], (0.25, 1.0))
NORMALS = np.float32([[[0.6, 0, 0.8]] * 5] * 4)


def kept(model, request, folder):
    """The results of a request, and the record of them."""
    results = request.run(model).results
    return results, record.read(record.write(folder, model, request, results))


def written(model, folder, given, target="depth", **fields):
    """The path of the record of a small request."""
    request = Generate(given=given, targets=(target,), model="tiny", **fields)
    return record.write(folder, model, request, request.run(model).results)


@pytest.mark.parametrize(
    "mask", [(0, 0, 0.5, 1), [(0, 0, 0.5, 1), (0.75, 0.75, 1, 1)], Cells((0, 5)), np.eye(9, 18), None]
)
def test_a_result_is_made_again_to_the_token(model, image, mask, tmp_path):
    shown = {"rgb": image, "boxes": BOXES, "caption": "a “red” cube"}
    if mask is not None:
        shown["depth"] = Masked(np.linspace(1, 3, 162, dtype=np.float32).reshape(9, 18), mask)
    request = Generate(
        given=shown,
        targets=("depth", "semseg"),
        samples=2,
        seed=3,
        entropies=True,
        options={"guidance": {"caption": 2.0, "avoid": -1.0}, "depth": {"temperature": (1.0, 0.5), "tokens": (3, 2)}},
        conditions={"avoid": {"caption": "a ball"}},
    )
    results, found = kept(model, request, tmp_path)
    again = found.request.run(model).results
    assert record.differences(found, again) == []
    for old, new, stored in zip(results, again, found.results, strict=True):
        assert (new.plan, new.seed, new.conditions) == (old.plan, old.seed, old.conditions)
        assert new.given["boxes"] == old.given["boxes"]
        for key in old.tokens:
            assert np.array_equal(new.tokens[key], old.tokens[key])
            np.testing.assert_allclose(stored.log_probability[key], old.log_probability[key], atol=1e-6)
            np.testing.assert_allclose(stored.entropy[key], old.entropy[key], atol=1e-6)
            assert np.array_equal(new.values[key], old.values[key])


def test_values_come_back_bit_by_bit(model, image, tmp_path):
    shown = {"depth": np.random.default_rng(0).uniform(1, 9, (4, 6)), "semseg": np.arange(6).reshape(2, 3) % 3}
    _, made = kept(model, Generate(given={**shown, "boxes": BOXES}, targets=("caption",)), tmp_path)
    (found,) = made.results
    assert np.array_equal(found.given["depth"], shown["depth"].astype(np.float32))
    assert found.given["depth"].dtype == np.float32
    assert found.given["semseg"].dtype == np.uint8
    assert found.given["boxes"] == BOXES


def test_what_results_share_is_written_once(model, segments, tmp_path):
    for sweep, of in ((Weights((0.0, 2.0)), "semseg"), (Values(("a cube", "a ball")), "caption")):
        request = Probe(given={"semseg": segments, "caption": "a ball"}, sweep=sweep, of=of)
        _, found = kept(model, request, tmp_path)
        assert len(found.results) == 2
        assert len(list(tmp_path.glob("given-*"))) == 1
        assert record.differences(found, found.request.run(model).results) == []


def test_differences_are_said_and_another_model_is_an_error(model, image, tmp_path):
    request = Extract(given={"rgb": image}, targets=("depth", "caption"), model="tiny")
    (result,) = request.run(model).results
    result.tokens["depth"][3] += 1
    result.tokens["caption"] = result.tokens["caption"][:-1]
    path = record.write(tmp_path, model, request, [result])
    found = record.read(path)
    length = len(result.tokens["caption"])
    assert record.differences(found, found.request.run(model).results) == [
        "result 1, depth: 1 of 16 tokens differ",
        f"result 1, caption: 1 of {length} tokens differ",
    ]
    assert record.differences(found, [*found.request.run(model).results] * 2) == ["1 results became 2"]
    path.write_text(path.read_text().replace(model.fingerprint, "0" * 16))
    with pytest.raises(Open4MError, match=f"another model made .* 'tiny' with fingerprint '0000.*{model.fingerprint}"):
        record.read(path).request.run(model)


def test_a_record_needs_no_pickle_and_leaves_its_folder_for_nothing(model, tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    path = written(model, folder, {"depth": np.ones((9, 9))}, "semseg")
    (array,) = folder.glob("*.npy")
    (tmp_path / "other.npy").write_bytes(array.read_bytes())
    text = path.read_text()
    for name in ("../other.npy", str(tmp_path / "other.npy"), "result.json", ".npy", "a\\u0000.npy"):
        path.write_text(text.replace(array.name, name))
        with pytest.raises(Open4MError, match="files in its own folder"):
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
    with pytest.raises(Open4MError, match="no such file"):
        record.read(path)


OTHERS = ("x", None, True, -1, 1e9, 10**400, [], [[]], {}, {"file": "given.npy"}, {"base64": "AAAA"})


def places(content):
    """Where values are in JSON, as (what holds it, key); of a list its first, which the others are like."""
    for key in list(content) if isinstance(content, dict) else range(min(1, len(content))):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from places(content[key])


def test_every_damage_of_a_record_is_a_users_error(model, tmp_path, monkeypatch):
    shown = {"boxes": BOXES, "caption": "a ball", "depth": Masked(np.full((9, 9), 2.0), Cells((1, 2)))}
    monkeypatch.setattr(FourM, "fingerprint", model.fingerprint)  # computed once
    request = Generate(
        given=shown,
        targets=("depth",),
        seed=3,
        entropies=True,
        options={"steps": 1, "temperature": (1.0, 0.5), "guidance": {"caption": 2.0, "avoid": -1.0}},
        conditions={"avoid": {"semseg": np.zeros((4, 4), np.uint8)}},
        model="tiny",
    )
    path = record.write(tmp_path, model, request, request.run(model).results)
    np.save(tmp_path / "given.npy", np.array(["no", "numbers"]))
    text, errors = path.read_text(), []
    content = json.loads(text)

    def attempt():
        path.write_text(json.dumps(content))
        try:
            found = record.read(path)
            record.differences(found, found.request.run(model).results)
        except Open4MError as error:  # and nothing else
            errors.append(str(error))

    for place, key in places(content):
        was = place.pop(key)
        attempt()
        place.insert(0, was) if isinstance(place, list) else place.update({key: was})
        for other in OTHERS:
            place[key] = other
            attempt()
        place[key] = was
    assert content == json.loads(text)
    damaged = len(errors)
    attempt()
    assert len(errors) == damaged > 300
    assert max(map(len, errors)) < 1000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seed": 3', '"seed": 3.0', r"result.json: .* record.results\[0\].seed: expected int, got 3.0"),
        ('"seed": 3', '"seed": true', "seed: expected int, got True"),
        ('"seed": 3', '"seed": "3"', "seed: expected int, got '3'"),
        ('"seed": 3', '"seed": 3, "sead": 3', "unknown field 'sead'; did you mean seed"),
        ('"cells": [1', '"cells": [1.5', r"cells\[0\]: expected int, got 1.5"),
        ('"cells": [1', '"cells": [true', r"cells\[0\]: expected int, got True"),
        ('"tokens": {"depth": [', '"tokens": {"depth": [0.5, ', r"depth\[0\]: expected int, got 0.5"),
        ('"tokens": {"depth": [', '"tokens": {"depth": ["1", ', r"depth\[0\]: expected int, got '1'"),
        ('"tokens": {"depth"', '"tokens": {"rgb"', "expected tokens of depth, the targets, got those of rgb"),
        (
            '{"text": "a ball"}',
            '{"value": {"value": {"text": "a"}, "mask": {}}, "mask": {"cells": [1]}}',
            "caption.value: unknown field",
        ),
        (
            '{"text": "a ball"}',
            '{"value":' * 400 + "1" + "}" * 400,
            "not readable as JSON .nested more than 64 levels deep",
        ),
        (
            '{"text": "a ball"}',
            '{"text": {"text": "' + "x" * 10**6 + '"}}',
            "caption.text: expected str, got {'text': 'x",
        ),
        ('"steps": 8', '"steps": 0', "result.json: .*depth: steps must be 1 to 10000, got 0"),
    ],
)
def test_what_is_wrong_in_a_record_and_where_is_said(old, new, message, model, tmp_path):
    shown = {"caption": "a ball", "depth": Masked(np.full((9, 9), 2.0), Cells((1, 2)))}
    path = written(model, tmp_path, shown, seed=3)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(Open4MError, match=message) as caught:
        record.read(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("part", "message"), [("results", "expected 1 to 1000 results, got 1001"), ("conditions", "at most 1000, got 1001")]
)
def test_a_record_of_a_huge_batch_is_refused(part, message, model, tmp_path):
    path = written(model, tmp_path, {"caption": "a"})
    content = json.loads(path.read_text())
    (result,) = content["results"]
    if part == "results":
        content["results"] *= 1001
    else:
        result["conditions"] = {str(n): {"caption": {"text": "a"}} for n in range(1001)}
    path.write_text(json.dumps(content))
    with pytest.raises(Open4MError, match=message):
        record.read(path)


def test_only_regular_files_of_a_limited_size_are_read(model, tmp_path):
    path = written(model, tmp_path, {"depth": np.ones((9, 9))}, "semseg")
    (array,) = tmp_path.glob("*.npy")
    data = array.read_bytes()
    array.unlink()
    array.mkdir()
    with pytest.raises(Open4MError, match=rf"{array.name}: cannot be read, it is a folder"):
        record.read(path)
    array.rmdir()
    os.mkfifo(array)
    with pytest.raises(Open4MError, match=rf"{array.name}: cannot be read, it is not a regular file"):
        record.read(path)
    array.unlink()
    array.write_bytes(data)
    assert files.read_bytes(array) == files.read_bytes(array, len(data)) == data
    with pytest.raises(Open4MError, match=f"larger than {len(data) - 1} bytes"):
        files.read_bytes(array, len(data) - 1)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"] * 81).reshape(9, 9),
        np.zeros((9, 9), "datetime64[s]"),
        np.zeros((9, 9), "S0"),
        np.zeros((9, 9), complex),
        np.zeros((9, 9), [("a", "f4")]),
    ],
)
def test_arrays_are_of_numbers(array, model, tmp_path):
    shown = {"depth": Masked(np.full((9, 9), 2.0), np.eye(9, dtype=bool))}
    path = written(model, tmp_path, shown)
    for file in tmp_path.glob("*.npy"):
        data = file.read_bytes()
        np.save(file, array)
        with pytest.raises(Open4MError, match="expected an array of numbers, got"):
            record.read(path)
        file.write_bytes(data)
    record.read(path)


@pytest.mark.parametrize("header", ["'descr': (), 'shape': (3,)", f"'descr': '<f4', 'shape': ({10**30},)"])
def test_an_array_with_a_damaged_header_is_a_users_error(header, model, tmp_path):
    path = written(model, tmp_path, {"depth": np.ones((9, 9))}, "semseg")
    (array,) = tmp_path.glob("*.npy")
    header = f"{{{header}, 'fortran_order': False}}\n".encode()
    array.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(Open4MError, match=r"not a readable \.npy array"):
        record.read(path)


def test_a_record_that_cannot_be_written_leaves_the_one_before(model, tmp_path, monkeypatch):
    path = written(model, tmp_path, {"caption": "a"})
    text = path.read_text()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Open4MError, match="No space left"):
        written(model, tmp_path, {"caption": "another"})
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("version", "message"),
    [("open4m result 1", "format 1, which holds no request; run the command"), (5, "expected 4; update open4m")],
)
def test_records_of_other_formats_are_named(version, message, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"format": version}))
    with pytest.raises(Open4MError, match=message):
        record.read(tmp_path / "result.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", "5", '{"format": "open4m result 9"}', "[" * 100_000, "\x00"])
def test_what_is_no_record_is_refused(text, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(Open4MError, match=r"result\.json: not"):
        record.read(path)
    with pytest.raises(Open4MError, match="no such file"):
        record.read(tmp_path / "none.json")
