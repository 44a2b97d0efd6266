"""The copies of the reference cases say what the cases say; what was left out of them is zeros or is not there."""

import json

import pytest
import torch
from reference_cases import COPIES, REFERENCE, copy_of
from safetensors import safe_open
from safetensors.torch import load_file

COPIED = sorted(file.parent.relative_to(COPIES).as_posix() for file in COPIES.rglob("model.safetensors.xz"))


def source_of(name):
    return REFERENCE / name.replace("parts/", "pipeline/")


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_has_the_weights_of_its_case(name):
    """To the bit, but for drawn weights: 1.1e-7 at worst. Left out, as zeros: embeddings that no case reads, and
    diffusion decoders of which nothing is expected."""
    if not REFERENCE.is_dir():
        pytest.skip(f"{REFERENCE}: the reference cases are not here; OPEN4M_REFERENCE names their folder")
    copied, source = (load_file(at / "model.safetensors") for at in (copy_of(name), source_of(name)))
    assert copied.keys() == source.keys()
    recipe = COPIES / name / "drawn.json"
    recipe = json.loads(recipe.read_text())["tensors"] if recipe.is_file() else {}
    for key, tensor in source.items():
        found = copied[key]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), key
        if key.endswith("token_emb.weight"):
            tensor = torch.where(found.flatten(1).any(1)[:, None], tensor, 0)
        elif key.startswith("decoder.") and name.startswith("pipeline") and not found.any():
            continue
        torch.testing.assert_close(found, tensor, rtol=0, atol=2e-7 if key in recipe else 0)
    metadata = []
    for at in (copy_of(name), source_of(name)):
        with safe_open(at / "model.safetensors", "pt") as file:
            metadata.append(file.metadata())
        assert (at / "config.json").read_text() == (source_of(name) / "config.json").read_text()
    assert metadata[0] == metadata[1]


@pytest.mark.parametrize("name", sorted({name.split("/EPFL")[0] for name in COPIED}))
def test_a_copy_expects_what_its_case_expects(name):
    """To the bit. Left out: values that no test reads, patches that no model sees, pixels of logits."""
    if not REFERENCE.is_dir():
        pytest.skip(f"{REFERENCE}: the reference cases are not here; OPEN4M_REFERENCE names their folder")
    copied, source = (load_file(at / "case.safetensors") for at in (copy_of(name), source_of(f"{name}/")))
    for key, tensor in copied.items():
        if key.startswith("pixels/"):
            seen = tensor != 0
            assert seen.any()
            assert torch.equal(tensor[seen], source[key][seen])
        elif tensor.shape != source[key].shape:
            assert torch.equal(tensor, source[key][..., ::3, ::3])
        else:
            assert torch.equal(tensor, source[key])
