"""Buckets, S3 users and their policies: ``python -m narrowcast_gateway.provisioning``."""
