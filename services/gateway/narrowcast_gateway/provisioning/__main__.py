"""Command line: ``python -m narrowcast_gateway.provisioning``. To be repeated at any time."""

import argparse
import json
import sys

from narrowcast import logs
from narrowcast.errors import NarrowcastError
from narrowcast.settings import settings_or_exit
from narrowcast_gateway.provisioning.policies import USERS, policy_document
from narrowcast_gateway.provisioning.service import provision
from narrowcast_gateway.provisioning.settings import OneShotSettings

_SERVICE = "provisioning"


def main(arguments: list[str] | None = None) -> int:
    """Set the object store up; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m narrowcast_gateway.provisioning",
        description="Make buckets, S3 users and their policies, or bring them up to date.",
    )
    parser.add_argument("--policies", action="store_true", help="only print the policies, by user")
    options = parser.parse_args(arguments)

    if options.policies:
        # They name buckets, and need no secret, which production would insist on.
        settings = settings_or_exit(OneShotSettings, _SERVICE, environment="development")
        print(json.dumps({user: policy_document(user, settings.storage) for user in USERS}, indent=2))  # noqa: T201
        return 0
    settings = settings_or_exit(OneShotSettings, _SERVICE)
    logs.configure(_SERVICE, settings.log_level)
    try:
        provision(settings)
    except NarrowcastError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
