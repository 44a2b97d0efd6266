"""Transfers: what is trained on top of a pre-trained model, and measured (paper 3, 5, D, E.1)."""
