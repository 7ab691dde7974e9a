"""The two ways to make users with given keys: MinIO's admin API and SeaweedFS's IAM."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import urllib3
from minio import time as amz_time
from minio.credentials.credentials import Credentials
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.helpers import sha256_hash
from minio.minioadmin import MinioAdmin
from minio.signer import sign_v4_s3

from narrowcast.errors import Conflict, InvalidInput, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import create_http_client, error_code

_IAM_VERSION = "2010-05-08"
_MINIO_CODE = re.compile(r'"Code":\s*"(\w+)"')
_WRONG_SECRET = {"SignatureDoesNotMatch", "InvalidAccessKeyId"}


class UserAdmin(Protocol):
    """Makes users. Everything may be repeated."""

    def set_user(self, user: str, secret: str, policy_name: str, policy: dict[str, Any]) -> None:
        """Make the user, or give it this policy and this secret key, which replaces the one before."""


def find_user_admin(storage: StorageSettings) -> UserAdmin:
    """Return the API that the server answers.

    Raises:
        InvalidInput: it knows neither, or lets nobody change users.
        Unavailable: it does not answer.
    """
    minio, seaweedfs = MinioUsers(storage), SeaweedUsers(storage)
    for candidate in (minio, seaweedfs):
        if candidate.answers():
            return candidate
    raise InvalidInput(
        "this S3 server has neither MinIO's admin API nor SeaweedFS's IAM, "
        "or this key is no administrator's; make the users by hand with the policies that --policies prints, "
        "and set NARROWCAST_PROVISIONING__USERS=false",
        code="no_user_administration",
    )


class MinioUsers:
    """MinIO and its forks: managed policies, attached to users."""

    def __init__(self, storage: StorageSettings) -> None:
        self._admin = MinioAdmin(
            endpoint=storage.endpoint,
            credentials=StaticProvider(storage.access_key, storage.secret_key.get_secret_value()),
            region=storage.region,
            secure=storage.secure,
            http_client=create_http_client(),
        )

    def answers(self) -> bool:
        """Whether the server has this API and the key may use it."""
        with _network_errors():
            try:
                self._admin.policy_list()
            except MinioAdminException:
                return False
        return True

    def set_user(self, user: str, secret: str, policy_name: str, policy: dict[str, Any]) -> None:
        """See :class:`UserAdmin`."""
        with _network_errors(), _minio_errors(user):
            self._admin.policy_add(policy_name, policy=policy)
            self._admin.user_add(user, secret)  # encrypted with the administrator's secret key
            self._admin.policy_set(policy_name, user=user)  # replaces what was attached


class SeaweedUsers:
    """SeaweedFS: AWS's IAM on the S3 port, where a caller may name the keys himself."""

    def __init__(self, storage: StorageSettings) -> None:
        scheme = "https" if storage.secure else "http"
        self._url = urlsplit(f"{scheme}://{storage.endpoint}/")
        self._region = storage.region
        self._credentials = Credentials(storage.access_key, storage.secret_key.get_secret_value())
        self._http = create_http_client()

    def answers(self) -> bool:
        """Whether the server has this API and the key may use it."""
        return self._call("ListUsers") is None

    def set_user(self, user: str, secret: str, policy_name: str, policy: dict[str, Any]) -> None:
        """See :class:`UserAdmin`."""
        self._must("CreateUser", user, unless="EntityAlreadyExists")
        document = json.dumps(policy)
        self._must("PutUserPolicy", user, PolicyName=policy_name, PolicyDocument=document)
        key = {"AccessKeyId": user, "SecretAccessKey": secret}
        if self._call("CreateAccessKey", {"UserName": user} | key) is None:
            return
        # There is one already. It is left alone if it has this secret: services may be using it.
        if self._call("ListUsers", credentials=Credentials(user, secret)) in _WRONG_SECRET:
            self._must("DeleteAccessKey", user, AccessKeyId=user)
        self._must("CreateAccessKey", user, unless="EntityAlreadyExists", **key)

    def _must(self, action: str, user: str, *, unless: str = "", **parameters: str) -> None:
        refusal = self._call(action, {"UserName": user} | parameters)
        if refusal is None or refusal == unless:
            return
        hint = "; start it with -s3.iam.readOnly=false" if refusal == "AccessDenied" else ""
        raise Conflict(f"SeaweedFS refused {action} for {user}: {refusal}{hint}", code="provisioning_refused")

    def _call(
        self, action: str, parameters: dict[str, str] | None = None, credentials: Credentials | None = None
    ) -> str | None:
        """Call the API as the administrator or another; return the code of the error, if it answered one."""
        body = urlencode({"Action": action, "Version": _IAM_VERSION} | (parameters or {}))
        digest, date = sha256_hash(body), amz_time.utcnow()
        headers: dict[str, Any] = {
            "Host": self._url.netloc,
            "Content-Type": "application/x-www-form-urlencoded",
            "x-amz-date": amz_time.to_amz_date(date),
            "x-amz-content-sha256": digest,
        }
        signed: dict[str, Any] = sign_v4_s3(
            method="POST",
            url=self._url,
            region=self._region,
            headers=headers,
            credentials=credentials or self._credentials,
            content_sha256=digest,
            date=date,
        )
        with _network_errors():
            answer = self._http.request("POST", self._url.geturl(), body=body, headers=signed)
        if answer.status == HTTPStatus.OK and f"{action}Response".encode() in answer.data:
            return None
        # Only the code: what else a server says might repeat what it was sent.
        return error_code(answer.data.decode(errors="replace")) or f"status {answer.status}"


@contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unavailable("the object store does not answer", code="storage_unavailable") from error


@contextmanager
def _minio_errors(user: str) -> Iterator[None]:
    try:
        yield
    except MinioAdminException as error:
        # Its text ends in the answer, JSON with a code.
        code = _MINIO_CODE.search(str(error))
        reason = code[1] if code else "no reason given"
        raise Conflict(f"MinIO refused the user {user}: {reason}", code="provisioning_refused") from error
