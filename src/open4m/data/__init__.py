"""From raw data to the rows of a training step: labelling, tokenizing, order."""
