"""Storage tests run on two makes of S3 server."""

import pytest

from narrowcast.settings import StorageSettings


@pytest.fixture(params=["storage_settings", "rclone_settings"], ids=["seaweedfs", "rclone"])
def s3(request: pytest.FixtureRequest) -> StorageSettings:
    """A running S3 server with our three buckets, of each make in turn."""
    settings: StorageSettings = request.getfixturevalue(request.param)
    return settings
