"""Data at rest: raw shards, the token store, and how both are committed."""

from open4m.store.manifest import ShardEntry, committed, verify
from open4m.store.shards import RawDataset, UnreadableSample, write_shard
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard

__all__ = [
    "RawDataset",
    "ShardEntry",
    "TokenHeader",
    "TokenStore",
    "UnreadableSample",
    "committed",
    "verify",
    "write_shard",
    "write_token_shard",
]
