"""Jobs that make raw shards, labels and tokens."""

import numpy as np
import pytest

from open4m import modalities
from open4m.data import label, render, tokenize
from open4m.modalities.crops import Crop
from open4m.nn.vit import ViTConfig
from open4m.store.shards import RawDataset
from open4m.store.tokens import TokenStore
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.recipes import tokenizer
from open4m.types import Boxes, Open4MError

CAPTIONS = ["a red cube", "a blue ball on the left", ""]


class Numbers:
    """Images of one color and captions, by index; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def samples(self, indices):
        self.asked += list(indices)
        return [
            {
                "rgb": np.full((20, 30, 3), i * 9 % 256, np.uint8),
                "caption": CAPTIONS[i % 3],
                "depth": np.full((20, 30), i + 1.0),
            }
            for i in indices
        ]


class Brightness:
    """A labeller: depth from brightness."""

    modality, source, fingerprint = "depth", "rgb", "brightness"

    def label(self, values):
        return [value.mean(2).astype(np.float32) + 1 for value in values]


@pytest.fixture
def text():
    return TextTokenizer.fit(CAPTIONS, ["cube"], vocab_size=4500, sentinels=8)


@pytest.fixture
def rgb_tokenizer():
    import torch

    vit = ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of("rgb", image_size=16, patch_size=8, codebook_size=8, encoder=vit, decoder=vit)
    return Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))


def test_rendered_shards_hold_the_samples_and_a_rerun_does_what_is_missing(tmp_path):
    dataset = Numbers()
    counts = render.render(dataset, tmp_path, ["rgb", "caption"], 70, shard_rows=32)
    assert counts == (3, 0)
    assert dataset.asked == list(range(70))
    raw = RawDataset(tmp_path, ["rgb", "caption"])
    assert len(raw) == 70
    assert raw[67]["caption"] == CAPTIONS[67 % 3]
    assert (raw[67]["rgb"] == 67 * 9 % 256).all()
    (tmp_path / "caption" / "shard-00001.tar").unlink()
    assert render.render(dataset, tmp_path, ["rgb", "caption"], 70, shard_rows=32) == (1, 2)
    assert dataset.asked[70:] == list(range(32, 64))


def test_labels_are_aligned_with_their_source(tmp_path):
    render.render(Numbers(), tmp_path, ["rgb"], 40, shard_rows=16)
    label.label(Brightness(), tmp_path)
    raw = RawDataset(tmp_path, ["rgb", "depth"])
    assert [float(raw[i]["depth"].mean()) for i in (0, 17, 39)] == [
        float(raw[i]["rgb"].mean()) + 1 for i in (0, 17, 39)
    ]


def test_tokens_are_those_of_the_tokenizer_on_the_central_square(tmp_path, text, rgb_tokenizer):
    render.render(Numbers(), tmp_path / "raw", ["rgb", "caption"], 40, shard_rows=16)
    tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "rgb", rgb_tokenizer)
    tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "caption", text, max_length=6)
    tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "rgb_pixels", None, image_size=16)
    store = TokenStore(tmp_path / "tokens", ["rgb", "caption", "rgb_pixels"])
    rows = np.array([3, 39, 16])
    images = [modalities.get("rgb").crop(Numbers().samples([int(r)])[0]["rgb"], Crop.center(20, 30, 16)) for r in rows]
    assert (store.grid("rgb", rows) == rgb_tokenizer.encode_batch(images)).all()
    ids, lengths = store.sequence("caption", rows)
    for row, i, n in zip(rows, ids, lengths, strict=True):
        expected = text.encode_text(CAPTIONS[row % 3])[:5]
        assert i[:n].tolist() == [*expected, text.eos]
    pixels = modalities.get("rgb_pixels")
    for image, file in zip(images, store.pixels("rgb_pixels", rows), strict=True):
        assert np.abs(pixels.read(file).astype(int) - image).max() <= 3  # JPEG of a flat image


def test_statistics_are_the_mean_and_deviation_of_each_channel(tmp_path):
    render.render(Numbers(), tmp_path, ["depth"], 10, shard_rows=16)
    mean, std = tokenizer.statistics(RawDataset(tmp_path, ["depth"]), "depth")
    assert mean == pytest.approx([5.5])
    assert std == pytest.approx([np.arange(1, 11).std()])


def test_a_modality_and_a_tokenizer_that_do_not_fit_are_refused(tmp_path, text):
    render.render(Numbers(), tmp_path / "raw", ["rgb"], 4)
    with pytest.raises(Open4MError, match="rgb: a RGB cannot be tokenized by TextTokenizer"):
        tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "rgb", text)


def test_tokens_of_a_retrained_tokenizer_do_not_join_the_old_ones(tmp_path, rgb_tokenizer):
    import torch

    render.render(Numbers(), tmp_path / "raw", ["rgb"], 4)
    tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "rgb", rgb_tokenizer)
    retrained = Tokenizer(VQVAE(rgb_tokenizer.config, torch.Generator().manual_seed(1)))
    with pytest.raises(Open4MError, match=r"tokenizer .*delete this one to start over"):
        tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "rgb", retrained)


class Wide:
    """A wide image with a box in its right half, outside of the central square but for a sliver."""

    def samples(self, indices):
        boxes = Boxes([[0.25, 0.0, 0.5, 1.0], [0.9, 0.0, 1.0, 1.0]], ["cube", "cube"])
        return [{"rgb": np.zeros((10, 20, 3), np.uint8), "boxes": boxes} for _ in indices]


def test_boxes_of_images_that_are_not_square_follow_the_central_crop(tmp_path, text):
    render.render(Wide(), tmp_path / "raw", ["rgb", "boxes"], 1)
    tokenize.tokenize(tmp_path / "raw", tmp_path / "tokens", "boxes", text, image="rgb")
    ids, lengths = TokenStore(tmp_path / "tokens", ["boxes"]).sequence("boxes", np.array([0]))
    boxes = modalities.get("boxes").decode(ids[0, : lengths[0]].tolist(), text)
    assert np.allclose(boxes.corners, [[0.0, 0.0, 0.5, 1.0]], atol=1e-3)  # the square is x from 0.25 to 0.75
