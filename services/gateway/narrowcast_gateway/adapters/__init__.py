"""Base models and adapters, as one list of models."""
