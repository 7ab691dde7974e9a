"""Identifiers: unguessable, safe in URLs, object keys and file names."""

import re
import secrets

_ID_BYTES = 12  # 96 random bits: no collision and no guessing
# \Z, since $ also matches before a final line feed.
ADAPTER_ID = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}[a-z0-9]\Z")
TENANT = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")
_NO_PART = re.compile(r"[^a-z0-9]+")
_LONGEST_BEGINNING = 39  # with a hyphen and 24 hex digits an ADAPTER_ID still
OBJECT_ID = re.compile(r"^[a-z]+-[0-9a-f]{24}\Z")


def new_id(prefix: str) -> str:
    """Return ``<prefix>-<24 hex digits>``."""
    return f"{prefix}-{secrets.token_hex(_ID_BYTES)}"


def beginning(name: str) -> str:
    """Return what of ``name`` can begin an :data:`ADAPTER_ID`; a base model's may have dots and capitals."""
    return _NO_PART.sub("-", name.lower())[:_LONGEST_BEGINNING].strip("-") or "adapter"


def is_object_id(value: str, prefix: str) -> bool:
    """Whether ``value`` has the form that :func:`new_id` gives for ``prefix``.

    Ids arrive in URLs and become object keys: anything else is refused before it gets there.
    """
    return bool(OBJECT_ID.match(value)) and value.startswith(prefix + "-")
