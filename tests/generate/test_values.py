"""Values at rest: photos of any size are pictures, and what is JSON is JSON."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from open4m import modalities
from open4m.generate import record, values
from open4m.generate.pipeline import FourM
from open4m.generate.request import Generate, Request
from open4m.modalities import codecs
from open4m.modalities.families import TokenSequence
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class Size(TokenSequence):
    """A value is ``{"size": words, ...}``."""

    def convert(self, value):
        if not isinstance(value, dict) or not isinstance(value.get("size"), str):
            raise self.error(f"expected {{'size': words}}, got {value!r}")
        return value

    def read(self, data):
        return self.convert(json.loads(data))

    def write(self, value):
        return json.dumps(value).encode()

    def encode(self, value, text, max_length=256):
        return [*text.encode_text(value["size"])[: max_length - 1], text.eos]

    def decode(self, ids, text):
        return {"size": text.decode_text(text.until_eos(ids)), "count": len(ids)}

    def render(self, value, size=256):
        return modalities.get("caption").render(value["size"], size)


@pytest.fixture(scope="module")
def sized(model):
    """The small model with a modality whose values are mappings."""
    modalities.register(Size(name="size", description="d", extension="size.json"))
    specs = model.config.modalities
    spec = ModalitySpec(key="size", family="sequence", vocab_size=specs[-1].vocab_size, max_length=6)
    config = FourMConfig(modalities=(*specs, spec), dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    yield FourM(type(model.model)(config), model.grids, model.text)
    modalities._registered.pop("size")


def test_values_that_are_mappings_are_generated_recorded_and_made_again(sized, tmp_path):
    given = {"size": {"size": "a red cube", "count": np.int64(3), "at": [np.float32(0.5), None]}}
    request = Generate(given=given, targets=("depth",))
    results = request.run(sized).results
    found = record.read(record.write(tmp_path, sized, request, results))
    assert found.request.given == {"size": {"size": "a red cube", "count": 3, "at": [0.5, None]}}
    assert record.differences(found, found.request.run(sized).results) == []
    made = sized.generate({"depth": np.ones((9, 9))}, "size", samples=2)
    made.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "size_1.size.json").read_text()) == made[0]["size"]


@pytest.mark.parametrize("wrong", [float("nan"), {1, 2}, object(), {"a": b"bytes"}, {(1, 2): 3}, "\ud800"])
def test_what_json_cannot_hold_is_refused_in_words(sized, wrong):
    request = Generate(given={"size": {"size": "a", "more": wrong}}, targets=("depth",))
    with pytest.raises(Open4MError, match=r"cannot be recorded|half of a character"):
        request.to_json()


def test_mappings_are_json_alone(sized):
    request = Generate(given={"size": {"size": "a", "list": [1, {"b": None}]}}, targets=("depth",))
    assert Request.from_json(json.loads(json.dumps(request.to_json()))).given == request.given


@pytest.mark.parametrize("large", [0, 1 << 30])
@pytest.mark.parametrize("shape", [(500, 400, 3), (420, 410)])
def test_large_pictures_are_pictures_at_rest(tmp_path, shape, large, monkeypatch):
    """Compressed in a hurry or not. A gradient: noise takes as many bytes as its numbers have."""
    monkeypatch.setattr(codecs, "LARGE", large)
    array = np.zeros(shape, np.uint8) + np.arange(shape[1], dtype=np.uint8).reshape(-1, *[1] * (len(shape) - 2))
    stored = values.encode(array, tmp_path)
    [path] = tmp_path.iterdir()
    assert (path.suffix, path.stat().st_size < array.nbytes / 10) == (".png", True)
    assert np.array_equal(np.asarray(values.decode(stored, "value", tmp_path)), array)


def test_a_picture_that_no_array_could_hold_is_refused(tmp_path, monkeypatch):
    stored = values.encode(np.zeros((9, 9, 3), np.uint8), tmp_path)
    monkeypatch.setattr(values, "MAX_PIXELS", 80)
    with pytest.raises(Open4MError, match="image of 9x9 pixels, at most 80 are read"):
        values.decode(stored, "value", tmp_path)
