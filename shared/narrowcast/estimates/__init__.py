"""What a training will need, from a base model's ``config.json`` alone: memory, time, and what to change.

Pure arithmetic, so that the gateway, which has neither the model nor PyTorch, and a command line
without any server give the same figures. :mod:`.memory` has the derivation.
"""
