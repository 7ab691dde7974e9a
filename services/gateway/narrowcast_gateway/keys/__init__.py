"""API keys: who may call, and for which tenant."""
