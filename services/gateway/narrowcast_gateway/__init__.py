"""The gateway: HTTP API and CPU worker from one package.

One folder a noun. In each, ``routes`` translate HTTP, ``schemas`` are what the wire shows,
``service`` decides, ``job`` runs on the worker. ``app`` and ``worker`` wire everything.
"""
