"""The authors' text tokenizer: the same ids and texts as their code, and boxes that are decoded strictly."""

import json

import numpy as np
import pytest
from reference_cases import folder_of

from open4m import modalities
from open4m.generate.gaps import fill
from open4m.hub.ml4m import text as ml4m
from open4m.hub.ml4m.table import TEXT
from open4m.types import Boxes, Open4MError


@pytest.fixture(scope="module")
def text():
    return ml4m.load(folder_of("text").parent / TEXT.name)


def of_kind(kind, *names):
    cases = json.loads((folder_of("text") / "case.json").read_text())["cases"]
    found = [case for case in cases if case["kind"] == kind and (not names or case["modality"] in names)]
    assert found
    return found


def test_texts_become_their_ids(text):
    """Marked, since their code finds special tokens in any text. Unmarked, a text becomes words and classes only."""
    caption, typed = modalities.get("caption"), 0
    for case in of_kind("encode_text"):
        ids, expected = text.encode_text(case["input"], marked=True), case["expected"]
        assert ids == expected["ids_without_end"]
        assert [text.name(i) for i in ids][: len(expected["tokens"])] == expected["tokens"]
        assert text.finished(([i] for i in ids), 256) == expected["ids"]
        words = text.encode_text(case["input"])
        assert all(i == text.unk or i >= text.class_id("airplane") for i in words)
        if all(i >= text.class_id("airplane") or (i == text.unk and "[UNK]" not in case["input"]) for i in ids):
            assert caption.encode(case["input"], text) == expected["ids"]
        else:
            typed += 1
            assert words != ids
    assert typed == 2


def test_a_text_with_places_to_fill_is_marked(text):
    for case in of_kind("condition_text"):
        assert text.encode_text(case["input"], marked=True) == case["expected"]["visible_ids"]


def test_other_sequences_are_marked_texts(text):
    for kind in ("encode_palette", "encode_poses", "encode_sam"):
        for case in of_kind(kind):
            expected = case["expected"]["ids"]
            assert text.finished([text.encode_text(case["expected"]["text"], marked=True)], len(expected)) == expected
    for case in of_kind("encode_metadata"):
        chunks = [text.encode_text(chunk, marked=True) for chunk in case["expected"]["chunks"]]
        assert text.finished(chunks, 40) == case["expected"]["ids"]


def test_detections_become_their_ids(text):
    modality = modalities.get("boxes")
    for case in of_kind("encode_boxes"):
        value = modality.from_form(case["input"], "detections")
        assert len(value) == case["expected"]["kept"]
        assert modality.encode(value, text) == case["expected"]["ids"]
        decoded = modality.decode(case["expected"]["ids"], text)
        assert decoded.malformed == (len(decoded) < len(value))  # the last one is cut in its middle
        assert set(decoded.labels) <= set(value.labels)


def test_ids_become_their_texts(text):
    for case in of_kind("decode"):
        found = text.decode_text(case["input"], marked=True)
        assert found.replace(" [EOS]", "") == case["expected"]["text"]
    assert text.decode_text(text.encode_text("a dog's toy, well-dressed")) == "a dog's toy, well-dressed"


STRICT = {
    "nothing": 0,
    "a word first": 1,
    "a corner is missing": 1,
    "a class is missing": 1,
    "another order of corners": 1,
    "negative extent": 1,
    "a fifth coordinate": 1,
}
"""Boxes that are malformed: their code fails, or takes them as they are."""


def test_boxes_are_decoded_as_theirs_or_counted_as_malformed(text):
    well_formed = {"a word first": [4, "dog"], "a corner is missing": [8, "dog"]}  # that their code does not come to
    for case in of_kind("decode", "det"):
        note, expected = case["note"], case["expected"].get("boxes", [])
        found = modalities.get("boxes").decode(case["input"], text)
        assert found.malformed == STRICT.get(note, 0), note
        if note in well_formed:
            assert [round(found.corners[0, 3] * 999), *found.labels] == well_formed[note]
        elif note in ("another order of corners", "negative extent"):
            assert len(expected) == 1
            assert len(found) == 0
        else:
            labels = [box["label"].replace(" [PAD]", "") for box in expected]
            assert found.labels == tuple(labels), note
            np.testing.assert_allclose(found.corners, np.reshape([b["box"] for b in expected], (-1, 4)), atol=1e-7)


def test_a_class_without_a_token_is_written_in_words(text):
    modality = modalities.get("boxes")
    value = Boxes([[0, 0, 1, 1], [0.5, 0.5, 1, 1]], ["red hot dog", "ping pong table"])
    ids = modality.encode(value, text)
    assert modality.decode(ids, text).labels == value.labels
    log_probability = np.full(len(ids), -1.0)
    scores = modality.scored(value, ids, text, log_probability).scores
    np.testing.assert_allclose(scores, np.exp([-2, -3]), rtol=1e-6)  # of two words, and of three
    with pytest.raises(Open4MError, match="unknown class ' '"):
        text.label_ids(" ")


def test_spans_are_merged(text):
    for case in of_kind("merge"):
        filled = fill(**case["input"], sentinels=text.sentinels)
        assert [token for token, _ in filled] == case["expected"]["ids"]


def test_their_tokenizer_is_saved_and_loaded_like_any(text, tmp_path):
    text.save(tmp_path)
    loaded = type(text).load(tmp_path)
    assert text.fingerprint == TEXT.fingerprint
    assert (loaded.fingerprint, loaded.settings, loaded.sentinels) == (text.fingerprint, text.settings, text.sentinels)
    assert (text.sentinels[0], text.vocab_size, len(text.class_names), text.settings.axes[0]) == (5, 30000, 80, "v0")
    for case in of_kind("encode_text"):
        assert loaded.encode_text(case["input"], marked=True) == case["expected"]["ids_without_end"]
