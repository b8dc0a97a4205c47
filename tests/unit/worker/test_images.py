"""Pulls of images: who the node says it is, what failures mean, and what makes room; and what containers may use. The
engine is played."""

import asyncio
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
from services.contract.resources import Capacity
from services.contract.task_error import TaskError
from services.contract.task_input import parse_input
from services.engine.attempt import ClaimedTask
from services.engine.spec import ProcessorSpec
from services.platform.settings import WorkerSettings
from services.worker.isolation.cells import Cells
from services.worker.task.containers import Containers, Work
from services.worker.task.engine import find_engine
from services.worker.task.environment import task_environment
from services.worker.task.images import Images
from services.worker.task.paths import Paths, Workspace
from services.worker.task.registries import Registries
from services.worker.task.share import Share
from tests.stages import stage_work

JOB = UUID(int=1)
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
DIGEST = "sha256:" + "a" * 64


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json", status=status)


class PlayedEngine:
    """Docker's API, as far as pulls need it: images by every name that they have. It creates no container."""

    CPUS = 8

    def __init__(self) -> None:
        self.here: dict[str, dict[str, Any]] = {}
        self.registry: dict[str, dict[str, Any]] = {}
        self.refusal: tuple[int, str] | None = None
        self.told: list[dict[str, Any]] = []
        self.pulls: list[str] = []
        self.auth: list[dict[str, Any] | None] = []
        self.in_use: set[str] = set()
        self.created: list[dict[str, Any]] = []

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

    async def create(self, request: web.Request) -> web.Response:
        self.created.append(await request.json())
        return _json({"message": "not played"}, status=400)

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
        return _json({"ApiVersion": "1.41", "Version": "28.2.2"})

    async def info(request: web.Request) -> web.Response:
        return _json({"OSType": "linux", "NCPU": engine.CPUS})

    async def containers(request: web.Request) -> web.Response:
        return _json([])

    app.router.add_get("/version", version)
    app.router.add_get("/{v}/version", version)
    app.router.add_get("/{v}/info", info)
    app.router.add_get("/{v}/containers/json", containers)
    app.router.add_post("/{v}/containers/create", engine.create)
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


GiB = 1 << 30
NODE = Capacity(cpus=6, memory=12 * GiB, gpus=4)
Create = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def create(
    engine: PlayedEngine, docker: aiodocker.Docker, make: MakeImages, tmp_path: Path
) -> AsyncIterator[Create]:
    """What the engine is told to create for a task of a node of 4 slots; it refuses."""
    workspace = Workspace(tmp_path / "w" / "a")
    workspace.directory.parent.mkdir()
    await asyncio.to_thread(workspace.make)
    paths = Paths(tmp_path / "input", workspace.output / "out", workspace.records)
    task = ClaimedTask(UUID(int=2), JOB, 0, 0, 1, parse_input({"type": "item", "value": 1}))

    async def create(
        *,
        node: Capacity = NODE,
        assigned: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        **stage: Any,
    ) -> dict[str, Any]:
        spec = ProcessorSpec(image="a/b:1", environment=environment or {})
        work = stage_work(JOB, spec, **stage)
        share = Share.of_node(4, node)
        if work.needs is not None:
            share = share.of_part(work, node.part(work.needs, 4), assigned)
        async with find_engine(f"unix://{tmp_path}/e", tmp_path / "scratch") as found:
            assert found is not None
            containers = Containers(found, make(), Cells("process", tmp_path), {}, {})
            given = task_environment({}, task, work, paths, directory=workspace.work, share=share)
            with pytest.raises(TaskError, match="the engine refuses"):
                await containers.run(Work(task, work, "i", given, workspace, paths, share), {})
        return engine.created.pop()

    yield create
    await asyncio.to_thread(workspace.remove)


def _given(body: dict[str, Any]) -> tuple[float, float]:
    """Cores, and GiB of memory."""
    host = body["HostConfig"]
    assert host["MemorySwap"] == host["Memory"]
    return host["NanoCpus"] / 1e9, host["Memory"] / GiB


def _gpus(body: dict[str, Any]) -> tuple[Any, str | None]:
    """Those that are asked for, and those that NVIDIA's runtime gives without being asked."""
    [request] = body["HostConfig"].get("DeviceRequests", [None])
    assert not any(variable.startswith("CUDA_VISIBLE_DEVICES=") for variable in body["Env"])
    said = [
        value for name, _, value in (each.partition("=") for each in body["Env"]) if name == "NVIDIA_VISIBLE_DEVICES"
    ]
    return request and request.get("DeviceIDs", request.get("Count")), said[0] if said else None


async def test_a_container_has_exactly_what_its_stage_asks_for_or_its_slots_share(create: Create) -> None:
    assert _given(await create()) == (1.5, 3)
    assert _given(await create(memory_bytes=GiB)) == (1.5, 1)
    assert _given(await create(cpus=0.25)) == (0.25, 3)
    assert _given(await create(cpus=2.5, memory=5 * GiB)) == (2.5, 5)
    assert _given(await create(memory=5 * GiB, memory_bytes=6 * GiB)) == (1.5, 6)


async def test_a_node_that_says_that_it_has_more_cores_gives_a_container_all_that_there_are(create: Create) -> None:
    many = Capacity(cpus=64, memory=GiB)
    assert _given(await create(node=many, cpus=32))[0] == PlayedEngine.CPUS


async def test_a_container_has_the_gpus_of_its_task_whatever_its_image_or_processor_says(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "NVIDIA_VISIBLE_DEVICES": "all"}
    for environment in ({}, everything):
        assert _gpus(await create(environment=environment, assigned=("1", "3"), gpus=2)) == (["1", "3"], "1,3")
        assert _gpus(await create(environment=environment, cpus=1)) == (None, "void")
    assert _gpus(await create(environment={"CUDA_VISIBLE_DEVICES": "0, 2"})) == (["0", "2"], "0,2")
    assert _gpus(await create()) == (None, "void")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    assert _gpus(await create()) == (-1, None)
