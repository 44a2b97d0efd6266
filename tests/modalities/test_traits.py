import dataclasses

import pytest

from open4m.data.encoders import ENCODERS
from open4m.modalities.traits import FAMILIES
from open4m.model.config import ModalitySpec
from open4m.store.columns import COLUMNS


def test_every_family_has_a_row_in_each_table_of_families():
    """Its tokens can be stored and, unless they are vectors, which need no tokenizer, made."""
    assert set(COLUMNS) == set(FAMILIES)
    assert set(ENCODERS) == {name for name, family in FAMILIES.items() if family.content != "vectors"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_named_once_and_has_sizes_that_a_model_knows(name):
    family = FAMILIES[name]
    assert family.name == name
    assert {*family.sizes} <= {field.name for field in dataclasses.fields(ModalitySpec)}


@pytest.mark.parametrize(
    ("name", "has_vocabulary", "is_sequence", "has_codebook", "is_causal"),
    [
        ("pixels", False, False, False, False),
        ("grid", True, False, True, False),
        ("sequence", True, True, False, True),
        ("vectors", False, True, False, False),
    ],
)
def test_traits_follow_from_content_and_layout(name, has_vocabulary, is_sequence, has_codebook, is_causal):
    """The table of families in the paper's terms (2.1, C.1): what is predicted, by spans or by cells."""
    family = FAMILIES[name]
    assert (family.has_vocabulary, family.is_sequence, family.has_codebook, family.is_causal) == (
        has_vocabulary,
        is_sequence,
        has_codebook,
        is_causal,
    )
