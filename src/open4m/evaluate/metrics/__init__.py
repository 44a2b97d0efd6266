"""Metrics that more than one modality or suite needs."""
