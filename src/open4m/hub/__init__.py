"""Where pretrained models are, and the formats in which others publish theirs."""
