"""The parts of a model directory: only the tokenizers that a model was trained with are taken for them."""

import json
import shutil

import pytest

from open4m import FourM, checksums
from open4m.hub import locate, parts, recorded
from open4m.types import Open4MError

TOKENIZERS = "tokenizers"


@pytest.fixture
def model(tmp_path):
    shutil.copytree(locate.resolve("scenes"), tmp_path / "model")
    return tmp_path / "model"


def exchange(one, two):
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def test_the_record_names_all_tokenizers(model):
    loaded = FourM.from_pretrained(model)
    expected = {key: tokenizer.identity for key, tokenizer in loaded.grids.items()}
    assert recorded.tokenizers(model) == {**expected, parts.TEXT: loaded.text.fingerprint}


def test_a_model_that_is_saved_in_16_bits_records_what_is_stored(model, tmp_path):
    loaded = FourM.from_pretrained(model)
    loaded.save(tmp_path / "saved", half=True)
    again = FourM.from_pretrained(tmp_path / "saved")
    assert {key: again.grids[key].identity for key in again.grids} == {
        key: digest for key, digest in recorded.tokenizers(tmp_path / "saved").items() if key != parts.TEXT
    }


def test_exchanged_tokenizers_are_refused(model):
    exchange(model / TOKENIZERS / "depth", model / TOKENIZERS / "normals")
    loaded = FourM.from_pretrained(model)
    for key in ("depth", "normals"):
        with pytest.raises(Open4MError, match=rf"{key}: another tokenizer than .*model was trained with"):
            loaded.grids[key]


def test_a_text_vocabulary_with_two_words_exchanged_is_refused(model):
    folder = model / TOKENIZERS / parts.TEXT
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    path.write_text(json.dumps(content))
    with pytest.raises(Open4MError, match=r"tokenizer\.json: the content is not"):
        FourM.from_pretrained(model)
    checksums.seal(folder, ["tokenizer.json"])  # damage on purpose: the folder by itself is whole
    with pytest.raises(Open4MError, match="text: another tokenizer than"):
        FourM.from_pretrained(model)


def test_a_chosen_tokenizer_must_be_the_one_too(model):
    chosen = parts.Chosen(tokenizers={"depth": model / TOKENIZERS / "normals"})
    with pytest.raises(Open4MError, match="normals: another tokenizer than"):
        FourM.from_pretrained(model, chosen=chosen).grids["depth"]


def test_another_decoder_for_the_same_tokens_may_take_its_place(model):
    loaded = FourM.from_pretrained(model)
    tokenizer = loaded.grids["depth"]
    tokenizer.model.decoder.requires_grad_(False)
    for weight in tokenizer.model.decoder.parameters():
        weight.mul_(0.5)
    tokenizer.save(model / TOKENIZERS / "depth")
    assert FourM.from_pretrained(model).grids["depth"].fingerprint == tokenizer.fingerprint


def test_the_size_at_which_it_is_used_does_not_change_a_tokenizer(model):
    tokenizer = FourM.from_pretrained(model).grids["depth"]
    larger = tokenizer.at(2 * tokenizer.config.image_size)
    assert larger.identity == tokenizer.identity
    assert larger.fingerprint != tokenizer.fingerprint


def test_directories_from_before_there_were_records_are_read(model):
    for path in model.rglob(checksums.FILE):
        path.unlink()
    (model / recorded.FILE).unlink()
    exchange(model / TOKENIZERS / "depth", model / TOKENIZERS / "normals")
    assert recorded.tokenizers(model) == {}
    FourM.from_pretrained(model)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "plans.json", "tokenizers.json"])
def test_a_flipped_bit_in_each_file_of_a_model_is_refused(model, file):
    data = bytearray((model / file).read_bytes())
    data[-3] ^= 1
    (model / file).write_bytes(data)
    with pytest.raises(Open4MError):
        FourM.from_pretrained(model)
