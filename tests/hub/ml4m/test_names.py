"""What public domains are called here."""

import pytest

from open4m import modalities
from open4m.hub.ml4m import names, table


def test_every_public_domain_is_a_modality_here():
    assert set(names.DOMAINS.values()) <= set(modalities.names())
    assert set(names.LENGTHS) <= set(names.DOMAINS)


@pytest.mark.parametrize("domain", table.TOKENIZERS)
def test_every_public_tokenizer_reads_a_modality_here(domain):
    assert modalities.get(names.tokenized(domain)).family.has_codebook


def test_the_tokenizers_of_sequences_are_those_of_their_parts():
    assert names.tokenized("human_poses") == "human_pose"
    assert names.tokenized("sam_instance") == "sam_mask"
    assert names.tokenized("tok_normal@448") == "normals"
