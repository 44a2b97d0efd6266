"""The modalities of 4M-21: the same tokens, values and sequences as the authors' code.

``cases/parts`` has small copies of the authors' cases, so that a clone proves this by itself; ``pipeline`` of the
reference cases is tested besides, where it is there.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ml4m_checkpoints import write
from reference_cases import REFERENCE, copy_of, folder_of
from safetensors.torch import load_file

from open4m import modalities
from open4m.hub.ml4m import export, names, table
from open4m.hub.ml4m import text as public_text
from open4m.hub.ml4m import tokenizer as ml4m
from open4m.tokenizers.text import TextTokenizer

OWN = copy_of("parts")
TOKENIZERS = {"dinov2_global": "tok_dinov2_global", "human_poses": "human_poses", "sam_instance": "sam_instance"}
"""The public domain of each case."""

SEQUENCES = {
    "encode_metadata": "metadata",
    "encode_palette": "color_palette",
    "encode_poses": "human_poses",
    "encode_sam": "sam_instance",
}


@pytest.fixture(params=[OWN, *filter(Path.is_dir, [REFERENCE / "pipeline"])], ids=lambda folder: folder.name)
def pipeline(request):
    return request.param


# ---- tokenizers


@pytest.mark.parametrize("key", TOKENIZERS)
def test_their_tokens_and_what_they_decode_to(key, pipeline):
    """Worst difference of decoded values: 1.5e-7 of vectors, 8.3e-7 of the logits of masks."""
    case = load_file(pipeline / "case.safetensors")
    domain = TOKENIZERS[key]
    tokenizer = ml4m.load(pipeline / "EPFL-VILAB" / table.TOKENIZERS[domain], names.tokenized(domain))
    values, tokens, config = case[f"input/{key}"], case[f"tokens/{key}"].long(), tokenizer.config
    given = values[0].numpy() > 0.5 if key == "sam_instance" else values[:, 0, 0].numpy()
    assert np.array_equal(tokenizer.encode(given).ravel(), tokens.numpy())
    decoded = tokenizer.model.decode(tokens.view(1, *config.grid))[0]
    torch.testing.assert_close(decoded, case[f"decoded/{key}"], rtol=0, atol=1e-4)
    value = tokenizer.decode(tokens.view(config.grid).numpy())
    expected = case[f"decoded/{key}"].numpy()
    if key == "sam_instance":
        assert np.array_equal(value, 1 / (1 + np.exp(-expected[0])) > 0.5)
    else:
        np.testing.assert_allclose(value, expected[:, 0, 0], rtol=0, atol=1e-4)


def test_the_number_of_codebooks_is_that_of_the_tensors():
    """The settings of public tokenizers may say another one."""
    read = ml4m.load(OWN / "EPFL-VILAB" / table.TOKENIZERS["human_poses"], "human_pose")
    assert (read.config.codebooks, read.config.codebook_size, read.config.latent_dim) == (8, 64, 64)
    assert read.config.quantizer == "memcodes"
    masks = ml4m.load(OWN / "EPFL-VILAB" / table.TOKENIZERS["sam_instance"], "sam_mask")
    assert (masks.config.decoder.out_conv, masks.config.encoder.out_conv) == (2, 0)


@pytest.mark.parametrize("domain", TOKENIZERS.values())
def test_a_saved_one_is_the_same(domain, tmp_path):
    read = ml4m.load(OWN / "EPFL-VILAB" / table.TOKENIZERS[domain], names.tokenized(domain))
    read.save(tmp_path)
    loaded = type(read).load(tmp_path)
    assert (loaded.config, loaded.fingerprint) == (read.config, read.fingerprint)
    tokens = np.arange(np.prod(read.config.grid)).reshape(read.config.grid) % read.config.codebook_size
    assert np.array_equal(loaded.decode(tokens), read.decode(tokens))


@pytest.mark.parametrize("domain", TOKENIZERS.values())
def test_an_export_says_the_same_settings(domain, monkeypatch, tmp_path):
    """Also where nothing is known of the public file, as of weights that were trained further."""
    folder = OWN / "EPFL-VILAB" / table.TOKENIZERS[domain]
    stated = json.loads((folder / "config.json").read_text())
    kinds = {"enc": stated["enc_type"], "dec": stated["dec_type"]}
    monkeypatch.setattr(export, "_kind", lambda config, network, end: kinds[end])  # their code has no names so small
    read = ml4m.load(folder, names.tokenized(domain))
    settings, tensors = export.tokenizer(read)
    without = {"sync_codebook", *(("image_size", "patch_size") if read.config.vector else ())}  # of no effect here
    assert {name: settings.get(name) for name in stated if name not in without} == {
        name: value for name, value in stated.items() if name not in without
    }
    write(tmp_path / "again", settings, tensors)
    again = ml4m.load(tmp_path / "again", names.tokenized(domain))
    assert (again.config, again.fingerprint) == (read.config, read.fingerprint)


# ---- sequences


def cases(kind, *which, folder=OWN, name="text.json"):
    found = json.loads((folder / name).read_text())["cases"]
    return [case for case in found if case["kind"] == kind and (not which or case["modality"] in which)]


def value_of(modality, given):
    """A case's input as a user gives it."""
    if modality.name == "human_poses":
        fields = {"box": "box", "orient": "orientation", "tokens": "tokens", "shape": "shape", "camera": "camera"}
        orders = [[given["parts"][place] for place in order] for order in given["orders"]]
        people = [{ours: person[theirs] for theirs, ours in fields.items()} for person in given["people"]]
        given = [person | {"order": order} for person, order in zip(people, orders, strict=True)]
    elif modality.name == "sam_instance":  # in pixels of 224, the boxes as y, x, y, x
        given = [
            {
                "point": [point["x"] / 224, point["y"] / 224],
                "instances": [
                    {"box": [each["box"][place] / 224 for place in (1, 0, 3, 2)], "tokens": each["tokens"]}
                    for each in point["instances"]
                ],
            }
            for point in given
        ]
    return modality.convert(given)


def symbols_of(text):
    """``v0=3 human`` as [(0, 3), "human"]."""
    return [(int(word[1]), int(word[3:])) if "=" in word else word for word in text.split()]


@pytest.fixture(scope="module")
def words():
    """A vocabulary that is not theirs but has all words: what a sequence says does not depend on it."""
    own = dict.fromkeys(word for name in SEQUENCES.values() for word in modalities.get(name).words)
    return TextTokenizer.fit(["a cube"], list(own), vocab_size=4400, sentinels=4)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_say_the_same_in_any_vocabulary_and_come_back_exactly(kind, words):
    modality = modalities.get(SEQUENCES[kind])
    for case in cases(kind):
        value, expected = value_of(modality, case["input"]), case["expected"]
        ids = modality.encode(value, words, 1000)
        said = [words.number(i) or words.name(i) for i in ids[:-1]]
        assert said == symbols_of(expected["text"] if "text" in expected else " ".join(expected["chunks"]))
        decoded = modality.decode(ids, words)
        assert decoded.malformed == 0
        assert modality.encode(decoded, words, 1000) == ids
        assert modality.encode(modality.read(modality.write(decoded)), words, 1000) == ids
        if kind != "encode_poses":  # whose numbers are rounded
            assert decoded == value


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_have_their_ids_in_the_public_vocabulary(kind):
    text = public_text.load(folder_of("text").parent / table.TEXT.name)
    modality = modalities.get(SEQUENCES[kind])
    for case in cases(kind, folder=folder_of("text"), name="case.json"):
        longest = names.LENGTHS[modality.name]
        ids = modality.encode(value_of(modality, case["input"]), text, longest)
        assert ids == case["expected"]["ids"]
        assert modality.encode(modality.decode(ids, text), text, longest) == ids
        assert modality.decode(ids, text).malformed == 0


def test_sequences_are_read_as_they_read_them(words):
    for case in cases("decode", "metadata", "color_palette"):
        modality = modalities.get(case["modality"])
        value = modality.decode([words.number_id(*symbol) for symbol in symbols_of(case["expected"]["text"])], words)
        if modality.name == "metadata":
            assert value == case["expected"]["values"]
            assert value.malformed == (2 if "note" in case else 0)
        else:
            assert [list(color) for color in value.colors] == case["expected"]["colors"]
            assert value.malformed == 0
