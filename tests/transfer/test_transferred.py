"""open4m.transfer.transferred, origin, network: what a transfer leaves, and what it begins with."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from toy_labelled import Toy

from open4m import FourM, __version__, weights
from open4m.config import Duration
from open4m.rng import seeded
from open4m.train.config import TrainConfig
from open4m.transfer.augment import lists
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.network import TransferNetwork
from open4m.transfer.origin import open_origin
from open4m.transfer.task import TransferTask
from open4m.transfer.transferred import Transferred, described, is_transfer
from open4m.types import Open4MError


def made(origin_name, kind="semseg", head=None, backbone=None):
    """A transfer that was not trained."""
    config = TransferConfig(
        kind=kind,
        head={"depth": 1, "channels": 4} if head is None else head,
        train=TrainConfig(length=Duration(10, "steps"), batch_size=4, precision="fp32"),
        augment=lists.plain(8),
        backbone=backbone or BackboneConfig(),
    )
    origin = open_origin(origin_name, config.backbone)
    config = config.on(origin.config)
    data = Toy(4)
    task = TransferTask(config, origin, data, data, lambda *_: None)
    network = task.build_model()
    about = described(config, network, data.classes(task.target), __version__)
    return Transferred(about, network.eval(), origin.tokenizers)


def images():
    return [Toy(3, sizes=((20, 30), (32, 32), (41, 17)))[i]["rgb"] for i in range(3)]


def test_what_is_saved_predicts_the_same(model_folder, tmp_path):
    before = made(model_folder)
    before.save(tmp_path / "model")
    after = Transferred.from_pretrained(tmp_path / "model")
    assert after.classes == ("floor", "red", "green", "blue")
    for one, other, image in zip(before.predict(images()), after.predict(images()), images(), strict=True):
        assert one.shape == image.shape[:2]
        np.testing.assert_array_equal(one, other)
    alone = [after.predict([image])[0] for image in images()]  # whatever lies beside them
    for one, other in zip(after.predict(images()), alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_adapters_are_merged_into_what_is_saved(model_folder, tmp_path):
    before = made(model_folder, backbone=BackboneConfig(tune="lora", lora_rank=2))
    with torch.no_grad():
        for name, parameter in before.network.named_parameters():
            if name.endswith("up.weight") and "parametrizations" in name:
                parameter.normal_(generator=seeded(1), std=0.3)
    before.save(tmp_path / "model")
    names = weights.read_tensors(tmp_path / "model" / weights.WEIGHTS)
    assert not any("parametrizations" in name for name in names)
    after = Transferred.from_pretrained(tmp_path / "model")
    pixels = torch.from_numpy(np.stack([images()[1]])).movedim(-1, 1)
    with torch.no_grad():
        one, other = (m.network({"rgb_pixels": pixels}) for m in (before, after))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        plain = made(model_folder).network({"rgb_pixels": pixels})
    assert not torch.allclose(other, plain)


def test_tokenizers_of_inputs_are_saved_with_it(model_folder, tmp_path):
    before = made(model_folder, backbone=BackboneConfig(inputs=("rgb", "depth")))
    before.save(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    after = Transferred.from_pretrained(tmp_path / "elsewhere")
    sample = Toy(3)[1]
    given = {"rgb": sample["rgb"], "depth": sample["depth"]}
    np.testing.assert_array_equal(before.predict([given])[0], after.predict([given])[0])
    with pytest.raises(Open4MError, match="examples have no depth"):
        after.predict([sample["rgb"]])


def test_another_transfer_begins_with_the_encoder_of_one_and_a_head_of_its_own(model_folder, tmp_path):
    """From ImageNet-21K to 1K (D.2)."""
    first = made(model_folder)
    with torch.no_grad():
        for parameter in first.network.backbone.parameters():
            parameter += 0.01
    first.save(tmp_path / "run" / "model")
    assert is_transfer(tmp_path / "run")
    second = made(tmp_path / "run", "classification", {})
    theirs = first.network.backbone.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in second.network.backbone.state_dict().items())
    assert second.classes == ("red", "green", "blue")
    with pytest.raises(Open4MError, match="reads rgb, got rgb, depth"):
        open_origin(tmp_path / "run", BackboneConfig(inputs=("rgb", "depth")))


def test_from_scratch_has_the_architecture_and_other_weights(model_folder):
    trained, fresh, again = (made(name) for name in (model_folder, *[f"scratch:{model_folder}"] * 2))
    ours, new, more = (m.network.backbone.state_dict() for m in (trained, fresh, again))
    assert ours.keys() == new.keys()
    assert all(torch.equal(new[name], more[name]) for name in new)
    assert not torch.equal(ours["modality"], new["modality"])


def test_features_are_those_of_the_pre_trained_model(model_folder):
    model, network = FourM.from_pretrained(model_folder), made(model_folder).network
    image = images()[1]
    with torch.no_grad():
        found = network.backbone({"rgb_pixels": torch.from_numpy(image).movedim(-1, 0)[None]}).map
    torch.testing.assert_close(found.movedim(1, -1), model.features(image), rtol=1e-5, atol=1e-5)


def test_heads_are_as_deep_as_the_last_norm(model_folder):
    network = made(model_folder).network
    assert isinstance(network, TransferNetwork)
    depths = {name: network.depth_of(name) for name, _ in network.named_parameters()}
    assert {d for n, d in depths.items() if n.startswith("head.")} == {network.backbone.depth + 1}
    assert depths["backbone.modality"] == 0


HEAD_FILE = """
from open4m.transfer.heads.classification import Classification


class Shouting(Classification):
    name = "shouting"


HEAD = Shouting
"""


def test_a_users_head_travels_with_the_model_and_is_run_only_if_trusted(model_folder, tmp_path):
    path = tmp_path / "shouting.py"
    path.write_text(HEAD_FILE)
    made(model_folder, str(path), {}).save(tmp_path / "model", path)
    path.unlink()
    with pytest.raises(Open4MError, match=r"carries its head, a program; read it, then use --trust"):
        Transferred.from_pretrained(tmp_path / "model")
    held = Transferred.from_pretrained(tmp_path / "model", trust=True)
    assert type(held.network.head).__name__ == "Shouting"
    assert len(held.predict(images())) == 3


@pytest.mark.parametrize("file", [weights.CONFIG, weights.WEIGHTS])
def test_damage_is_named(file, model_folder, tmp_path):
    made(model_folder).save(tmp_path / "model")
    path = tmp_path / "model" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Open4MError, match=file):
        Transferred.from_pretrained(tmp_path / "model")


def test_a_folder_without_a_transfer_is_refused(tmp_path, model_folder):
    for folder in (tmp_path, tmp_path / "nothing", model_folder):
        assert not is_transfer(folder)
        with pytest.raises(Open4MError, match="not what open4m transfer wrote"):
            Transferred.from_pretrained(folder)


def test_what_is_no_image_is_refused(model_folder):
    held = made(model_folder)
    for wrong in (3, "nowhere.jpg", {"caption": "a"}, np.zeros((2, 2, 7))):
        with pytest.raises(Open4MError):
            held.predict([wrong])
    assert dataclasses.is_dataclass(held.config)


def test_one_sample_that_is_in_no_list_is_told_apart_from_a_list(model_folder):
    """A text is a list of letters, and an image one of rows."""
    held = made(model_folder)
    image = np.zeros((9, 7, 3), np.uint8)
    for one in ("photo.jpg", image, {"rgb": image}):
        with pytest.raises(Open4MError, match=r"predict: expected a list of samples, got one; write predict\(\[sample"):
            held.predict(one)
    assert len(held.predict(image[None])) == len(held.predict([image])) == 1
