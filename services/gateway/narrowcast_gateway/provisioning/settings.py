"""Settings of the one-shot. ``STORAGE__ACCESS_KEY`` and ``STORAGE__SECRET_KEY`` are an administrator's."""

from pathlib import Path

from pydantic import BaseModel, Field

from narrowcast.settings import CommonSettings


class ProvisioningSettings(BaseModel):
    """What is set up, and how long a server may take to come up."""

    users: bool = True
    """False makes buckets only: for a server whose users somebody else manages."""
    users_dir: Path = Path("/run/secrets/users")
    """One file a user, named after the user, with the secret key in it."""
    deadline_s: float = Field(60.0, gt=0)


class OneShotSettings(CommonSettings):
    """Everything the one-shot needs."""

    provisioning: ProvisioningSettings = ProvisioningSettings()
