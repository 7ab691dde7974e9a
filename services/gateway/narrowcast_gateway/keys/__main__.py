"""Command line for API keys: ``python -m narrowcast_gateway.keys create TENANT``."""

import argparse
import sys
import time

from narrowcast.connections import connect
from narrowcast.errors import NarrowcastError
from narrowcast.settings import settings_or_exit
from narrowcast_gateway.keys.service import ApiKeys
from narrowcast_gateway.settings import GatewaySettings


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_gateway.keys", description="Manage API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="create a key and print it, this once")
    create.add_argument("tenant")
    commands.add_parser("list", help="list keys: id, tenant, creation time")
    revoke = commands.add_parser("revoke", help="make a key invalid at once")
    revoke.add_argument("key_id", metavar="KEY-ID")
    options = parser.parse_args(arguments)

    keys = ApiKeys(connect(settings_or_exit(GatewaySettings, "keys")).redis)
    try:
        if options.command == "create":
            print(keys.create(options.tenant))  # noqa: T201
        elif options.command == "list":
            for record in keys.listing():
                created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created_at))
                print(record.id, record.tenant, created)  # noqa: T201
        elif not keys.revoke(options.key_id):
            print(f"no key {options.key_id}", file=sys.stderr)  # noqa: T201
            return 1
    except NarrowcastError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
