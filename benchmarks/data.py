"""What the data engine costs beside what it works for: ``python -m benchmarks.data``; prints JSON.

Each ratio compares two figures of the same run, which take turns, in process CPU time of one core: what a job costs
beside the network alone on the same decoded values (1 would be no cost at all), and what reading pixels costs beside
the image decoder alone. Then token rows per second, MB/s of writing and verifying, and how much the memory of the
process (without mapped files) grows from the first tenth to all of ``--rows`` captions that are written, tokenized,
verified and read. Times include what only real data have: files, checksums, links, manifests.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.loader import write as write_tokens
from benchmarks.masking import SPECS, samples_per_second
from PIL import Image

from open4m import labellers, modalities
from open4m.configs.tokenizers import VITS
from open4m.data.encoders import Output
from open4m.data.jobs import run
from open4m.data.jobs.local import InProcess
from open4m.data.label import Label
from open4m.data.order import rows_for_step
from open4m.data.rows import RowReader, specs_of
from open4m.data.tokenize import Tokenize
from open4m.data.verify import verify
from open4m.store.shards import write_shard
from open4m.store.tokens import TokenStore
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer

GOALS = {"labelling": 0.9, "tokenizing": 0.9, "pixels": 0.9, "token_rows_per_second": 30_000}
PARTS = ("labelling", "tokenizing", "pixels", "tokens_per_second", "mb_per_second", "memory")
SHARD_ROWS = 32
WORDS = ["a", "picture", "of", "one", "red", "cat", "beside", "two", "small", "trees"]


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def photos(root: Path, count: int, side: int) -> list[np.ndarray]:
    """Raw shards of smooth images with a little noise, about as large as photographs are as JPEG files."""
    generator, rgb = np.random.default_rng(0), modalities.get("rgb")
    images = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((side, side))
        images.append(np.asarray(coarse).clip(0, 243) + generator.integers(0, 12, (side, side, 3), dtype=np.uint8))
    for shard, first in enumerate(range(0, count, SHARD_ROWS)):
        part = images[first : first + SHARD_ROWS]
        write_shard(root, "rgb", shard, [(f"{first + i:06d}", jpeg(image)) for i, image in enumerate(part)])
    assert rgb.read(jpeg(images[0])).shape == (side, side, 3)
    return images


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=95)
    return file.getvalue()


def in_turns(job: Callable[[int], object], bare: Callable[[], object], rounds: int) -> dict[str, float]:
    """The median ratio of ``bare`` to ``job``, after a round that is not counted."""
    job(0), bare()
    pairs = [(cpu_seconds(bare), cpu_seconds(partial(job, n))) for n in range(1, rounds + 1)]
    return {
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "bare_cpu_seconds": round(statistics.median(a for a, _ in pairs), 3),
    }


def labelling(root: Path, images: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Depth by a small network of a true class against the same labeller on images that are decoded."""
    from transformers import GLPNConfig, GLPNForDepthEstimation

    torch.manual_seed(0)
    network = root / "network"
    GLPNForDepthEstimation(GLPNConfig(max_depth=10)).save_pretrained(network)
    kind = {"image_processor_type": "GLPNImageProcessor", "do_resize": True, "size_divisor": 32, "do_rescale": True}
    (network / "preprocessor_config.json").write_text(json.dumps(kind))
    labeller = labellers.get("depth").load(str(network), "cpu", None, "depth")

    def job(number: int) -> None:
        folder = root / f"labelled-{number}"
        folder.mkdir()
        (folder / "rgb").symlink_to(root / "raw" / "rgb")
        one = Label("depth", str(network), folder, modality="depth")
        one.__dict__["_network"] = labeller  # loaded once, as by a worker of many shards
        run(one, InProcess())

    def bare() -> None:
        for first in range(0, len(images), SHARD_ROWS):
            labeller.label(images[first : first + SHARD_ROWS])

    return in_turns(job, bare, rounds)


def tokenizing(root: Path, images: list[np.ndarray], rounds: int) -> dict[str, float]:
    """A tokenizer of images with the paper's smallest encoder against the same on images that are decoded."""
    torch.manual_seed(0)
    size = VITS["S"]
    config = TokenizerConfig.of("rgb", encoder=size, decoder=size, image_size=224, codebook_size=16384)
    tokenizer = Tokenizer(VQVAE(config))
    tokenizer.save(root / "tokenizer")
    outputs = (Output("rgb", root / "tokenizer"),)
    encoders: list[dict] = []

    def job(number: int) -> None:
        one = Tokenize(root / "raw", root / f"tokens-{number}", outputs)
        if encoders:
            one.__dict__["_encoders"] = encoders[0]
        run(one, InProcess())
        encoders.append(one._encoders)

    def bare() -> None:
        for first in range(0, len(images), SHARD_ROWS):
            tokenizer.encode(images[first : first + SHARD_ROWS])

    return in_turns(job, bare, rounds)


def token_rows(root: Path, steps: int) -> dict[str, int]:
    """Samples of 4M-7's five grids and two sequences per second, in the order of training, and rows of one of these."""
    write_tokens(str(root / "many"), 64, 200)
    store = TokenStore(root / "many", [spec.key for spec in SPECS])
    read = RowReader(store, SPECS)
    for shard in store.shards.values():
        read(np.array(shard))
    batch = 256
    speed = samples_per_second(batch, steps, lambda step: read(rows_for_step(0, step, batch, len(store), 1)))
    samples = speed["samples_per_cpu_second"]
    return {"samples_of_seven": round(samples), "rows": round(samples * len(SPECS))}


def pixels(root: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Images of a token store, as values and as rows of a batch, against PIL alone: bytes to an array."""
    run(Tokenize(root / "raw", root / "pixels", (Output("rgb_pixels", image_size=224),)), InProcess())
    store = TokenStore(root / "pixels", ["rgb_pixels"])
    read, every = RowReader(store, specs_of(store, 224, 16)), np.arange(len(store))
    files = [bytes(file) for file in store.read("rgb_pixels", "pixels", every)[0]]

    def decode() -> None:
        for file in files:
            np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))

    image = modalities.get("rgb_pixels")

    def values(_: int) -> None:
        for file in store.read("rgb_pixels", "pixels", every)[0]:
            image.read(file)

    return {
        "decoded": in_turns(values, decode, rounds),
        "rows": in_turns(lambda _: read(every), decode, rounds),
    }


def files_per_second(root: Path, images: list[np.ndarray]) -> dict[str, float]:
    """MB/s of writing raw shards of files as they are, and of verifying them with and without decoding."""
    named = [(f"{i:06d}", jpeg(image)) for i, image in enumerate(images)]
    size = sum(len(file) for _, file in named) / 1e6

    def write() -> None:
        for shard in range(8):
            write_shard(root / "written", "rgb", shard, [(f"{shard}-{key}", file) for key, file in named])

    written = cpu_seconds(write)
    checked = cpu_seconds(lambda: verify(root / "written", every=10**9))
    decoded = cpu_seconds(lambda: verify(root / "written"))
    names = ("write", "verify", "verify_all_values")
    return {
        name: round(8 * size / seconds, 1) for name, seconds in zip(names, (written, checked, decoded), strict=True)
    }


def memory_mb() -> float:
    """Of this process, without mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def captions(shard: int, rows: int) -> Iterator[tuple[str, bytes]]:
    """Five words of ten, so that all shards are alike, as ``verify`` expects."""
    chosen = np.random.default_rng(shard).integers(0, len(WORDS), (rows, 5))
    for row, words in enumerate(chosen):
        yield f"{shard:05d}{row:05d}", " ".join(WORDS[word] for word in words).encode()


def memory(root: Path, rows: int) -> dict[str, float]:
    """MB at a tenth and at all of the rows, and the highest on the way there."""
    rows_per_shard = 1000
    TextTokenizer.fit([" ".join(WORDS)], (), 2000, bins=2, sentinels=20).save(root / "text")
    marks = []
    for shards in (max(1, rows // rows_per_shard // 10), max(1, rows // rows_per_shard)):
        raw, tokens = root / f"memory-{shards}", root / f"memory-tokens-{shards}"
        for shard in range(shards):
            write_shard(raw, "caption", shard, captions(shard, rows_per_shard))
        run(Tokenize(raw, tokens, (Output("caption", root / "text", max_length=32),)), InProcess())
        if not (report := verify(tokens, raw)).is_sound:
            raise SystemExit("\n".join(report.lines()))
        store = TokenStore(tokens, ["caption"])
        read = RowReader(store, specs_of(store, 224, 16))
        for step in range(len(store) // 256):
            read(rows_for_step(0, step, 256, len(store), 1))
        marks.append(memory_mb())
    return {"at_a_tenth_mb": round(marks[0], 1), "at_all_mb": round(marks[1], 1), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=480, help="pixels of an image's side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="batches of token rows")
    parser.add_argument("--rows", type=int, default=100_000, help="captions for the measurement of memory")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these measurements (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = photos(root / "raw", options.images, options.side)
        measures = {
            "labelling": lambda: labelling(root, images, options.rounds),
            "tokenizing": lambda: tokenizing(root, images, options.rounds),
            "pixels": lambda: pixels(root, options.rounds),
            "tokens_per_second": lambda: token_rows(root, options.steps),
            "mb_per_second": lambda: files_per_second(root, images),
            "memory": lambda: memory(root, options.rows),
        }
        found = {name: measures[name]() for name in options.only}
    print(json.dumps({**vars(options), **found, "goals": GOALS}))


if __name__ == "__main__":
    main()
