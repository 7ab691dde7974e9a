"""Evaluations: models and the nearest-report baseline against a dataset's held-out split."""
