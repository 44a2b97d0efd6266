"""Jobs over shards: a job is a picklable dataclass whose unit of work is a shard."""
