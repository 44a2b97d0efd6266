"""How fast raw samples of two modalities are read: ``python -m benchmarks.raw_reading``; prints JSON.

Images and captions as raw shards, in memory (page cache), read in random order by one core. ``bytes``: stored files.
``decoded``: their values. ``image_decoder``: PIL alone on the same image files, from bytes to an array: what decoding
costs whoever reads. The three take turns in many short rounds, since other work on the machine comes and goes; each
figure is the median of its rounds, in samples per second of process CPU time.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.store import RawDataset, write_shard

NAMES = ("rgb", "caption")


def write(root: str, shards: int, shard_rows: int, size: int) -> None:
    """Shards of smooth images with a little noise, about as large as photographs are as PNG, and short captions."""
    generator, (rgb, caption) = np.random.default_rng(0), map(modalities.get, NAMES)
    files = []
    for row in range(shard_rows):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size, size))
        noise = generator.integers(0, 8, (size, size, 3), dtype=np.uint8)
        image = np.asarray(coarse).clip(0, 247).astype(np.uint8) + noise
        files.append((rgb.write(image), caption.write(f"picture {row} of nothing in particular")))
    for shard in range(shards):
        keys = [f"{shard:05d}{row:05d}" for row in range(shard_rows)]
        for place, name in enumerate(NAMES):
            write_shard(root, name, shard, [(key, file[place]) for key, file in zip(keys, files, strict=True)])


def samples_per_second(read: Callable[[int], object], order: list[int]) -> float:
    began = time.process_time()
    for i in order:
        read(i)
    return len(order) / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--shard-rows", type=int, default=200)
    parser.add_argument("--size", type=int, default=224, help="pixels of an image's side")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--decodes", type=int, default=50, help="samples that are decoded per round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        write(root, options.shards, options.shard_rows, options.size)
        data = RawDataset(root, NAMES)
        order = np.random.default_rng(1).permutation(len(data)).tolist()
        images = [data.files(i)[NAMES[0]] for i in range(len(data))]  # this opens every shard

        def decode(i: int) -> np.ndarray:
            return np.asarray(Image.open(io.BytesIO(images[i])))

        rounds: dict[str, list[float]] = {"bytes": [], "decoded": [], "image_decoder": []}
        for start in range(options.rounds):
            part = [order[(start * options.decodes + k) % len(order)] for k in range(options.decodes)]
            rounds["bytes"].append(samples_per_second(data.files, order))
            rounds["decoded"].append(samples_per_second(data.__getitem__, part))
            rounds["image_decoder"].append(samples_per_second(decode, part))
    rates = {name: round(statistics.median(values), 1) for name, values in rounds.items()}
    ratios = [a / b for a, b in zip(rounds["decoded"], rounds["image_decoder"], strict=True)]
    result = {**vars(options), **rates, "decoded_to_image_decoder": round(statistics.median(ratios), 3)}
    print(json.dumps({**result, "image_bytes": sum(map(len, images)) // len(images)}))


if __name__ == "__main__":
    main()
