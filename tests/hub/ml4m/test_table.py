"""Where the parts of a public model are found on disk."""

import pytest

from open4m.hub.ml4m.table import TEXT, text_here
from open4m.types import Open4MError


def test_of_several_text_tokenizers_the_public_one_is_taken(tmp_path):
    repository = tmp_path / "hub" / "EPFL-VILAB" / "4M-7_B_CC12M"
    repository.mkdir(parents=True)
    assert text_here(repository) is None
    for name in ("text_tokenizer_4m_wordpiece_a.json", "text_tokenizer_4m_wordpiece_b.json"):
        (repository.parent / name).write_text("{}")
        if name.endswith("a.json"):
            assert text_here(repository) == repository.parent / name
    with pytest.raises(Open4MError, match=r"several text tokenizers.*name one"):
        text_here(repository)
    (repository.parent / TEXT.name).write_text("{}")
    assert text_here(repository) == repository.parent / TEXT.name
