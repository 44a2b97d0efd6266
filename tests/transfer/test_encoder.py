"""open4m.transfer.encoder: what encoders have in common."""

import pytest
from torch import nn

from open4m.rng import seeded
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.encoder import Encoder
from open4m.types import Open4MError


class Two(Encoder):
    def __init__(self):
        super().__init__()
        self.width, self.table = 4, nn.Embedding(3, 4)
        self.encoder = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.encoder_norm = nn.LayerNorm(4)


def test_depths_count_from_the_embeddings_to_the_norm():
    encoder = Two()
    depths = {name: encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths == {
        "table.weight": 0,
        "encoder.0.weight": 1,
        "encoder.0.bias": 1,
        "encoder.1.weight": 2,
        "encoder.1.bias": 2,
        "encoder_norm.weight": 3,
        "encoder_norm.bias": 3,
    }


@pytest.mark.parametrize(("tune", "count"), [("all", 4 * 3 + 2 * 20 + 8), ("nothing", 0), ("lora", 2 * 2 * 8)])
def test_so_many_numbers_are_trained(tune, count):
    encoder = Two()
    encoder.tune(BackboneConfig(tune=tune, lora_rank=2), seeded(0))
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == count


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(Open4MError, match="expected 4 at most"):
        Two().tune(BackboneConfig(tune="lora", lora_rank=5), seeded(0))
