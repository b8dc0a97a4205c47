"""Where a local stack keeps its state, which ports it takes, and what its processes find in their environment."""

import json
import os
import socket
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.process import ROOT, STACK_VARIABLE
from services.engine.logins import LOGINS
from services.platform.auth import new_secret

BUCKET = "piecework"

Port = Annotated[int, Field(ge=1, le=65_535)]


class StackSettings(BaseSettings):
    """Read from `PIECEWORK_…` environment variables, as everywhere; what a service reads itself passes through."""

    model_config = SettingsConfigDict(env_prefix="PIECEWORK_", extra="ignore")

    state_directory: Path = Path(".piecework")
    api_port: Port = 8000
    stats_port: Port = 8001
    emulator_port: Port = 4566
    drain_seconds: PositiveFloat = Field(5.0, description="what running tasks get to end in, when their worker stops")

    @cached_property
    def state(self) -> Path:
        return self.state_directory.resolve()

    @cached_property
    def logs(self) -> Path:
        return self.state / "logs"

    @cached_property
    def scheduler_port(self) -> int:
        """Where the scheduler answers probes and has its metrics: any free port."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return int(listener.getsockname()[1])

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def stats_url(self) -> str:
        return f"http://127.0.0.1:{self.stats_port}"

    @cached_property
    def postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.state / "postgres", log=self.logs / "postgres.log")

    @cached_property
    def emulator(self) -> Emulator:
        return Emulator(self.emulator_port, state=self.state / "emulator", log=self.logs / "emulator.log")

    @property
    def client_profile(self) -> Path:
        """What the `piecework` client reads when its environment says nothing."""
        return self.state / "client.json"

    def write_client_profile(self) -> dict[str, str]:
        """Write the client's profile, with the API key of the first time; readable by its owner only."""
        profile = {"api_url": self.api_url, "stats_url": self.stats_url, "api_key": self._api_key()}
        draft = self.client_profile.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(profile, indent=2) + "\n")
        draft.replace(self.client_profile)
        return profile

    def _api_key(self) -> str:
        try:
            return str(json.loads(self.client_profile.read_text())["api_key"])
        except (FileNotFoundError, ValueError, KeyError):
            return new_secret()

    def _secret_key(self) -> str:
        """What makes the webhooks' secrets: made once, and readable by its owner only."""
        path = self.state / "secret.key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_text(new_secret())
            draft.replace(path)
        return path.read_text()

    def environment(self) -> dict[str, str]:
        """The environment of all the stack's processes: this process's, without any way to a real AWS account."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        paths = [str(ROOT / "examples"), *filter(None, [inherited.get("PIECEWORK_PROCESSOR_PATH")])]
        # The emulator forgets its messages when it is killed, and then the user waits for them to be sent again.
        defaults = {
            "PIECEWORK_WEBHOOK_PRIVATE_ADDRESSES": "true",
            "PIECEWORK_RESEND_SECONDS": "10",
            "PIECEWORK_READ_FROM": f"s3://{BUCKET}/",
            "PIECEWORK_WRITE_TO": f"s3://{BUCKET}/",
            "PIECEWORK_QUEUES": "*",
        }
        fixed: dict[str, Any] = {
            STACK_VARIABLE: str(self.state),
            "PIECEWORK_AWS_ENDPOINT_URL": self.emulator.url,
            "PIECEWORK_BUCKET": BUCKET,
            "PIECEWORK_DRAIN_SECONDS": str(self.drain_seconds),
            "PIECEWORK_SCRATCH": str(self.state / "scratch"),
            "PIECEWORK_CACHE": str(self.state / "cache"),
            "PIECEWORK_PROCESSOR_PATH": ":".join(paths),
            "NO_PROXY": "127.0.0.1,localhost",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return {**defaults, **inherited, **AWS_ENVIRONMENT, **fixed}

    def service_environment(self, service: str) -> dict[str, str]:
        """What a service has beside that: its own way into the database; who signs webhooks, their key."""
        signs = {"PIECEWORK_SECRET_KEY": self._secret_key()} if service in ("api", "scheduler") else {}
        return {"PIECEWORK_DATABASE_URL": self.postgres.url(user=LOGINS[service]), **signs}

    def provision_environment(self, api_key: str) -> dict[str, str]:
        """The same for deploy.local.provision, which owns the database and makes the users and the first key."""
        return {
            "PIECEWORK_DATABASE_URL": self.postgres.url(),
            "PIECEWORK_PASSWORDS": json.dumps(self.postgres.passwords),
            "PIECEWORK_BOOTSTRAP_API_KEY": api_key,
        }


def separate_stack(directory: Path, workers: int) -> StackSettings:
    """Settings of a stack beside any other: its own directory, free ports, a fixed number of workers.

    They are set in this process's environment, which the stack's processes inherit.
    """
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(3)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        api_port, stats_port, emulator_port = (str(listener.getsockname()[1]) for listener in listeners)
    os.environ |= {
        "PIECEWORK_STATE_DIRECTORY": str(directory),
        "PIECEWORK_API_PORT": api_port,
        "PIECEWORK_STATS_PORT": stats_port,
        "PIECEWORK_EMULATOR_PORT": emulator_port,
        "PIECEWORK_WORKERS": str(workers),
        "PIECEWORK_WORKERS_MIN": str(workers),
        "PIECEWORK_WORKERS_MAX": str(workers),
    }
    return StackSettings()
