"""Whole trainings, from data on disk to a model directory."""
