"""open4m.transfer.heads.maps."""

import numpy as np
import pytest
import torch

from open4m.rng import seeded
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch
from open4m.transfer.heads.maps import Config, Maps

WHOLE = Placed((4, 4), (1.0, 1.0), (0.0, 0.0), 4)


def head(**options):
    return Maps(Config(depth=1, channels=4, finer=2, **options), 6, (), 8)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_loss_is_over_known_numbers(loss):
    made = head(target="normals", outputs=3, loss=loss)
    outputs, wanted = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
    wanted[1, :, :, 1:] = torch.nan
    cost, _ = made.loss(outputs, Batch({"normals": list(wanted)}, [WHOLE] * 2), seeded(0))
    assert float(cost) == {"l1": 2.0, "l2": 4.0}[loss]
    assert made.count(Batch({"normals": list(wanted)}, [WHOLE] * 2)) == 3 * (16 + 4)


def test_the_figures_are_of_all_pixels_together():
    made = head()
    truth = np.array([[0.0, 1.0], [2.0, np.nan]], np.float32)
    assert made.measure([truth], [{"edges": truth}]) == {"r2": 1.0, "mean_absolute_error": 0.0}
    mean = made.measure([np.ones((2, 2), np.float32)], [{"edges": truth}])
    assert mean == {"r2": pytest.approx(0.0), "mean_absolute_error": pytest.approx(2 / 3)}


def test_maps_of_one_channel_have_none_and_pictures_are_drawn():
    one, three = head(), head(target="normals", outputs=3)
    flat = one.predict(torch.ones(1, 1, 2, 2), [WHOLE])[0]
    deep = three.predict(torch.ones(1, 3, 2, 2), [WHOLE])[0]
    assert (flat.shape, deep.shape) == ((4, 4), (4, 4, 3))
    picture = np.zeros((4, 4, 3), np.uint8)
    assert one.draw({"rgb": picture}, flat).size[0] < one.draw({"rgb": picture, "edges": flat}, flat).size[0]
    assert three.draw({"rgb": picture, "normals": deep}, deep).size[0] > 700
