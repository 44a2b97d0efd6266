"""Evaluations of whole models: one file a suite."""
