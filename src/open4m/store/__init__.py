"""Data at rest: raw shards, the token store, how both are committed, and resumable jobs over shards."""

from open4m.store.jobs import JobCounts, run_shards
from open4m.store.manifest import ShardEntry, committed, verify
from open4m.store.shards import RawDataset, UnreadableSample, write_shard
from open4m.store.tokens import TokenHeader, TokenStore, epoch_order, rows_for_step, write_token_shard

__all__ = [
    "JobCounts",
    "RawDataset",
    "ShardEntry",
    "TokenHeader",
    "TokenStore",
    "UnreadableSample",
    "committed",
    "epoch_order",
    "rows_for_step",
    "run_shards",
    "verify",
    "write_shard",
    "write_token_shard",
]
