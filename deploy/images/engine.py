"""A container engine for builds and tests: the machine's, or a daemon of our own on a private socket.

Ours is for a Debian machine whose root we are and where no engine runs, such as a CI runner. It takes Debian's packages
(docker.io, and mmdebstrap for images without a registry), leaves the machine's services alone, and ends with us.
"""

import json
import os
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
STATE = Path(__file__).parents[2] / ".piecework" / "images"

_START_SECONDS = 60.0
_NO_SERVICES = "#!/bin/sh\nexit 101\n"  # what packages ask before they start a daemon: invoke-rc.d(8)
_POLICY = Path("/usr/sbin/policy-rc.d")


class NoEngine(Exception):
    """There is no engine, and none can be started; the message says why, in one line."""


class Engine:
    """A running engine, which the command `docker` reaches at `url`."""

    def __init__(self, url: str, *, ours: bool) -> None:
        self.url = url
        self.ours = ours

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


def _of_machine() -> str | None:
    if shutil.which("docker") is None:
        return None
    asked = subprocess.run(["docker", "info", "--format", "{{json .}}"], capture_output=True, check=False)
    if asked.returncode != 0 or json.loads(asked.stdout).get("ServerErrors"):
        return None
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def install() -> None:
    """Install the packages that are missing. Raises NoEngine where that can't be done."""
    if os.geteuid() != 0:
        raise NoEngine("no container engine answers, and only root can start one")
    if not Path("/etc/debian_version").exists() or shutil.which("apt-get") is None:
        raise NoEngine("no container engine answers, and one is installed on Debian only")
    missing = [name for name in PACKAGES if not _is_installed(name)]
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
    """A daemon whose images stay in the directory. Raises NoEngine."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="piecework-engine-", ignore_cleanup_errors=True) as place,
        (directory / "log").open("w") as log,
    ):
        own = Path(place)  # short: a socket's path has 108 bytes
        (own / "daemon.json").write_text("{}")  # not the machine's
        url = f"unix://{own}/sock"
        daemon = subprocess.Popen(
            [
                *("dockerd", "--host", url, "--config-file", f"{own}/daemon.json", "--pidfile", f"{own}/pid"),
                *("--data-root", str(directory / "data"), "--exec-root", f"{own}/exec"),
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            _wait_for(daemon, url, directory / "log")
            yield url
        finally:
            daemon.terminate()
            daemon.wait()


def _wait_for(daemon: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    ask: Sequence[str] = ("docker", "--host", url, "info")
    while subprocess.run(ask, capture_output=True, check=False).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > give_up_at:
            last = log.read_text().strip().splitlines()[-1:]
            raise NoEngine(f"dockerd does not start here: {last}")
        time.sleep(0.2)
