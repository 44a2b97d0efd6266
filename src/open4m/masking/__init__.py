"""Input and target masking (paper 2.3, C.1, E.4)."""
