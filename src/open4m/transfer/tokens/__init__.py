"""Transfers from tokens to tokens, and the benchmark that is made of them (paper 5, E.1)."""
