"""Packages of a newer Debian, unpacked beside the system, which keeps its own release."""

import platform
import subprocess
from pathlib import Path

RELEASE = "trixie"  # Debian 13

_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {release} main\n"


def unpack_newer(directory: Path, *packages: str) -> Path:
    """Fetch packages of Debian 13 with lists of apt's of their own; returns the root that they are unpacked in.

    Raises CalledProcessError, and LookupError if this machine's sources name no archive of Debian.
    """
    lists, cache, root = directory / "lists", directory / "cache", directory / "root"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    source = directory / "sources.list"
    source.write_text(_SOURCE.format(mirror=_mirror(), release=RELEASE))
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": lists,
        "Dir::State::status": "/dev/null",
        "Dir::Cache": cache,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    for command in (["update"], ["download", *packages]):
        subprocess.run([*apt, *command], check=True, cwd=directory, stdout=subprocess.DEVNULL)
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    return root


def _mirror() -> str:
    """The archive that this machine has its own release from."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    ask = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]
    listed = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [uri for release, _, uri in (line.partition(" ") for line in listed) if release == codename]
    if not found:
        raise LookupError(f"the sources of apt name no archive of {codename}")
    return found[0]
