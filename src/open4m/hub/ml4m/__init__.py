"""The public formats of the authors of 4M."""
