"""What EC2 says of the machine that this worker runs on: the instance metadata service, version 2.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog

log = structlog.get_logger()

ADDRESS = "http://169.254.169.254"
TRY_SECONDS = 2.0
TRIES = 3
_PAUSE_SECONDS = 0.1  # between two tries
_TOKEN_SECONDS = 21_600  # the longest that a token can be valid
_ITEM_BYTES_MAX = 65_536


class ImdsUnavailable(Exception):
    """The instance metadata service does not answer, or does not let this process ask."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What a machine is on EC2; all None elsewhere."""

    instance_id: str | None = None
    instance_type: str | None = None
    zone: str | None = None
    market: str | None = None  # on-demand, spot, scheduled, capacity-block


class Imds:
    """A client of the service at this address. It keeps a token of a session, and asks for another when that ends."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._address = address.rstrip("/")
        self._token: str | None = None

    async def read(self, *items: str) -> list[str | None]:
        """The items below `/latest/meta-data/`, over one connection; None for what is not there.

        Raises ImdsUnavailable.
        """
        timeout = aiohttp.ClientTimeout(total=TRY_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return [await self._read(session, item) for item in items]

    async def _read(self, session: aiohttp.ClientSession, item: str) -> str | None:
        for number in range(1, TRIES + 1):
            try:
                return await self._try_to_read(session, item)
            except (ImdsUnavailable, aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
                self._token = None  # which may be why
                if number == TRIES:
                    raise ImdsUnavailable(f"{self._address}: {error!r}") from error
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError

    async def _try_to_read(self, session: aiohttp.ClientSession, item: str) -> str | None:
        if self._token is None:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            async with session.put(f"{self._address}/latest/api/token", headers=headers) as answer:
                self._token = await _text(answer)
        headers = {"X-aws-ec2-metadata-token": self._token}
        async with session.get(f"{self._address}/latest/meta-data/{item}", headers=headers) as answer:
            return None if answer.status == 404 else await _text(answer)

    async def find_instance(self) -> Instance:
        """What this machine is. Raises ImdsUnavailable."""
        return Instance(
            *await self.read("instance-id", "instance-type", "placement/availability-zone", "instance-life-cycle")
        )


async def _text(answer: aiohttp.ClientResponse) -> str:
    if answer.status != 200:
        raise ImdsUnavailable(f"{answer.method} {answer.url.path} answered {answer.status}")
    return (await answer.content.read(_ITEM_BYTES_MAX)).decode().strip()


def find_imds() -> Imds | None:
    """The service of this machine; None where it is not an EC2 instance's, or is switched off.

    The variables are those of the AWS SDKs: https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html
    """
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    if address := os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        return Imds(address)
    return Imds() if _is_ec2() else None


def _is_ec2(system: Path = Path("/sys")) -> bool:
    """By what the firmware or the hypervisor says, so that nobody else waits for an address that does not answer.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    """
    marks = ("class/dmi/id/sys_vendor", "Amazon EC2"), ("hypervisor/uuid", "ec2")
    return any(_first_line(system / name).startswith(mark) for name, mark in marks)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""


async def describe_machine(imds: Imds | None) -> Instance:
    """What this machine is, as far as it can be found out."""
    if imds is None:
        return Instance()
    try:
        return await imds.find_instance()
    except ImdsUnavailable as error:
        log.warning("instance metadata not read", error=str(error))
        return Instance()
