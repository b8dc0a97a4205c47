"""The instance metadata service within a machine's network: `python -m tests.images.metadata ITEMS`, ITEMS as JSON."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

from botocore.credentials import Credentials

from tests.imds import imds_server

ROLE = Credentials("ASIAPIECEWORKTESTS01", "the secret of the role", "the token of its session")

_PLACE = "iam/security-credentials/"


def role_items() -> dict[str, str]:
    """What the service says of the instance's role."""
    expires = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    secrets = {"AccessKeyId": ROLE.access_key, "SecretAccessKey": ROLE.secret_key, "Token": ROLE.token}
    told = {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": expires, "Expiration": expires, **secrets}
    return {_PLACE: "node", f"{_PLACE}node": json.dumps(told)}


async def main(items: dict[str, str]) -> None:
    """Until the process is killed."""
    async with imds_server("169.254.169.254", 80) as server:
        server.items |= role_items() | items
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
