"""What a child may see outside of its own directory."""

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Of /etc only what programs need to start, and what names hosts, users and formats: nothing that holds a secret.
_ETC = (
    "OpenCL", "ImageMagick-6", "ImageMagick-7", "alternatives", "ca-certificates", "ca-certificates.conf", "fonts",
    "crypto-policies", "debian_version", "gai.conf", "host.conf", "hostname", "hosts", "inputrc", "java", "ld.so.cache",
    "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "ld.so.conf", "ld.so.conf.d", "locale.conf", "localtime",
    "magic", "mailcap", "mime.types", "nsswitch.conf", "os-release", "pki/ca-trust", "pki/java", "pki/tls/cert.pem",
    "pki/tls/certs", "pki/tls/openssl.cnf", "protocols", "python3", "python3.11", "python3.12", "python3.13",
    "resolv.conf", "services", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "system-release", "terminfo", "timezone",
    "vulkan",
)  # fmt: skip
_PROCESSORS_OF_THE_KERNEL = ("/sys/devices/system/cpu", "/sys/devices/system/node")  # how many there are, and where
_ACCELERATORS = ("nvidia*", "dri", "kfd")  # below /dev
_SERVICES = Path(__file__).parents[2]  # our own modules


@dataclass(frozen=True, slots=True)
class View:
    """What the tasks of a child may see, and whether they have the network.

    `readable` and `writable` are files and directories besides the system's.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = True


def links() -> list[tuple[str, str]]:
    """Directories of the system that are links, such as /bin to usr/bin."""
    return [(path, str(Path(path).readlink())) for path in _SYSTEM if Path(path).is_symlink()]


def readable_places(view: View, environment: Mapping[str, str], further: Sequence[str]) -> list[tuple[str, str]]:
    """(place outside, place inside) of all that a child may read, without what lies in another of them.

    The environment names directories of programs and of Python's modules; `further` are the operator's.
    """
    named = [
        *map(_installation, environment.get("PATH", os.defpath).split(":")),
        *environment.get("PYTHONPATH", "").split(":"),
        *environment.get("LD_LIBRARY_PATH", "").split(":"),
        *further,
    ]
    places = {path: path for path in _of_system()}
    places |= {path: path for path in named if path.startswith("/") and Path(path).exists()}
    places |= {str(path): str(path) for path in view.readable}
    outside = {inside: os.path.realpath(source) for inside, source in places.items()}
    linked = dict(links())
    return [(outside[inside], inside) for inside in _outermost(outside) if not _within(inside, linked)]


def _installation(programs: str) -> str:
    """What a directory of programs belongs to: /opt/tools of /opt/tools/bin; but a home only as far as it is named."""
    parent, name = os.path.split(os.path.normpath(programs))
    if name == "shims":  # of version managers such as pyenv, which keep all that they install beside them
        return parent
    homes = ("/root", "/home", os.path.expanduser("~"))  # noqa: PTH111
    return parent if name in ("bin", "sbin") and not _within(parent, homes) else programs


@cache
def _of_system() -> tuple[str, ...]:
    interpreter = {sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()}
    interpreter |= {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    etc = (f"/etc/{name}" for name in _ETC)
    places = [*_SYSTEM, *etc, *_PROCESSORS_OF_THE_KERNEL, *sorted(interpreter), str(_SERVICES)]
    return tuple(path for path in places if Path(path).exists() and not (path in _SYSTEM and Path(path).is_symlink()))


def devices() -> list[str]:
    """Accelerators of this machine."""
    return [str(path) for pattern in _ACCELERATORS for path in sorted(Path("/dev").glob(pattern))]


def _outermost(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(os.path.normpath(path) for path in paths):
        if path != "/" and not _within(path, kept):
            kept.append(path)
    return kept


def _within(path: str, directories: Iterable[str]) -> bool:
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)
