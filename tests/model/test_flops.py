"""What a batch needs, against what is counted while it is computed."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.model.flops import forward_flops
from open4m.model.fourm import FourMTransformer
from open4m.model.packing import pack

SPECS = (
    ModalitySpec(key="rgb", family="grid", vocab_size=7, grid=(3, 3)),
    ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
    ModalitySpec(key="caption", family="sequence", vocab_size=5, max_length=4),
)
PIXELS = {"rgb_pixels": torch.zeros(2, 3, 4, 4)}
FULL = (
    [(b, 0, p, 1) for b in range(2) for p in range(3)] + [(b, 1, p, -1) for b in range(2) for p in range(2)],
    [(b, 0, p, -1, 2) for b in range(2) for p in range(3, 9)],
)


def make(**options):
    architecture = Architecture(dim=16, encoder_depth=2, decoder_depth=3, heads=2, **options)
    return FourMTransformer(FourMConfig.of(architecture, SPECS)).initialize(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, {"activation": "gelu", "mlp_bias": True}, {"register_tokens": 3}])
def test_a_full_batch_of_one_target_grid_needs_what_is_computed(options):
    model = make(**options)
    batch = pack(model.config, *FULL, pixels=PIXELS)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch)
    assert forward_flops(model.config, batch) == counter.get_total_flops()


def test_padding_and_tokens_that_do_not_see_each_other_need_nothing():
    config = make().config
    full = forward_flops(config, pack(config, *FULL, pixels=PIXELS))
    inputs, targets = ([row for row in rows if row[0] == 0] for rows in FULL)
    alone = forward_flops(config, pack(config, inputs, targets, pixels={"rgb_pixels": PIXELS["rgb_pixels"][:1]}))
    padded = pack(config, [*inputs, (1, 0, 0, 1)], targets, pixels=PIXELS)
    assert full == 2 * alone
    assert alone < forward_flops(config, padded) < full
    caption = [(0, 2, p, 1, 1) for p in range(4)]
    causal = forward_flops(config, pack(config, [(0, 0, 0, 1)], caption))
    grid = forward_flops(config, pack(config, [(0, 0, 0, 1)], [(0, 0, p, -1, 1) for p in range(4)]))
    # 16 pairs of queries see each other in the grid, 10 in the caption, in 3 blocks; 7 codes are scored, not 5 words
    assert grid - causal == 3 * 6 * 4 * 16 + 4 * 2 * 16 * (7 - 5)
