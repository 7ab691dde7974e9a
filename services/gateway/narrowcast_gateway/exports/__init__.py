"""Adapters in forms that other programs run: merged checkpoints, GGUF."""
