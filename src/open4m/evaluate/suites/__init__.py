"""Evaluations of whole models: one file per suite."""
