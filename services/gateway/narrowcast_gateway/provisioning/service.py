"""Sets up the object store: whole, or with a reason; again at any time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from narrowcast import logs
from narrowcast.errors import InvalidInput, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import Storage
from narrowcast_gateway.provisioning.policies import USERS, Grant, policy_document, policy_name
from narrowcast_gateway.provisioning.settings import OneShotSettings
from narrowcast_gateway.provisioning.user_admin import UserAdmin, find_user_admin

_log = logs.get(__name__)
_SHORTEST_SECRET = 8
"""MinIO takes no shorter one."""
_RETRY_S = 0.5

T = TypeVar("T")


def provision(settings: OneShotSettings) -> None:
    """Make what is missing of buckets, users and policies, and bring the rest up to date.

    A user whose secret file has changed gets the new secret: services started with the one
    before are refused until they are restarted.

    Raises:
        InvalidInput: a secret file is missing or too short, or the server cannot make users.
        Conflict: the server refused a change.
        Unavailable: no answer within the deadline, or the administrator's key is refused.
    """
    wanted = settings.provisioning
    secrets = read_secrets(wanted.users_dir) if wanted.users else {}
    deadline = time.monotonic() + wanted.deadline_s
    storage = settings.storage
    _when_up(Storage(storage).create_buckets, deadline)
    _log.info("buckets_ready")
    if not secrets:
        return
    admin = _when_up(lambda: find_user_admin(storage), deadline)
    for user, secret in secrets.items():
        _set_user(admin, storage, user, secret, deadline)
        _log.info("user_ready", user=user)


def read_secrets(folder: Path) -> dict[str, str]:
    """Return each user's secret.

    Raises:
        InvalidInput: one is missing, empty or too short; the message names all such users.
    """
    secrets: dict[str, str] = {}
    problems: list[str] = []
    for user in USERS:
        try:
            secrets[user] = (folder / user).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{user}: {type(error).__name__}")
            continue
        if len(secrets[user]) < _SHORTEST_SECRET:
            problems.append(f"{user}: shorter than {_SHORTEST_SECRET} characters")
    if problems:
        raise InvalidInput(
            f"no usable secret under {folder} for {'; '.join(problems)}", code="bad_user_secret"
        )
    return secrets


def _set_user(admin: UserAdmin, storage: StorageSettings, user: str, secret: str, deadline: float) -> None:
    admin.set_user(user, secret, policy_name(user), policy_document(user, storage))
    own = storage.model_copy(update={"access_key": user, "secret_key": SecretStr(secret)})
    while True:
        try:
            _list_something(own, USERS[user])
            return
        except Unavailable:
            # A user that has just been made may take a moment to be known.
            if time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_S)


def _list_something(own: StorageSettings, grants: tuple[Grant, ...]) -> None:
    """Use the user's key for a call that its policy allows."""
    grant = next(grant for grant in grants if "list" in grant.verbs)
    next(getattr(Storage(own), grant.bucket).keys(grant.prefix), None)


def _when_up(step: Callable[[], T], deadline: float) -> T:
    """Try until the server answers; a refusal does not get better by waiting."""
    while True:
        try:
            return step()
        except Unavailable as error:
            if error.code == "storage_refused" or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_S)
