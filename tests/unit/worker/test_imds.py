"""What a worker asks EC2's instance metadata service, and where it asks nobody."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.worker.node import imds
from services.worker.node.imds import Imds, ImdsUnavailable, Instance, describe_machine, find_imds
from tests.imds import ImdsServer, imds_server


@pytest.fixture
async def server() -> AsyncIterator[ImdsServer]:
    async with imds_server() as running:
        yield running


async def test_it_says_what_the_instance_is_with_one_token(server: ImdsServer) -> None:
    found = await describe_machine(Imds(server.url))

    assert found == Instance("i-0123456789abcdef0", "m7g.large", "eu-central-1a", "spot")
    assert server.requests.count("/latest/api/token") == 1
    assert server.connections == 1


async def test_what_it_does_not_know_is_left_out(server: ImdsServer) -> None:
    del server.items["instance-life-cycle"]
    assert (await describe_machine(Imds(server.url))).market is None


async def test_a_token_that_has_ended_is_replaced(server: ImdsServer) -> None:
    client = Imds(server.url)
    await client.read("instance-id")
    server.forget_tokens()
    assert await client.read("instance-id") == [server.items["instance-id"]]


async def test_a_request_that_fails_is_made_three_times(server: ImdsServer) -> None:
    server.failures = 2
    assert await Imds(server.url).read("instance-type") == ["m7g.large"]
    server.failures, before = 100, len(server.requests)
    with pytest.raises(ImdsUnavailable, match="500"):
        await Imds(server.url).read("instance-type")
    assert len(server.requests) - before == 3


async def test_where_nobody_answers_the_machine_is_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await describe_machine(None) == Instance()
    assert await describe_machine(Imds("http://127.0.0.1:9")) == Instance()

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(imds, "TRY_SECONDS", 0.05)
    silent = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        assert await describe_machine(Imds(f"http://127.0.0.1:{port}")) == Instance()


@pytest.mark.parametrize(
    ("name", "mark", "is_ec2"),
    [
        ("class/dmi/id/sys_vendor", "Amazon EC2\n", True),
        ("hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n", True),
        ("class/dmi/id/sys_vendor", "QEMU\n", False),
        ("elsewhere", "", False),
    ],
)
def test_an_instance_is_told_by_its_firmware_or_hypervisor(tmp_path: Path, name: str, mark: str, is_ec2: bool) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(mark)
    assert imds._is_ec2(tmp_path) is is_ec2


def test_nobody_is_asked_off_ec2_or_where_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(imds, "_is_ec2", lambda: False)
    assert find_imds() is None
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    assert find_imds() is not None
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert find_imds() is None
