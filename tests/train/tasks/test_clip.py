import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from open4m import modalities
from open4m.labellers.clip import CLIPLabeller, SmallCLIP, fit_text_tokenizer
from open4m.store.shards import RawDataset, write_shard
from open4m.train.tasks.clip import JITTER, CLIPTask, contrastive_loss, similarity_logits

TINY = SmallCLIP(
    image_size=32,
    patch_size=8,
    width=32,
    layers=2,
    heads=2,
    projection=16,
    text_width=32,
    text_layers=1,
    text_heads=2,
    text_length=16,
)
COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220), "yellow": (220, 220, 30)}
ROWS = range(8)
SIDES = {"left": np.s_[:, :16], "right": np.s_[:, 16:]}


def samples(repeats: int = 1) -> list[dict]:
    """Eight images: one half of one color each."""
    made = []
    for color, rgb in COLORS.items():
        for side, region in SIDES.items():
            image = np.full((32, 32, 3), 128, np.uint8)
            image[region] = rgb
            made.append({"rgb": image, "caption": f"{color} on the {side}"})
    return made * repeats


@pytest.fixture
def task() -> CLIPTask:
    data = samples()
    tokenizer = fit_text_tokenizer(sample["caption"] for sample in data)
    return CLIPTask(data, data, TINY, tokenizer, batch_size=8, seed=3)


def test_batch_is_a_function_of_seed_and_step(task):
    first, again, other = task.batch(5, ROWS), task.batch(5, ROWS), task.batch(6, ROWS)
    for name in ("images", "ids", "captions", "contrast", "brightness"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.contrast, other.contrast)
    assert first.images.shape == (8, 3, 32, 32)
    assert first.images.dtype == torch.uint8


def test_rows_of_a_split_batch_are_those_of_the_whole_one(task):
    whole = task.batch(5, ROWS)
    for rows in (range(5), range(5, 8)):
        part, chosen = task.batch(5, rows), slice(rows.start, rows.stop)
        for name in ("images", "captions", "contrast", "brightness"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[chosen])
        longest = part.ids.shape[1]
        assert torch.equal(part.ids, whole.ids[chosen, :longest])
        assert (whole.ids[chosen, longest:] == task.tokenizer.token_to_id("[PAD]")).all()


def test_the_jitter_is_as_large_as_it_says(task):
    batches = [task.batch(step, ROWS) for step in range(60)]
    for name, center in (("contrast", 1.0), ("brightness", 0.0)):
        values = torch.cat([getattr(batch, name) for batch in batches]) - center
        assert (values.abs() <= JITTER + 1e-6).all()
        assert values.abs().max() > 0.9 * JITTER
        assert values.mean().abs() < 4 * JITTER / (3 * len(values)) ** 0.5  # four standard errors


def test_the_model_needs_no_memory_on_the_meta_device(task):
    with torch.device("meta"):
        model = task.build_model()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_tokens_are_patches_and_words(task):
    assert task.tokens(task.batch(0, ROWS)) == 8 * 16 + 8 * len(("[SOS]", "red", "on", "the", "left", "[EOS]"))


def test_training_matches_images_to_their_captions(task, tmp_path):
    data = samples()
    images, captions = [s["rgb"] for s in data], [s["caption"] for s in data]
    model = task.build_model()
    before = task.evaluate(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(60):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = task.loss(model, task.batch(step, ROWS), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.dtype == torch.float32
    after = task.evaluate(model)
    assert after["loss"] < before["loss"] / 2
    assert after["image_to_text_recall_1"] == after["text_to_image_recall_1"] == 1
    task.save(model, tmp_path)
    labeller = CLIPLabeller.load(tmp_path)
    mismatched = [labeller.clip_score(images, captions[k:] + captions[:k]) for k in range(1, 8)]
    assert labeller.clip_score(images, captions) > max(mismatched) + 5


def test_samples_without_a_caption_or_an_image_are_passed_over(tmp_path, task):
    data = samples()
    lacks = {"rgb": {2}, "caption": {0, 5}}
    for name, missing in lacks.items():
        write = modalities.get(name).write
        files = [(str(i), None if i in missing else write(sample[name])) for i, sample in enumerate(data)]
        write_shard(tmp_path, name, 0, files)
    having = RawDataset(tmp_path, ["rgb", "caption"]).having("rgb", "caption")
    partial = CLIPTask(having, having, TINY, task.tokenizer, batch_size=5, seed=3)
    whole = CLIPTask([data[i] for i in (1, 3, 4, 6, 7)], [], TINY, task.tokenizer, batch_size=5, seed=3)
    assert partial.samples == 5
    for step in range(3):
        found, expected = partial.batch(step, range(5)), whole.batch(step, range(5))
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.captions, expected.captions)
        assert torch.equal(found.images, expected.images)


def test_equal_captions_are_no_negatives():
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(4, 6, generator=generator), dim=-1) for _ in range(2))
    texts[2] = texts[0]
    logits = similarity_logits(images, texts, torch.tensor(5.0), torch.tensor([7, 8, 7, 9]))
    assert torch.isneginf(logits).nonzero().tolist() == [[0, 2], [2, 0]]
    cosine = 5 * (images @ texts.T).double()

    def row(similarities: torch.Tensor, own: int, excluded: tuple[int, ...]) -> float:
        total = sum(math.exp(s) for j, s in enumerate(similarities.tolist()) if j not in excluded)
        return math.log(total) - similarities[own].item()

    excluded = {0: (2,), 1: (), 2: (0,), 3: ()}
    expected = sum(row(m[i], i, excluded[i]) for m in (cosine, cosine.T) for i in range(4)) / 8
    assert contrastive_loss(logits).item() == pytest.approx(expected, abs=1e-5)


def test_batch_marks_equal_captions():
    data = samples(repeats=2)
    tokenizer = fit_text_tokenizer(sample["caption"] for sample in data)
    task = CLIPTask(data, data, TINY, tokenizer, batch_size=16)
    batch = task.batch(0, range(16))
    same_ids = (batch.ids[:, None] == batch.ids[None]).all(-1)
    assert torch.equal(batch.captions[:, None] == batch.captions[None], same_ids)
    assert same_ids.sum() == 32  # an epoch of 16 rows holds every caption twice


def test_scale_of_the_logits_is_at_most_100(task):
    model = task.build_model()
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    _, details = task.loss(model, task.batch(0, ROWS), torch.Generator())
    assert details["logit_scale"].item() == pytest.approx(100, rel=1e-5)


def test_pictures_show_images_above_their_features(task):
    picture = task.pictures(task.build_model().eval())["features"]
    assert picture.size == (6 * 32, 2 * 32)
    np.testing.assert_array_equal(np.asarray(picture)[:32, :32], samples()[0]["rgb"])
