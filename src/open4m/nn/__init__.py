"""Networks that know no modality."""
