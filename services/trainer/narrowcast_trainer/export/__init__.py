"""Exports: adapters in forms that other programs run, each made by a process of its own.

``job`` is the worker's side, ``__main__`` the process: ``merge`` folds the adapter into its base,
``gguf`` runs llama.cpp's programs, ``ollama`` writes the Modelfile, ``hub`` pushes the result.
"""
