"""Corpora: uploaded Word documents on their way to a dataset."""
