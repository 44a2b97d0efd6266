"""How fast 4M-7's tokens are read from a store and masked: ``python -m benchmarks.loader``; prints JSON.

The rows of a batch are those of a training step, spread over all shards, whose files are in memory; without pixels.
Samples per second of process CPU time, which other work on the machine disturbs less, and of wall time.
"""

import argparse
import json
import tempfile

import numpy as np
from benchmarks.masking import SENTINELS, SPECS, masking, random_rows, samples_per_second

from open4m.data.order import rows_for_step
from open4m.data.rows import RowReader
from open4m.masking.batch import mask_batch
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard


def write(root: str, shards: int, shard_rows: int) -> None:
    """A store of random tokens: every shard has other keys and the same tokens."""
    rows = random_rows(shard_rows)
    for spec in SPECS:
        tokens = rows.ids[spec.key]
        sizes = {"max_length": spec.max_length} if spec.is_sequence else {"grid": spec.grid}
        header = TokenHeader(kind=spec.family, vocab_size=spec.vocab_size, **sizes)
        if spec.is_sequence:
            tokens = [row[:length] for row, length in zip(tokens, rows.lengths[spec.key], strict=True)]
        for shard in range(shards):
            keys = [f"{shard}-{row}" for row in range(shard_rows)]
            write_token_shard(root, spec.key, shard, keys, tokens, header=header)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=256)
    parser.add_argument("--shard-rows", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--budget", type=int, default=128, help="input tokens, and as many target tokens")
    parser.add_argument("--repeats", type=int, default=1, help="visits of each sample per epoch")
    options = parser.parse_args()
    config = masking(options.budget)
    with tempfile.TemporaryDirectory() as root:
        write(root, options.shards, options.shard_rows)
        store = TokenStore(root, [spec.key for spec in SPECS])
        read = RowReader(store, SPECS)
        for shard in store.shards.values():  # open it and bring it into memory
            read(np.array(shard))

        def rows(step: int) -> np.ndarray:
            return rows_for_step(0, step, options.batch, len(store), options.repeats)

        reading = samples_per_second(options.batch, options.steps, lambda step: read(rows(step)))
        both = samples_per_second(
            options.batch,
            options.steps,
            lambda step: mask_batch(read(rows(step)), SPECS, config, SENTINELS, seed=0, step=step),
        )
    print(json.dumps({**vars(options), "reading": reading, "reading_and_masking": both}))


if __name__ == "__main__":
    main()
