"""Builds the images of deploy/docker; where no registry is within reach, on a base made of Debian's packages.

The Dockerfile is the same either way; `PYTHON`, its only argument, names the base.
"""

import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from deploy.images.engine import STATE, Engine

ROOT = Path(__file__).parents[2]
DOCKERFILE = "deploy/docker/Dockerfile"
TARGETS = ("server", "local")

_DEBIAN, _PYTHON = "piecework-debian:bookworm", "piecework-python:3.11"
_RELEASE = "bookworm"  # its Python is 3.11
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AS_PYTHON = f"""
FROM {_DEBIAN}
COPY ca-certificates.crt {_CERTIFICATES}
ENV SSL_CERT_FILE={_CERTIFICATES} PIP_CERT={_CERTIFICATES}
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -s /usr/bin/python3 /usr/local/bin/python
"""


def build(engine: Engine, target: str) -> str:
    """Build one of the TARGETS; returns the image's name. Raises CalledProcessError."""
    name = f"piecework-{target}"
    arguments = ["--network", "host", "--build-arg", f"PYTHON={make_base(engine)}"] if engine.ours else []
    engine.docker("build", "--file", DOCKERFILE, "--target", target, "--tag", name, *arguments, "-", input=_context())
    return name


def make_base(engine: Engine) -> str:
    """The name of an image like `python:3.11-slim`, made without a registry. Raises CalledProcessError."""
    archive = STATE / "debian.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        made = archive.with_suffix(".part.tar")
        packages = "ca-certificates,python3,python3-pip,python3-venv"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", _RELEASE, made], check=True
        )
        made.rename(archive)
    if not engine.has_image(_DEBIAN):
        engine.docker("import", "--change", f"ENV PATH={_PATH}", str(archive), _DEBIAN)
    if not engine.has_image(_PYTHON):
        files = {"Dockerfile": _AS_PYTHON.encode(), "ca-certificates.crt": _CERTIFICATES.read_bytes()}
        engine.docker("build", "--tag", _PYTHON, "-", input=pack(files))
    return _PYTHON


def _context() -> bytes:
    """What the Dockerfile may copy, by its .dockerignore, which the classic builder does not read from there."""
    listed = (ROOT / f"{DOCKERFILE}.dockerignore").read_text().split()
    kept = [pattern.removeprefix("!") for pattern in listed if pattern.startswith("!")]
    paths = [path for pattern in kept for each in ROOT.glob(pattern) for path in _files_in(each)]
    return pack({str(path.relative_to(ROOT)): path.read_bytes() for path in [*paths, ROOT / DOCKERFILE]})


def _files_in(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.name != "__pycache__" and path.suffix != ".egg-info":
        for each in sorted(path.iterdir()):
            yield from _files_in(each)


def pack(files: dict[str, bytes]) -> bytes:
    """The files as a tar archive, always of the same bytes, so that the builder finds what it has built."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, BytesIO(content))
    return packed.getvalue()
