"""The whole story over HTTP, told to a newcomer: ``python -m narrowcast_local.demo``."""
