"""Who the node is to the registries that it pulls images from.

For Amazon ECR the node's role is asked for a token: https://docs.aws.amazon.com/AmazonECR/latest/userguide/
registry_auth.html. For others, the operator gives a file in the form of Docker's `config.json`, as `docker login`
writes it without a credential helper.
"""

import asyncio
import base64
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from botocore.exceptions import BotoCoreError, ClientError

from services.contract.task_error import TaskError
from services.platform.aws import open_client
from services.platform.settings import WorkerSettings

_ECR = re.compile(r"(?P<account>\d{12})\.dkr[.-]ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.(amazonaws\.com(\.cn)?|on\.aws)")
_DOCKER_HUB = "docker.io"
_HUB_IN_FILES = "https://index.docker.io/v1/"
_KEPT_PART = 0.5  # of a token's life, which is 12 hours
_TOKEN_SECONDS = 30.0


class Registries:
    """Finds credentials by the name of an image's registry."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._tokens: dict[str, tuple[float, dict[str, str]]] = {}  # by registry: until when, and what

    def full_name(self, reference: str) -> str:
        """The reference with its registry."""
        return reference if _registry(reference) in reference else f"{_DOCKER_HUB}/{reference}"

    async def credentials(self, reference: str) -> dict[str, str] | None:
        """`username` and `password` for the image's registry; None if there are none.

        Raises TaskError (image_unavailable) if ECR gives no token, or the file can't be read.
        """
        registry = _registry(reference)
        if (ecr := _ECR.fullmatch(registry)) is not None:
            return await self._ecr_token(registry, ecr["account"], ecr["region"])
        return self._from_file(registry) if self._settings.registries else None

    async def _ecr_token(self, registry: str, account: str, region: str) -> dict[str, str]:
        until, known = self._tokens.get(registry, (0.0, {}))
        if time.time() < until:
            return known
        try:
            async with asyncio.timeout(_TOKEN_SECONDS), open_client("ecr", self._settings, region) as client:
                answer: dict[str, Any] = await client.get_authorization_token(registryIds=[account])
            [data] = answer["authorizationData"]
            token = _decode(data["authorizationToken"])
        except (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError) as error:
            why = f"ECR gives this node no token: {error}; let its role call ecr:GetAuthorizationToken"
            raise TaskError("image_unavailable", f"no image of {registry} can be had: {why}") from error
        life = data["expiresAt"].timestamp() - time.time()
        self._tokens[registry] = time.time() + life * _KEPT_PART, token
        return token

    def _from_file(self, registry: str) -> dict[str, str] | None:
        path = Path(self._settings.registries)
        try:
            entries = orjson.loads(path.read_bytes()).get("auths", {})
            name = _HUB_IN_FILES if registry == _DOCKER_HUB else registry
            return _decode(entries[name]["auth"]) if name in entries else None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            why = f"the file in PIECEWORK_REGISTRIES, {path}, can't be read: {error!r}"
            raise TaskError("image_unavailable", f"no image of {registry} can be had: {why}") from error


def _registry(reference: str) -> str:
    """The registry's host, or Docker Hub's if the name has none: https://github.com/distribution/reference."""
    first, slash, _ = reference.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _DOCKER_HUB


def _decode(token: str) -> dict[str, str]:
    """`user:password` in base64."""
    user, colon, password = base64.b64decode(token).decode().partition(":")
    if not colon:
        raise ValueError("it is not `user:password` in base64")
    return {"username": user, "password": password}
