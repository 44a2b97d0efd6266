"""Jobs that make raw shards, labels and tokens."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from open4m import config as configs
from open4m import labellers, modalities
from open4m.data.encoders import encoder_of
from open4m.data.jobs import local as jobs
from open4m.data.label import Label
from open4m.data.render import Render
from open4m.data.rows import check_store
from open4m.data.tokenize import Output, Tokenize
from open4m.labellers.base import Labeller
from open4m.modalities.crops import Crop
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.nn.mlp import MLPConfig
from open4m.nn.vit import ViTConfig
from open4m.store.manifest import Manifest
from open4m.store.shards import RawDataset, write_shard
from open4m.store.tokens import TokenHeader, TokenStore
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


class Brightness(Labeller):
    """A labeller: depth from brightness; ``loaded`` counts how often it was loaded."""

    modality, source, square = "depth", "rgb", True
    fingerprint = "0123456789abcdef"
    loaded: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def load(cls, model="", device="cpu", settings=None, modality=""):
        cls.loaded.append((model, device))
        return cls()

    def label(self, values):
        return [value.mean(2).astype(np.float32) + 1 for value in values]


@pytest.fixture
def text(tmp_path):
    text = TextTokenizer.fit(CAPTIONS, ["cube"], vocab_size=4500, sentinels=8)
    text.save(tmp_path / "text")
    return text


@pytest.fixture
def rgb_tokenizer(tmp_path):
    import torch

    vit = ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of("rgb", image_size=16, patch_size=8, codebook_size=8, encoder=vit, decoder=vit)
    tokenizer = Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))
    tokenizer.save(tmp_path / "rgb")
    return tokenizer


def job_of(folder, keys):
    """Tokenizing with the tokenizers of the fixtures, which are saved in ``folder``."""
    outputs = {
        "rgb": Output("rgb", folder / "rgb"),
        "caption": Output("caption", folder / "text", max_length=6),
        "rgb_pixels": Output("rgb_pixels", image_size=16),
    }
    return Tokenize(folder / "raw", folder / "tokens", tuple(outputs[key] for key in keys))


def test_rendered_shards_hold_the_samples_and_a_rerun_does_what_is_missing(tmp_path):
    dataset = Numbers()
    counts = jobs.run(Render(dataset, tmp_path, ["rgb", "caption"], 70, shard_rows=32))
    assert counts == (3, 0)
    assert dataset.asked == list(range(70))
    raw = RawDataset(tmp_path, ["rgb", "caption"])
    assert len(raw) == 70
    assert raw[67]["caption"] == CAPTIONS[67 % 3]
    assert (raw[67]["rgb"] == 67 * 9 % 256).all()
    (tmp_path / "caption" / "shard-00001.tar").unlink()
    assert jobs.run(Render(dataset, tmp_path, ["rgb", "caption"], 70, shard_rows=32)) == (1, 2)
    assert dataset.asked[70:] == list(range(32, 64))


def test_labels_are_aligned_with_their_source(tmp_path, monkeypatch):
    monkeypatch.setattr(labellers, "get", {"brightness": Brightness}.__getitem__)
    jobs.run(Render(Numbers(), tmp_path, ["rgb"], 40, shard_rows=16))
    job = Label("brightness", "folder", tmp_path)
    assert jobs.run(job) == (3, 0)
    assert Brightness.loaded == [("folder", "cpu")]  # once for all shards
    raw = RawDataset(tmp_path, ["rgb", "depth"])
    assert [float(raw[i]["depth"].mean()) for i in (0, 17, 39)] == [
        float(raw[i]["rgb"].mean()) + 1 for i in (0, 17, 39)
    ]
    assert jobs.run(job) == (0, 3)


def test_tokens_are_those_of_the_tokenizer_on_the_central_square(tmp_path, text, rgb_tokenizer):
    jobs.run(Render(Numbers(), tmp_path / "raw", ["rgb", "caption"], 40, shard_rows=16))
    assert jobs.run(job_of(tmp_path, ("rgb", "caption", "rgb_pixels"))) == (3, 0)
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


def test_one_pass_makes_what_is_missing_of_each_shard(tmp_path, text, rgb_tokenizer, monkeypatch):
    """Every sample is read once for all modalities, and not at all where nothing is missing."""
    jobs.run(Render(Numbers(), tmp_path / "raw", ["rgb", "caption"], 40, shard_rows=16))
    job, read = job_of(tmp_path, ("rgb", "caption", "rgb_pixels")), []
    monkeypatch.setattr(RawDataset, "__getitem__", counted(read, RawDataset.__getitem__))
    jobs.run(job)
    assert read == list(range(40))
    files = {path: path.read_bytes() for path in (tmp_path / "tokens").glob("*/shard-*")}
    for name, shard in (("rgb", 1), ("caption", 1), ("rgb_pixels", 2)):
        (tmp_path / "tokens" / name / f"shard-{shard:05d}.arrow").unlink()
    read.clear()
    kept = tmp_path / "tokens" / "caption" / "shard-00002.arrow"
    written = kept.stat().st_mtime_ns
    assert jobs.run(job) == (2, 1)
    assert read == list(range(16, 40))
    assert {path: path.read_bytes() for path in (tmp_path / "tokens").glob("*/shard-*")} == files
    assert kept.stat().st_mtime_ns == written


def counted(read, get):
    def getitem(self, i):
        read.append(i)
        return get(self, i)

    return getitem


def test_jobs_are_pickled_without_what_they_opened(tmp_path, text, rgb_tokenizer):
    jobs.run(Render(Numbers(), tmp_path / "raw", ["rgb", "caption"], 4))
    job = job_of(tmp_path, ("rgb", "caption"))
    before = pickle.dumps(job)
    jobs.run(job)
    assert pickle.dumps(job) == before
    assert pickle.loads(before) == job
    assert jobs.run(pickle.loads(before)) == (0, 1)


def test_statistics_are_the_mean_and_deviation_of_each_channel(tmp_path):
    jobs.run(Render(Numbers(), tmp_path, ["depth"], 10, shard_rows=16))
    mean, std = tokenizer.statistics(RawDataset(tmp_path, ["depth"]), "depth")
    assert mean == pytest.approx([5.5])
    assert std == pytest.approx([np.arange(1, 11).std()])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output("rgb", Path("text")), "config.json: no such file"),
        (Output("depth", Path("rgb")), "depth: .*rgb tokenizes rgb"),
        (Output("caption", Path("rgb")), "text.json: no such file"),
        (Output("rgb"), "rgb: name the folder of its tokenizer"),
        (Output("rgb_pixels"), "rgb_pixels: give the image_size"),
        (Output("t5_caption"), "t5_caption: a VectorSequence is not tokenized"),
    ],
)
def test_a_modality_and_a_tokenizer_that_do_not_fit_are_refused(tmp_path, text, rgb_tokenizer, output, message):
    jobs.run(Render(Numbers(), tmp_path / "raw", ["rgb", "depth", "caption"], 4))
    output = replace(output, tokenizer=output.tokenizer and tmp_path / output.tokenizer)
    with pytest.raises(Open4MError, match=message):
        jobs.run(Tokenize(tmp_path / "raw", tmp_path / "tokens", (output,)))
    assert not (tmp_path / "tokens").exists()


def test_tokens_of_a_retrained_tokenizer_do_not_join_the_old_ones(tmp_path, rgb_tokenizer):
    import torch

    jobs.run(Render(Numbers(), tmp_path / "raw", ["rgb"], 4))
    jobs.run(job_of(tmp_path, ("rgb",)))
    Tokenizer(VQVAE(rgb_tokenizer.config, torch.Generator().manual_seed(1))).save(tmp_path / "retrained")
    output = Output("rgb", tmp_path / "retrained")
    with pytest.raises(Open4MError, match=r"tokenizer .*delete this one to start over"):
        jobs.run(Tokenize(tmp_path / "raw", tmp_path / "tokens", (output,)))


class Wide:
    """A wide image with a box in its right half, outside of the central square but for a sliver."""

    def samples(self, indices):
        boxes = Boxes([[0.25, 0.0, 0.5, 1.0], [0.9, 0.0, 1.0, 1.0]], ["cube", "cube"])
        maps = {"rgb": np.zeros((10, 20, 3), np.uint8), "depth": np.ones((10, 20), np.float32)}
        return [{**maps, "boxes": boxes, "caption": "a red cube"} for _ in indices]


@pytest.mark.parametrize("image", ["rgb", None])
@pytest.mark.parametrize("others", [(), ("rgb_pixels",), ("caption",)])
def test_boxes_of_images_that_are_not_square_follow_the_central_crop(tmp_path, text, image, others):
    """Whether the image is tokenized too, is named, or only lies in the raw data."""
    jobs.run(Render(Wide(), tmp_path / "raw", ["rgb", "boxes", "caption"], 1))
    known = {"rgb_pixels": Output("rgb_pixels", image_size=16), "caption": Output("caption", tmp_path / "text")}
    outputs = (Output("boxes", tmp_path / "text"), *(known[name] for name in others))
    jobs.run(Tokenize(tmp_path / "raw", tmp_path / "tokens", outputs, image=image))
    ids, lengths = TokenStore(tmp_path / "tokens", ["boxes"]).sequence("boxes", np.array([0]))
    boxes = modalities.get("boxes").decode(ids[0, : lengths[0]].tolist(), text)
    assert np.allclose(boxes.corners, [[0.0, 0.0, 0.5, 1.0]], atol=1e-3)  # the square is x from 0.25 to 0.75


def test_boxes_follow_a_map_where_there_is_no_image(tmp_path, text):
    jobs.run(Render(Wide(), tmp_path / "raw", ["depth", "boxes"], 1))
    job = Tokenize(tmp_path / "raw", tmp_path / "tokens", (Output("boxes", tmp_path / "text"),))
    jobs.run(job)
    assert TokenStore(tmp_path / "tokens", ["boxes"]).sequence("boxes", np.array([0]))[1].tolist() == [6]


class Crooked(Numbers):
    """Of the second sample, depth shows another picture."""

    def samples(self, indices):
        made = super().samples(indices)
        return [{**one, "depth": one["depth"][:, :20]} if i == 1 else one for i, one in zip(indices, made, strict=True)]


def test_maps_of_another_picture_are_refused_with_the_shards_and_the_key(tmp_path, rgb_tokenizer):
    jobs.run(Render(Crooked(), tmp_path / "raw", ["rgb", "depth"], 3))
    raw = RawDataset(tmp_path / "raw", ["rgb", "depth"])
    assert raw[0]["depth"].shape == (20, 30)
    message = r"raw: key 00000001: rgb is 20×30 and depth 20×20 \(height × width\)"
    with pytest.raises(Open4MError, match=message):
        raw[1]
    outputs = (Output("rgb", tmp_path / "rgb"),)
    with pytest.raises(Open4MError, match=message):
        jobs.run(Tokenize(tmp_path / "raw", tmp_path / "tokens", outputs, image="depth"))
    jobs.run(Tokenize(tmp_path / "raw", tmp_path / "tokens", outputs))  # which reads no depth


def test_labels_show_the_central_square_and_say_so(tmp_path, text, rgb_tokenizer, monkeypatch):
    """Beside wide images they are square, and are cropped once."""
    monkeypatch.setattr(labellers, "get", {"brightness": Brightness}.__getitem__)
    jobs.run(Render(Wide(), tmp_path / "raw", ["rgb", "boxes"], 2))
    jobs.run(Label("brightness", "folder", tmp_path / "raw"))
    raw = RawDataset(tmp_path / "raw", ["rgb", "depth"])
    assert (raw[0]["depth"].shape, raw.squares) == ((10, 10), {"depth"})
    pixels = Output("rgb_pixels", image_size=16)
    for name, image, others in (("a", "depth", [pixels]), ("b", "depth", []), ("c", None, [])):
        outputs = (Output("boxes", tmp_path / "text"), *others)
        jobs.run(Tokenize(tmp_path / "raw", tmp_path / name, outputs, image=image))
        assert TokenStore(tmp_path / name, ["boxes"]).sequence("boxes", np.array([0]))[1].tolist() == [6]
    shutil.rmtree(tmp_path / "raw" / "rgb")
    with pytest.raises(Open4MError, match="only the central square, in depth: add the image"):
        jobs.run(Tokenize(tmp_path / "raw", tmp_path / "d", (Output("boxes", tmp_path / "text"),), image="depth"))


def test_labels_of_other_weights_are_not_kept_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(labellers, "get", {"brightness": Brightness}.__getitem__)
    jobs.run(Render(Wide(), tmp_path / "raw", ["rgb"], 2))
    jobs.run(Label("brightness", "folder", tmp_path / "raw"))
    assert jobs.run(Label("brightness", "folder", tmp_path / "raw")) == (0, 1)
    monkeypatch.setattr(Brightness, "fingerprint", "other weights")
    assert jobs.run(Label("brightness", "folder", tmp_path / "raw")) == (1, 0)
    assert Manifest.read(tmp_path / "raw" / "depth").header["labeller"] == "other weights"
    folder = tmp_path / "raw" / "depth"
    header = {"kind": "raw"}  # as version 0.2 wrote them
    Manifest(header=header, shards=Manifest.read(folder).shards).write(folder)
    assert jobs.run(Label("brightness", "folder", tmp_path / "raw")) == (0, 1)


# ---- samples that cannot be used


def damage(root, keys, modality="rgb", content=b"no image"):
    """Write the shards of a modality again, with other bytes for some keys."""
    data = RawDataset(root, [modality])
    for shard, rows in data.shards.items():
        files = [(data.key(i), content if data.key(i) in keys else data.read(i, modality)) for i in rows]
        write_shard(root, modality, shard, files)


def test_the_sample_that_cannot_be_read_or_tokenized_is_named(tmp_path, text, rgb_tokenizer, monkeypatch):
    jobs.run(Render(Numbers(), tmp_path / "raw", ("rgb", "caption"), 5))
    job = Tokenize(tmp_path / "raw", tmp_path / "tokens", outputs(tmp_path))
    key = RawDataset(tmp_path / "raw", ["rgb"]).key(3)
    monkeypatch.setattr(
        "open4m.data.encoders.SequenceEncoder.encode",
        lambda self, values: [self.modality.encode(v, self.text, 8) if "left" not in v else refuse() for v in values],
    )

    def refuse():
        raise Open4MError("caption: not of these words")

    with pytest.raises(Open4MError, match=rf"caption/shard-00000\.tar: key {key[:-1]}1, modality caption: .*words"):
        jobs.run(job)
    damage(tmp_path / "raw", {key})
    with pytest.raises(Open4MError, match=rf"rgb/shard-00000\.tar: key {key}, modality rgb: .*not a readable image"):
        jobs.run(replace(job, tokens=tmp_path / "other"))


def test_a_labeller_names_the_image_that_it_refuses(tmp_path, monkeypatch):
    class Fussy(Brightness):
        def label(self, values):
            if any(value[0, 0, 0] == 27 for value in values):
                raise Open4MError("too dark")
            return super().label(values)

    jobs.run(Render(Numbers(), tmp_path, ("rgb",), 5))
    monkeypatch.setattr(labellers, "get", lambda name: Fussy)
    key = RawDataset(tmp_path, ["rgb"]).key(3)
    with pytest.raises(Open4MError, match=rf"rgb/shard-00000\.tar: key {key}, modality rgb: too dark"):
        jobs.run(Label("fussy", "weights", tmp_path))


def test_few_damaged_samples_are_left_out_of_all_modalities_and_many_end_the_job(tmp_path, text, rgb_tokenizer, caplog):
    jobs.run(Render(Numbers(), tmp_path / "raw", ("rgb", "caption"), 8))
    keys = RawDataset(tmp_path / "raw", ["rgb"]).keys
    damage(tmp_path / "raw", {keys[2]})
    job = Tokenize(tmp_path / "raw", tmp_path / "tokens", outputs(tmp_path), allowed=0.2)
    jobs.run(job)
    store = TokenStore(tmp_path / "tokens", ["rgb", "caption"])
    kept = [key for key in keys if key != keys[2]]
    assert store.keys(np.arange(len(store))) == kept
    assert "1 of 8 samples were left out" in caplog.text
    (reject,) = job.rejects.read(0)
    assert reject.key == keys[2]
    assert "modality rgb" in reject.detail
    # what is added later keeps in step with what is there
    more = replace(job, outputs=(*job.outputs, Output("rgb_pixels", image_size=16)))
    jobs.run(more)
    assert TokenStore(tmp_path / "tokens", ["rgb", "caption", "rgb_pixels"]).keys(np.arange(7)) == kept
    damage(tmp_path / "raw", {keys[4]})
    shutil.rmtree(tmp_path / "tokens" / "rgb_pixels")
    with pytest.raises(Open4MError, match=f"key {keys[4]}"):  # of which the others have tokens
        jobs.run(replace(more))  # opens the data anew
    damage(tmp_path / "raw", {keys[5], keys[6]})
    with pytest.raises(Open4MError, match=rf"2 of 8 samples cannot be used, .*the first: {keys[2]}, raw data"):
        jobs.run(replace(job, tokens=tmp_path / "other"))


def outputs(folder):
    return Output("rgb", folder / "rgb"), Output("caption", folder / "text", max_length=8)


def test_poses_get_their_tokens_from_a_tokenizer_of_their_own(tmp_path):
    import torch

    mlp = MLPConfig(width=16, depth=1)
    config = TokenizerConfig.of("human_pose", codebook_size=9, codebooks=8, latent_dim=16, encoder=mlp, decoder=mlp)
    parts = Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))
    parts.save(tmp_path / "human_pose")
    poses, rng = modalities.get("human_poses"), np.random.default_rng(0)
    text = TextTokenizer.fit(CAPTIONS, poses.words, vocab_size=4500, sentinels=8)
    text.save(tmp_path / "text")
    person = {"box": [0, 0, 1, 1], "orientation": [3, 0, 0], "camera": [1, 0, 0]}
    people = [[{**person, "rotations": rng.standard_normal(69)}], []]
    write_shard(tmp_path / "raw", "human_poses", 0, [(str(i), poses.write(each)) for i, each in enumerate(people)])
    output = Output("human_poses", tmp_path / "text", parts=tmp_path / "human_pose")
    jobs.run(Tokenize(tmp_path / "raw", tmp_path / "tokens", (output,)))
    store = TokenStore(tmp_path / "tokens", ["human_poses"])
    ids, lengths = store.sequence("human_poses", np.arange(2))
    assert lengths.tolist() == [40, 2]
    tokens = parts.encode(np.float32(poses.convert(people[0]).people[0].rotations)).ravel()
    assert poses.decode(ids[0, :40].tolist(), text).people[0].tokens == tuple(tokens)
    header = store.header("human_poses")
    assert header.parts == parts.fingerprint
    size = {"vocab_size": header.vocab_size, "max_length": header.max_length}
    spec = ModalitySpec(key="human_poses", family="sequence", **size)
    model = FourMConfig(modalities=(spec,), dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    check_store(model, store, {"human_poses": text, "human_pose": parts})
    others = Tokenizer(VQVAE(config, torch.Generator().manual_seed(1)))
    with pytest.raises(Open4MError, match=r"the parts of human_poses have tokens of the tokenizer .*tokenize again"):
        check_store(model, store, {"human_poses": text, "human_pose": others})
    before = {name: value for name, value in header.to_dict().items() if name != "parts"}  # as older stores have it
    assert configs.from_dict(TokenHeader, before, "header").to_dict() == before
    with pytest.raises(Open4MError, match="rotations without tokens: a tokenizer of human_pose makes these"):
        jobs.run(Tokenize(tmp_path / "raw", tmp_path / "other", (Output("human_poses", tmp_path / "text"),)))
    with pytest.raises(Open4MError, match="caption: its parts are of no modality"):
        encoder_of(
            Output("caption", tmp_path / "text", parts=tmp_path / "human_pose"), modalities.get("caption"), "cpu"
        )


@pytest.mark.parametrize("kind", ["label", "tokenize"])
def test_a_job_forgets_the_shards_that_it_has_finished(tmp_path, text, kind):
    """So that memory does not grow with the data: where the samples are takes 250 bytes each."""
    root, tokens = tmp_path / "raw", tmp_path / "tokens"
    jobs.run(Render(Numbers(), root, ("rgb", "caption"), 6, shard_rows=2))
    text.save(tmp_path / "text")
    tokenizing = Tokenize(root, tokens, (Output("caption", tmp_path / "text", max_length=16),))
    job, name = (tokenizing, "_data") if kind == "tokenize" else (Label("canny", "", root), "_raw")
    held = []
    for shard in job.shards():
        job.run(shard)
        held.append(len(getattr(job, name)._opened))
    assert held == [0, 0, 0]
