"""Pulls from a private registry, by a node that has its credentials and by one that has not."""

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.images.engine import Engine
from tests.conftest import free_port
from tests.images.conftest import ContainerGrid

ITEM = {"type": "item", "value": 1}
USER, PASSWORD = "piecework", "open-sesame"
# The password, as `htpasswd -B` writes it.
_HASHED = "$2b$04$abcdefghijklmnopqrstuuXcjcm5avyCiJoD2uS24xa2lb6fjMB3G"


def wait_for(host: str, seconds: float = 60.0) -> None:
    address, _, port = host.partition(":")
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="session")
def task_engine(engine: Engine) -> Engine:
    """Docker alone: the registry is filled by it."""
    return engine


@pytest.fixture
def registry(engine: Engine, small: str, tmp_path: Path) -> Iterator[str]:
    """The host of a registry that asks for a password."""
    if not engine.ours:
        pytest.skip("the registry is a program of Debian's")
    host = f"127.0.0.1:{free_port()}"
    (tmp_path / "htpasswd").write_text(f"{USER}:{_HASHED}\n")
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": host},
        "auth": {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}},
    }
    (tmp_path / "registry.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(["docker-registry", "serve", tmp_path / "registry.yml"])
    try:
        wait_for(host)
        engine.docker(
            *("--config", str(tmp_path / "docker"), "login", "--username", USER, "--password-stdin", host),
            input=PASSWORD.encode(),
        )
        for name in ("a:1", "b:1"):
            engine.docker("tag", small, f"{host}/{name}")
            engine.docker("--config", str(tmp_path / "docker"), "push", f"{host}/{name}")
            engine.docker("rmi", f"{host}/{name}")
        yield host
    finally:
        process.terminate()
        process.wait()
        for name in engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{host}/*").split():
            engine.docker("rmi", "--force", name)


async def test_a_node_pulls_with_its_credentials(containers: ContainerGrid, registry: str, tmp_path: Path) -> None:
    grid, file = containers.grid, tmp_path / "config.json"
    file.write_text(
        json.dumps({"auths": {registry: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}})
    )
    grid.settings = grid.settings.model_copy(update={"registries": str(file)})
    found = await grid.submit({"image": f"{registry}/a:1", "command": ["true"]}, [ITEM])
    missing = await grid.submit({"image": f"{registry}/c:1", "command": ["true"]}, [ITEM], retry={"max_attempts": 3})
    tasks = await grid.run(found, missing)
    assert tasks[0]["state"] == "succeeded", tasks[0]["error"]
    assert (tasks[1]["error"]["type"], tasks[1]["attempt"]) == ("image_unavailable", 1), "no other try could succeed"
    assert f"{registry}/c:1" in tasks[1]["error"]["message"]


async def test_a_node_without_credentials_is_told_what_it_lacks(containers: ContainerGrid, registry: str) -> None:
    grid = containers.grid
    job_id = await grid.submit({"image": f"{registry}/b:1", "command": ["true"]}, [ITEM])
    (task,) = await grid.run(job_id)
    assert task["error"]["type"] == "image_unavailable"
    assert "no credentials for it" in task["error"]["message"]
    assert "PIECEWORK_REGISTRIES" in task["error"]["message"]
