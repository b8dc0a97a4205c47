"""Pulls of images: who the node says it is, what failures mean, and what makes room. The engine is played."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import aiodocker
import pytest
from aiohttp import web

from deploy.local.emulator import Emulator
from services.contract.task_error import TaskError
from services.platform.settings import WorkerSettings
from services.worker.task.engine import Container, Limits, _config
from services.worker.task.images import Images
from services.worker.task.registries import Registries

JOB = UUID(int=1)
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
DIGEST = "sha256:" + "a" * 64


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json", status=status)


class PlayedEngine:
    """Docker's API, as far as pulls need it: images by every name that they have."""

    def __init__(self) -> None:
        self.here: dict[str, dict[str, Any]] = {}
        self.registry: dict[str, dict[str, Any]] = {}
        self.refusal: tuple[int, str] | None = None
        self.told: list[dict[str, Any]] = []
        self.pulls: list[str] = []
        self.auth: list[dict[str, Any] | None] = []
        self.in_use: set[str] = set()

    def put(self, name: str, number: str, *, size: int = 10, at: str = "registry") -> str:
        """Have the registry (or the node) have an image; returns its id."""
        image_id = "sha256:" + number * 64
        repository = name.partition("@")[0].rpartition(":")[0]
        digests = [f"{repository}@{image_id}"] if at == "registry" else []
        image = {"Id": image_id, "Size": size, "RepoDigests": digests}
        getattr(self, at).update(dict.fromkeys((name, image_id, *digests), image))
        return image_id

    async def inspect(self, request: web.Request) -> web.Response:
        image = self.here.get(request.match_info["name"])
        return _json(image or {"message": "No such image"}, status=200 if image else 404)

    async def pull(self, request: web.Request) -> web.Response:
        name, auth = request.query["fromImage"], request.headers.get("X-Registry-Auth")
        self.pulls.append(name)
        self.auth.append(json.loads(base64.urlsafe_b64decode(auth)) if auth else None)
        if self.refusal is not None:
            return _json({"message": self.refusal[1]}, status=self.refusal[0])
        if name in self.registry:
            image = self.registry[name]
            self.here |= {each: found for each, found in self.registry.items() if found["Id"] == image["Id"]}
        return web.Response(text="\n".join(json.dumps(line) for line in (*self.told, {"status": "done"})))

    async def remove(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name in self.in_use:
            return _json({"message": "image is being used by running container"}, status=409)
        self.here = {each: found for each, found in self.here.items() if found["Id"] != name}
        return _json([])


class PlayedPins:
    """What jobs have agreed on."""

    def __init__(self) -> None:
        self.kept: dict[tuple[UUID, str], str] = {}

    async def agree(self, job_id: UUID, name: str, find: Callable[[], Awaitable[str]]) -> str:
        if (job_id, name) not in self.kept:
            self.kept[job_id, name] = await find()
        return self.kept[job_id, name]


@pytest.fixture
def engine() -> PlayedEngine:
    return PlayedEngine()


@pytest.fixture
async def docker(engine: PlayedEngine, tmp_path: Path) -> AsyncIterator[aiodocker.Docker]:
    app = web.Application()

    async def version(request: web.Request) -> web.Response:
        return _json({"ApiVersion": "1.41"})

    app.router.add_get("/version", version)
    app.router.add_get("/{v}/images/{name:.+}/json", engine.inspect)
    app.router.add_post("/{v}/images/create", engine.pull)
    app.router.add_delete("/{v}/images/{name:.+}", engine.remove)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "e")).start()
    async with aiodocker.Docker(f"unix://{tmp_path}/e") as client:
        yield client
    await runner.cleanup()


MakeImages = Callable[..., Images]


@pytest.fixture
def make(docker: aiodocker.Docker, tmp_path: Path) -> MakeImages:
    def made(pins: PlayedPins | None = None, *, bytes_max: int = 100, registries: str = "") -> Images:
        settings = WorkerSettings(registries=registries)
        return Images(docker, pins or PlayedPins(), Registries(settings), tmp_path / "marks", bytes_max)  # type: ignore[arg-type]

    return made


async def test_a_tag_names_one_image_for_the_whole_job(engine: PlayedEngine, make: MakeImages) -> None:
    pins, other_job = PlayedPins(), UUID(int=2)
    old = engine.put("quay.io/a/b:1", "1")
    assert await make(pins).get(JOB, "quay.io/a/b:1") == old
    new = engine.put("quay.io/a/b:1", "2")
    another_node = make(pins)
    assert await another_node.get(JOB, "quay.io/a/b:1") == old
    assert await another_node.get(other_job, "quay.io/a/b:1") == new


async def test_an_image_that_is_here_is_not_pulled(engine: PlayedEngine, make: MakeImages) -> None:
    images, own = make(), engine.put("only/here:1", "1", at="here")
    reference = f"quay.io/a/b@{engine.put('quay.io/a/b:1', '2')}"
    assert await images.get(JOB, "only/here:1") == own
    assert engine.pulls == []
    for _ in range(2):
        await images.get(JOB, reference)
    assert engine.pulls == [reference]


async def test_an_image_of_another_node_alone_is_told_to_be_pushed(engine: PlayedEngine, make: MakeImages) -> None:
    pins = PlayedPins()
    engine.put("only/here:1", "1", at="here")
    await make(pins).get(JOB, "only/here:1")
    engine.here.clear()
    with pytest.raises(TaskError, match="another node made it, and it is in no registry: push it") as error:
        await make(pins).get(JOB, "only/here:1")
    assert (error.value.type, error.value.retryable) == ("image_unavailable", True)


@pytest.mark.parametrize(
    ("status", "said", "retryable"),
    [
        (404, "manifest for a/b:1 not found: manifest unknown: manifest unknown", False),
        (500, "Get https://quay.io/v2/: dial tcp: lookup quay.io: i/o timeout", True),
        (500, "toomanyrequests: You have reached your pull rate limit", True),
        (500, "Head https://quay.io/v2/a/b/manifests/1: no basic auth credentials", True),
    ],
)
async def test_a_failed_pull_is_told_with_the_registrys_words(
    engine: PlayedEngine, make: MakeImages, status: int, said: str, retryable: bool
) -> None:
    engine.refusal = status, said
    with pytest.raises(TaskError) as error:
        await make().get(JOB, "quay.io/a/b:1")
    assert (error.value.type, error.value.retryable) == ("image_unavailable", retryable)
    assert error.value.message.startswith(f"the image quay.io/a/b:1 can't be had: {said}")
    engine.refusal = None
    engine.put("quay.io/a/b:1", "1")
    await make().get(JOB, "quay.io/a/b:1")  # a failure is not kept


async def test_a_pull_may_fail_in_the_middle(engine: PlayedEngine, make: MakeImages) -> None:
    engine.told = [{"status": "Downloading", "id": "x"}, {"error": "unexpected EOF", "errorDetail": {"message": "EOF"}}]
    with pytest.raises(TaskError, match="EOF") as error:
        await make().get(JOB, f"quay.io/a/b@{DIGEST}")
    assert error.value.retryable


async def test_the_least_used_images_make_room(engine: PlayedEngine, make: MakeImages) -> None:
    images = make(bytes_max=100)
    own = engine.put("only/here:1", "9", size=1000, at="here")
    ids = {number: engine.put(f"quay.io/a/{number}:1", number, size=40) for number in "1234"}
    for number in "12":
        await images.get(JOB, f"quay.io/a/{number}:1")
    await images.get(JOB, "quay.io/a/1:1")  # now 2 is the one that was used last but one
    await images.get(JOB, "quay.io/a/3:1")
    assert own in engine.here
    assert [number for number in "123" if ids[number] in engine.here] == ["1", "3"]
    engine.in_use = {ids["1"]}
    await images.get(JOB, "quay.io/a/4:1")
    assert [number for number in "1234" if ids[number] in engine.here] == ["1", "4"]


async def test_a_file_has_the_credentials_of_registries(engine: PlayedEngine, make: MakeImages, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    entries = {"quay.io": "a:b", "https://index.docker.io/v1/": "me:secret:x"}
    auths = {name: {"auth": base64.b64encode(each.encode()).decode()} for name, each in entries.items()}
    file.write_text(json.dumps({"auths": auths}))
    images = make(registries=str(file))
    for name in ("quay.io/a/b:1", "docker.io/me/b:1", "ghcr.io/a/b:1"):
        engine.put(name, name[0])
    engine.put("me/b:1", "d")
    for name in ("quay.io/a/b:1", "me/b:1", "ghcr.io/a/b:1"):
        await images.get(JOB, name)
    assert engine.pulls == ["quay.io/a/b:1", "docker.io/me/b:1", "ghcr.io/a/b:1"]
    assert engine.auth == [
        {"username": "a", "password": "b", "serveraddress": "quay.io"},
        {"username": "me", "password": "secret:x", "serveraddress": "docker.io"},
        None,
    ]
    file.write_text("[]")
    with pytest.raises(TaskError, match=r"PIECEWORK_REGISTRIES.* can't be read"):
        await make(registries=str(file)).get(JOB, "quay.io/a/c:1")


async def test_the_nodes_role_reads_private_images_of_ecr(
    engine: PlayedEngine, docker: aiodocker.Docker, moto: Emulator, tmp_path: Path
) -> None:
    registries = Registries(WorkerSettings(aws_endpoint_url=moto.url))
    images = Images(docker, PlayedPins(), registries, tmp_path / "marks", 100)  # type: ignore[arg-type]
    for number in "12":
        name = f"{ECR}/align:{number}"
        engine.put(name, number)
        await images.get(JOB, name)
    assert engine.auth == [{"username": "AWS", "password": "123456789012-auth-token", "serveraddress": ECR}] * 2
    assert list(registries._tokens) == [ECR], "a token serves all pulls of its registry"


async def test_without_a_token_of_ecr_the_fix_is_told(engine: PlayedEngine, docker: aiodocker.Docker) -> None:
    registries = Registries(WorkerSettings(aws_endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(TaskError, match="let its role call ecr:GetAuthorizationToken") as error:
        await registries.credentials(f"{ECR}/align:1")
    assert (error.value.type, error.value.retryable) == ("image_unavailable", True)


def test_the_gpus_of_a_command_are_those_of_a_container() -> None:
    def asked(gpus: list[str] | None) -> Any:
        limits = Limits(1 << 30, 2, 4096, None, 1 << 20)
        container = Container("n", "i", None, None, {}, 1, 1, Path("/w"), [], [], True, gpus, limits, {})
        return _config(container, keep_id=False)["HostConfig"].get("DeviceRequests")

    assert asked([]) is None
    assert asked(["0", "2"]) == [{"Driver": "", "Capabilities": [["gpu"]], "DeviceIDs": ["0", "2"]}]
    assert asked(None) == [{"Driver": "", "Capabilities": [["gpu"]], "Count": -1}]
