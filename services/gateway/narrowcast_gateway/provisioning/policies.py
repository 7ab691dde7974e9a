"""Who may do what in the object store: one table, and S3 policy documents made of it.

The table follows what the code calls. ``tests/integration/storage/test_policies.py`` runs each
user's calls, and the forbidden ones, against a server that enforces the documents.
"""

from dataclasses import dataclass
from typing import Any, Literal

from narrowcast.adapters import ADAPTERS
from narrowcast.settings import StorageSettings

Verb = Literal["read", "write", "delete", "list"]
BucketRole = Literal["documents", "data", "models"]

# The SDK looks up no bucket's location, since a region is configured, and lists no parts:
# it only aborts an upload in parts that failed.
_OBJECT_ACTIONS: dict[Verb, tuple[str, ...]] = {
    "read": ("s3:GetObject",),
    "write": ("s3:PutObject", "s3:AbortMultipartUpload"),
    "delete": ("s3:DeleteObject",),
}


@dataclass(frozen=True)
class Grant:
    """What a user may do below ``prefix`` of a bucket."""

    bucket: BucketRole
    verbs: tuple[Verb, ...]
    prefix: str = ""


USERS: dict[str, tuple[Grant, ...]] = {
    # Takes originals in and deletes those of a corpus that it could not accept. Never reads one.
    "gateway": (
        Grant("documents", ("write", "delete", "list")),
        Grant("data", ("read", "list")),
        Grant("data", ("write", "delete"), "datasets/"),
        # Hands out the answers of evaluations and deletes them; it cannot put anything in their place.
        Grant("data", ("delete",), "evaluations/"),
        Grant("models", ("read", "list")),
        # Hands out adapters and exports and deletes them; it cannot put anything in their place.
        Grant("models", ("delete",), ADAPTERS),
        Grant("models", ("delete",), "exports/"),
    ),
    "worker": (
        Grant("documents", ("read", "delete", "list")),
        Grant("data", ("read", "write", "delete", "list")),
        Grant("models", ("read", "list")),
    ),
    # Its reaper archives the records of ended jobs.
    "trainer": (
        Grant("data", ("read", "list")),
        Grant("data", ("write",), "jobs/"),
        Grant("models", ("read", "write", "delete", "list")),
    ),
    # Listing is what makes a strict server say that an object is missing, not that it is refused.
    "inference": (Grant("models", ("read", "list"), ADAPTERS),),
}
"""By access key."""


def bucket_name(role: BucketRole, storage: StorageSettings) -> str:
    """Return the configured name of a bucket."""
    names = {
        "documents": storage.documents_bucket,
        "data": storage.data_bucket,
        "models": storage.models_bucket,
    }
    return names[role]


def policy_name(user: str) -> str:
    """Return the name of a user's policy on the server."""
    return f"narrowcast-{user}"


def policy_document(user: str, storage: StorageSettings) -> dict[str, Any]:
    """Return a user's policy in the language that AWS, MinIO, Ceph and SeaweedFS share."""
    statements: list[dict[str, Any]] = []
    for grant in USERS[user]:
        arn = f"arn:aws:s3:::{bucket_name(grant.bucket, storage)}"
        if actions := [action for verb in grant.verbs for action in _OBJECT_ACTIONS.get(verb, ())]:
            statements.append({"Effect": "Allow", "Action": actions, "Resource": [f"{arn}/{grant.prefix}*"]})
        if "list" in grant.verbs:
            listing: dict[str, Any] = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]}
            if grant.prefix:
                listing["Condition"] = {"StringLike": {"s3:prefix": [f"{grant.prefix}*"]}}
            statements.append(listing)
    return {"Version": "2012-10-17", "Statement": statements}
