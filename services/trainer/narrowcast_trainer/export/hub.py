"""Pushes an export to a Hugging Face hub: ``python -m narrowcast_trainer.export.hub``, never by hand.

A process of its own: all else in an export is offline, which huggingface_hub decides for good when
it is imported, and the token is in no other process's reach. The order comes over standard
input, the outcome is the last line of standard output.
"""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, SecretStr, ValidationError, field_serializer

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.exports import HubDestination
from narrowcast.jobs.stopping import set_parent_death_signal
from narrowcast_trainer.settings import HubSettings

_REFUSED = range(400, 500)
_BUSY = {408, 425, 429}


class HubOrder(BaseModel):
    """What to push where."""

    destination: HubDestination
    token: SecretStr
    folder: Path | None
    """None: create the repository, see that it may be written to, and no more."""
    message: str = ""

    @field_serializer("token", when_used="json")
    def _reveal(self, token: SecretStr) -> str:
        return token.get_secret_value()


class HubOutcome(BaseModel):
    """How it went."""

    result: Literal["pushed", "public", "refused", "unavailable"]
    """``public``: nothing was uploaded to it."""
    url: str = ""
    reason: str = ""


def check_destination(destination: HubDestination, settings: HubSettings) -> SecretStr:
    """Return the site's token if the site allows this destination.

    Raises:
        JobFailed: ``no_hub_token`` or ``hub_destination_not_allowed``.
    """
    if settings.token is None or not settings.token.get_secret_value().strip():
        raise JobFailed(
            "this site pushes nothing to a hub: its trainer has no hub.token",
            code="no_hub_token",
            param="push_to_hub",
        )
    owner = destination.repo_id.partition("/")[0]
    if settings.owners and owner not in settings.owners:
        raise JobFailed(
            f"this site pushes to repositories of {', '.join(settings.owners)} alone",
            code="hub_destination_not_allowed",
            param="push_to_hub.repo_id",
        )
    if not destination.private and not settings.allow_public:
        raise JobFailed(
            "this site creates private repositories alone (hub.allow_public)",
            code="hub_destination_not_allowed",
            param="push_to_hub.private",
        )
    return settings.token


def push(order: HubOrder) -> str:
    """Create the repository if need be and upload the folder to it; return its address.

    What is there already is not uploaded again. What was to be private goes into no public repository.

    Raises:
        JobFailed: ``hub_refused`` or ``hub_destination_not_allowed``.
        Unavailable: ``hub_unavailable``.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=order.model_dump_json(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        preexec_fn=partial(set_parent_death_signal, signal.SIGKILL),
        check=False,
    )
    try:
        outcome = HubOutcome.model_validate_json(done.stdout.strip().rpartition("\n")[2])
    except ValidationError:
        raise Unavailable(
            f"the push to the hub ended with exit status {done.returncode}", code="hub_unavailable"
        ) from None
    if outcome.result == "public":
        raise JobFailed(
            f"{order.destination.repo_id} is there already and is not private: make it private on the hub, or"
            " push to another repository",
            code="hub_destination_not_allowed",
            param="push_to_hub.repo_id",
        )
    if outcome.result == "refused":
        raise JobFailed(outcome.reason, code="hub_refused", param="push_to_hub")
    if outcome.result == "unavailable":
        raise Unavailable(outcome.reason, code="hub_unavailable")
    return outcome.url


def _push(order: HubOrder) -> HubOutcome:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name = order.destination.repo_id
    api = HfApi(token=order.token.get_secret_value().strip())
    try:
        url = str(api.create_repo(name, private=order.destination.private, exist_ok=True))
        # It takes a repository that is there as it is: a public one, or one that the token may only read.
        if order.destination.private and not api.model_info(name).private:
            return HubOutcome(result="public")
        if order.folder is not None:
            api.upload_folder(repo_id=name, folder_path=order.folder, commit_message=order.message)
        else:
            # An upload's first request, which takes the right to write; an empty file has no second.
            api.preupload_lfs_files(name, [CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=b"")])
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        refused = status in _REFUSED and status not in _BUSY
        hint = "; may the site's token write there?" if status in {401, 403, 404} else ""
        return HubOutcome(
            result="refused" if refused else "unavailable",
            reason=f"the hub answered {status or 'nothing'} for {name}{hint}",
        )
    except HFValidationError:
        return HubOutcome(result="refused", reason=f"the hub takes no repository named {name}")
    except Exception as error:  # noqa: BLE001 - whatever the client throws; its text may hold the request
        return HubOutcome(
            result="unavailable", reason=f"the hub could not be reached for {name}: {type(error).__name__}"
        )
    return HubOutcome(result="pushed", url=url)


def main() -> int:
    """Carry out the order; return the exit status."""
    order = HubOrder.model_validate(json.load(sys.stdin))
    outcome = _push(order)
    print(outcome.model_dump_json(), flush=True)  # noqa: T201 - the answer to the parent
    return 0 if outcome.result == "pushed" else 1


if __name__ == "__main__":
    sys.exit(main())
