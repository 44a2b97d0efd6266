"""What quantizers of a fixed lattice share: projections to it and back, and a codebook that is computed."""

import pytest
import torch

from open4m.tokenizers.quantizers.base import QuantizerConfig
from open4m.tokenizers.quantizers.fsq import FiniteScalarQuantizer
from open4m.tokenizers.quantizers.lattice import LatticeQuantizer
from open4m.tokenizers.quantizers.lfq import LookupFreeQuantizer

KINDS = {"fsq": (FiniteScalarQuantizer, 15), "lfq": (LookupFreeQuantizer, 16)}


@pytest.fixture(params=KINDS)
def made(request):
    kind, size = KINDS[request.param]
    config = QuantizerConfig(codebook_size=size, latent_dim=6, quantizer=request.param)
    return kind, config, kind(config, torch.Generator().manual_seed(0))


def test_projections_start_orthogonal_and_each_others_transpose(made):
    _, _, q = made
    d = q.codebook.shape[1]
    torch.testing.assert_close(q.project_in @ q.project_in.T, torch.eye(d))
    assert torch.equal(q.project_out, q.project_in.T)
    assert q.project_out.data_ptr() != q.project_in.data_ptr()  # two parameters, that learn apart


def test_weights_follow_the_generator_alone(made):
    kind, config, q = made
    again, other = (kind(config, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(again.project_in, q.project_in)
    assert not torch.equal(other.project_in, q.project_in)


def test_the_codebook_is_computed_and_not_saved(made):
    kind, config, q = made
    assert set(q.state_dict()) == {"project_in", "project_out"}
    assert q.codebook.shape == (config.codebook_size, q.codebook.shape[1])
    assert len(q.codebook.unique(dim=0)) == config.codebook_size
    with torch.device("meta"):
        empty = kind(config)
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(q.state_dict())
    empty.reset_buffers()
    for name, buffer in q.named_buffers():
        assert torch.equal(dict(empty.named_buffers())[name], buffer), name


def test_a_code_is_its_point_of_the_lattice_led_back(made):
    _, config, q = made
    ids = torch.arange(config.codebook_size).reshape(1, 1, -1)
    codes = q.codes(ids)  # (1, D, 1, V)
    expected = torch.stack([q.project_out @ point for point in q.codebook], dim=-1)
    torch.testing.assert_close(codes[0, :, 0], expected)


def test_a_lattice_says_its_own_points():
    with pytest.raises(NotImplementedError):
        LatticeQuantizer(QuantizerConfig(codebook_size=4, latent_dim=2, quantizer="fsq"))
