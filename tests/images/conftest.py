"""A container engine, small images without a registry, and a grid whose nodes use them: `make test-images`."""

import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from deploy.images.build import TARGETS, build
from deploy.images.engine import Engine, NoEngine, running_engine, running_podman
from tests.integration.worker.conftest import InProcessGrid, code, grid

__all__ = ["code", "grid"]

SMALL = "piecework-test/busybox:1"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        with running_engine() as found:
            yield found
    except NoEngine as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def podman() -> Iterator[Engine]:
    try:
        with running_podman() as found:
            yield found
    except NoEngine as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=["engine", "podman"], ids=["docker", "podman"])
def task_engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn that tasks may be run by."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(scope="session")
def small(engine: Engine) -> str:
    """The name of an image that has a shell and the usual programs, and is in no registry."""
    return make_small(engine)


def make_small(engine: Engine) -> str:
    if not engine.has_image(SMALL):
        engine.docker("import", "--change", "ENV PATH=/bin", "--change", "ENV SAYS=image", "-", SMALL, input=_busybox())
    return SMALL


def _busybox() -> bytes:
    """A file system with nothing but busybox, as a tar archive."""
    program = Path("/bin/busybox")
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("bin", "tmp", "etc", "proc", "sys", "dev", "root"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(directory)
        archive.add(program.resolve(), "bin/busybox")
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
    return packed.getvalue()


@pytest.fixture(scope="session")
def server_image(engine: Engine) -> str:
    """The name of the image that the services run in."""
    return build(engine, "server")


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """The names of the images of deploy/docker, by target."""
    return {target: build(engine, target) for target in TARGETS}


class ContainerGrid:
    """Runs tasks of an image on a node with the engine."""

    def __init__(self, grid: InProcessGrid, engine: Engine) -> None:
        self.grid = grid
        self.engine = engine
        grid.settings = grid.settings.model_copy(update={"container_engine": engine.url})

    def containers(self) -> list[str]:
        """Names of the containers that are there, running or not, of this grid's workers."""
        listed = self.engine.docker("ps", "--all", "--format", '{{.Label "piecework.grid"}} {{.Names}}')
        own = self.grid.settings.layout.root.uri
        return [line.split()[1] for line in listed.splitlines() if line.split()[:1] == [own]]


@pytest.fixture
def containers(grid: InProcessGrid, task_engine: Engine) -> ContainerGrid:
    make_small(task_engine)
    return ContainerGrid(grid, task_engine)
