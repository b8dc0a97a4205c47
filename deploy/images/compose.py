"""Docker Compose for an engine of our own: Debian 12 has only a version that can't read our file, so Debian 13's."""

import os

from deploy.images.build import make_base, pack
from deploy.images.debian import unpack_newer
from deploy.images.engine import STATE, Engine

POSTGRES = "piecework-postgres:15"  # Debian's, started like the official image

_DIRECTORY = STATE / "compose"
_PROGRAM = _DIRECTORY / "root/usr/libexec/docker/cli-plugins/docker-compose"
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
    """What runs Compose: the machine's plugin, or else the program of Debian 13. Raises as `unpack_newer` does."""
    if not engine.ours:
        return ["docker", "compose"]
    if not _PROGRAM.exists():
        unpack_newer(_DIRECTORY, "docker-compose")
    return [str(_PROGRAM)]


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
