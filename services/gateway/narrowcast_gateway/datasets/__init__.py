"""Datasets: what training and evaluation read."""
