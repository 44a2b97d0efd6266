"""What cannot be written in the authors' format is said in words."""

import pytest

from open4m.generate.pipeline import FourM
from open4m.hub.ml4m.export import _kind
from open4m.nn.unet import UNetConfig
from open4m.types import Open4MError


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_without_a_name_is_described(part):
    config = FourM.from_pretrained("scenes").grids["semseg"].config
    network = getattr(config, part)
    with pytest.raises(
        Open4MError, match=r"semseg: the authors' code has no name for a ViT of .*width 128, depth \d, heads 2"
    ):
        _kind(config, network, "enc")


def test_a_size_at_its_default_is_said_and_another_option_is_not():
    config = FourM.from_pretrained("scenes").grids["semseg"].config
    with pytest.raises(Open4MError, match=r"for a UNet of .*channels 32.*blocks 1") as error:
        _kind(config, UNetConfig(channels=32, blocks=1), "dec")
    assert "code_upsampling" not in str(error.value)
