"""A container engine for builds and tests: the machine's, or a daemon of our own on a private socket.

Ours is for a Debian machine whose root we are and where no engine runs, such as a CI runner. It takes Debian's packages
(docker.io, and mmdebstrap for images without a registry), leaves the machine's services alone, and ends with us.
"""

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.worker.child.linux import die_with_parent

# docker.io is the engine, busybox-static is the content of a small image, docker-registry a registry for tests.
PACKAGES = ("docker.io", "mmdebstrap", "busybox-static", "docker-registry")
# catatonit is the init process of its containers, netavark makes their networks.
_PODMAN_PACKAGES = (*PACKAGES, "podman", "runc", "catatonit", "netavark")
STATE = Path(__file__).parents[2] / ".piecework" / "images"

_START_SECONDS = 60.0
_NO_SERVICES = "#!/bin/sh\nexit 101\n"  # what packages ask before they start a daemon: invoke-rc.d(8)
_POLICY = Path("/usr/sbin/policy-rc.d")


class NoEngine(Exception):
    """There is no engine, and none can be started; the message says why, in one line."""


class Engine:
    """A running engine, `docker` or `podman`, which the command `docker` reaches at `url`."""

    def __init__(self, url: str, *, ours: bool, kind: str = "docker") -> None:
        self.url = url
        self.ours = ours
        self.kind = kind

    def docker(self, *arguments: str, input: bytes | None = None, cwd: Path | None = None) -> str:
        """What the command prints. Raises CalledProcessError; what it says of its failure goes to standard error."""
        # The classic builder: buildx is not among Debian's packages.
        environment = {**os.environ, "DOCKER_HOST": self.url, "DOCKER_BUILDKIT": "0"}
        ran = subprocess.run(
            ["docker", *arguments], input=input, cwd=cwd, env=environment, stdout=subprocess.PIPE, check=True
        )
        return ran.stdout.decode()

    def has_image(self, name: str) -> bool:
        return bool(self.docker("images", "--quiet", name).strip())


@contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine for the time of the context: the machine's if it answers, or else ours. Raises NoEngine."""
    if (url := _of_machine()) is not None:
        yield Engine(url, ours=False)
        return
    install()
    with _daemon(STATE / "docker") as url:
        yield Engine(url, ours=True)


@contextmanager
def running_podman() -> Iterator[Engine]:
    """A Podman of our own for the time of the context, whatever engine the machine has. Raises NoEngine."""
    install(_PODMAN_PACKAGES)
    with _podman(STATE / "podman.log") as url:
        yield Engine(url, ours=True, kind="podman")


def _of_machine() -> str | None:
    if shutil.which("docker") is None:
        return None
    asked = subprocess.run(["docker", "info", "--format", "{{json .}}"], capture_output=True, check=False)
    if asked.returncode != 0 or json.loads(asked.stdout).get("ServerErrors"):
        return None
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def install(packages: Sequence[str] = PACKAGES) -> None:
    """Install the packages that are missing. Raises NoEngine where that can't be done."""
    if os.geteuid() != 0:
        raise NoEngine("no container engine answers, and only root can start one")
    if not Path("/etc/debian_version").exists() or shutil.which("apt-get") is None:
        raise NoEngine("no container engine answers, and one is installed on Debian only")
    missing = [name for name in packages if not _is_installed(name)]
    if not missing:
        return
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with _without_services():
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            ran = subprocess.run(
                [*apt, *arguments],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode != 0:
                raise NoEngine(f"{' '.join(missing)} can't be installed: {ran.stderr.strip().splitlines()[-1:]}")


def _is_installed(package: str) -> bool:
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, check=False)
    return asked.stdout == b"install ok installed"


@contextmanager
def _without_services() -> Iterator[None]:
    """Have packages start no daemons, unless the machine has its own rule for that."""
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text(_NO_SERVICES)
        _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            _POLICY.unlink()


@contextmanager
def _daemon(directory: Path) -> Iterator[str]:
    """A daemon of Docker whose images stay in the directory. Raises NoEngine."""
    with _place() as own:
        (own / "daemon.json").write_text("{}")  # not the machine's
        url = f"unix://{own}/sock"
        command = [
            *("dockerd", "--host", url, "--config-file", f"{own}/daemon.json", "--pidfile", f"{own}/pid"),
            *("--data-root", str(directory / "data"), "--exec-root", f"{own}/exec"),
        ]
        with _serving(command, url, directory / "log"):
            yield url


# What a Podman needs whose root may not raise limits, as in a container, and that leaves the machine's own alone.
_PODMAN = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "{own}/tmp"
[network]
network_config_dir = "{own}/networks"
"""
_REGISTRIES = """
[[registry]]
location = "127.0.0.1"
insecure = true  # as Docker has it
"""


@contextmanager
def _podman(log: Path) -> Iterator[str]:
    """Podman's service, with Docker's API. Its images go with it: it remembers all of its places. Raises NoEngine."""
    with _place() as own:
        files, processes = (resource.getrlimit(which)[1] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
        (own / "containers.conf").write_text(_PODMAN.format(own=own, files=files, processes=processes))
        url = f"unix://{own}/sock"
        command = [
            *("podman", "--root", f"{own}/data", "--runroot", f"{own}/run", "--storage-driver", "overlay"),
            *("system", "service", "--time", "0", url),
        ]
        (own / "registries.conf").write_text(_REGISTRIES)
        own_files = {
            "CONTAINERS_CONF": f"{own}/containers.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{own}/registries.conf",
        }
        with _serving(command, url, log, **own_files):
            yield url


@contextmanager
def _place() -> Iterator[Path]:
    """A directory for a daemon, with a short name: a socket's path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="piecework-engine-", ignore_cleanup_errors=True) as place:
        yield Path(place)


@contextmanager
def _serving(command: Sequence[str], url: str, log: Path, **environment: str) -> Iterator[None]:
    """A daemon that answers at the URL, for the time of the context. Raises NoEngine."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        daemon = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            _wait_for(daemon, command[0], url, log)
            yield
        finally:
            daemon.terminate()
            daemon.wait()


def _wait_for(daemon: "subprocess.Popen[bytes]", name: str, url: str, log: Path) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    ask: Sequence[str] = ("docker", "--host", url, "info")
    while subprocess.run(ask, capture_output=True, check=False).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > give_up_at:
            last = log.read_text().strip().splitlines()[-1:]
            raise NoEngine(f"{name} does not start here: {last}")
        time.sleep(0.2)
