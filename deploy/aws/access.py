"""The grid's API, as the one who deploys reaches it: by its name, or through a session of Systems Manager."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from deploy.aws.stacks import DeployError

_PORTS = {"api": 8000, "stats": 8001}
_PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def api(session: Any, grid: Mapping[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an operator's key: that of PIECEWORK_API_KEY, or else the first one. Raises DeployError."""
    key = os.environ.get("PIECEWORK_API_KEY")
    if key is None:
        async with session.client("secretsmanager") as secrets:
            key = (await secrets.get_secret_value(SecretId=grid["BootstrapKey"]))["SecretString"]
    async with AsyncExitStack() as stack:
        url = os.environ.get("PIECEWORK_API_URL") or grid["ApiUrl"]
        if not url:
            url = f"http://127.0.0.1:{await stack.enter_async_context(tunnel(session, grid, 'api'))}"
        headers = {"Authorization": f"Bearer {key}"}
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=30))


async def call(client: httpx.AsyncClient, method: str, path: str, *, absent: Any = None, **body: Any) -> Any:
    """The answer's JSON, or `absent`, if given, for a 404; raises DeployError for a refusal and for silence."""
    try:
        answer = await client.request(method, path, json=body or None)
    except httpx.HTTPError as error:
        raise DeployError(
            f"the grid's API does not answer at {client.base_url}: {error or type(error).__name__}"
        ) from None
    if answer.status_code == 401:
        raise DeployError("the API does not know the first key any more: set PIECEWORK_API_KEY to an operator's key")
    if answer.status_code == 404 and absent is not None:
        return absent
    if answer.is_error:
        detail = answer.json().get("detail", "") if "json" in answer.headers.get("content-type", "") else answer.text
        raise DeployError(f"the API refuses {method} {path} ({answer.status_code}): {detail[:500]}")
    try:
        return answer.json()
    except ValueError:
        raise DeployError(f"what answers at {client.base_url} is not the grid's API: {answer.text[:100]!r}") from None


@asynccontextmanager
async def tunnel(session: Any, grid: Mapping[str, str], service: str, port: int = 0) -> AsyncIterator[int]:
    """A local port that leads to the service on the control node, for the time of the context. Raises DeployError."""
    for program, advice in (
        ("aws", "install the AWS CLI"),
        ("session-manager-plugin", "install the Session Manager plugin of the AWS CLI"),
    ):
        if shutil.which(program) is None:
            raise DeployError(
                f"there is no {program}, without which the API is not reached from here: {advice}, or give the grid a "
                "certificate (docs/aws.md)"
            )
    instance = await control_node(session, grid)
    port = port or _free_port()
    process = await asyncio.create_subprocess_exec(
        *("aws", "ssm", "start-session", "--region", session.region_name, "--target", instance),
        *("--document-name", "AWS-StartPortForwardingSession"),
        *("--parameters", f"portNumber={_PORTS[service]},localPortNumber={port}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = asyncio.create_task(process.stdout.read())
    try:
        await _opened(process, said, port)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        said.cancel()


async def control_node(session: Any, grid: Mapping[str, str]) -> str:
    """The id of the instance that serves; raises DeployError if there is none."""
    async with session.client("autoscaling") as autoscaling:
        answer = await autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[grid["ControlGroup"]])
    instances = [found for group in answer["AutoScalingGroups"] for found in group["Instances"]]
    serving = [found["InstanceId"] for found in instances if found["LifecycleState"] == "InService"]
    if not serving:
        raise DeployError(f"the group {grid['ControlGroup']} has no control node in service: try again in some minutes")
    return str(serving[-1])


async def _opened(process: asyncio.subprocess.Process, said: asyncio.Task[bytes], port: int) -> None:
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            words = (await said).decode(errors="replace").strip().splitlines()
            raise DeployError(f"no session with the control node: {words[-1] if words else 'aws said nothing'}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise DeployError(f"no session with the control node after {_PATIENCE_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
