"""Docker Compose for an engine of our own: Debian 12 has only a version that can't read our file, so Debian 13's."""

import os
import subprocess
from pathlib import Path

from deploy.images.build import make_base, pack
from deploy.images.engine import STATE, Engine

POSTGRES = "piecework-postgres:15"  # Debian's, started like the official image

_PROGRAM = STATE / "compose" / "usr/libexec/docker/cli-plugins/docker-compose"
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"
_START = """#!/bin/sh
# As the official image does: a new cluster has the password and the database that the environment names.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
PGDATA=/var/lib/postgresql/data
install -d -o postgres -m 0700 "$PGDATA"
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    chown postgres /tmp/password
    setpriv --reuid postgres --regid postgres --clear-groups \\
        initdb -D "$PGDATA" --auth-host scram-sha-256 --pwfile /tmp/password
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | setpriv --reuid postgres --regid postgres --clear-groups \\
        postgres --single -D "$PGDATA" postgres
fi
program=$1
shift
exec setpriv --reuid postgres --regid postgres --clear-groups "$program" -D "$PGDATA" -c listen_addresses='*' "$@"
"""


def compose_command(engine: Engine) -> list[str]:
    """What runs Compose: the machine's plugin, or else the program of Debian 13. Raises CalledProcessError."""
    if not engine.ours:
        return ["docker", "compose"]
    if not _PROGRAM.exists():
        _fetch(_PROGRAM.parents[4])
    return [str(_PROGRAM)]


def _fetch(directory: Path) -> None:
    """Unpack the package, and install nothing: the machine keeps its own release."""
    lists = directory / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    source = directory / "sources.list"
    source.write_text(_SOURCE)
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": lists,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    for arguments in ([*apt, "update"], [*apt, "download", "docker-compose"]):
        subprocess.run(arguments, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    [package] = directory.glob("docker-compose_*.deb")
    subprocess.run(["dpkg", "-x", package, directory], check=True)


def make_postgres(engine: Engine) -> str:
    """The name of an image like `postgres:17`, made without a registry. Raises CalledProcessError."""
    if not engine.has_image(POSTGRES):
        script = f"""
FROM {make_base(engine)}
RUN apt-get -q update && apt-get -q install -y --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
COPY start /usr/local/bin/start
ENV PATH=/usr/lib/postgresql/15/bin:{os.defpath}
ENTRYPOINT ["sh", "/usr/local/bin/start"]
CMD ["postgres"]
"""
        files = {"Dockerfile": script.encode(), "start": _START.encode()}
        engine.docker("build", "--network", "host", "--tag", POSTGRES, "-", input=pack(files))
    return POSTGRES
