"""Settings of every service, read from `PIECEWORK_…` environment variables."""

from functools import lru_cache
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a service needs to know to find the others' meeting places and to pace itself.

    Durations are in seconds, sizes in bytes. AWS credentials and region come from the usual AWS variables.
    """

    model_config = SettingsConfigDict(env_prefix="PIECEWORK_", extra="ignore")

    database_url: str = "postgresql://postgres@127.0.0.1:5432/piecework"
    database_connections_max: PositiveInt = 10

    aws_endpoint_url: str | None = Field(None, description="S3, SQS and Auto Scaling emulator; unset for AWS")
    bucket: str = "piecework"
    prefix: str = Field("", description="key prefix inside the bucket, without slashes at its ends")

    bootstrap_api_key: str | None = Field(None, description="registered as an operator's key when there is no key yet")
    body_bytes_max: PositiveInt = 1_048_576
    stages_max: PositiveInt = 20
    items_max: PositiveInt = 10_000
    link_seconds: PositiveInt = Field(3600, description="how long presigned links stay valid")

    lease_seconds: PositiveFloat = Field(30.0, description="a worker silent for longer has lost its tasks")
    heartbeat_seconds: PositiveFloat = 5.0
    resend_seconds: PositiveFloat = Field(60.0, description="an unclaimed bundle is sent again after this long")
    loop_seconds: PositiveFloat = Field(0.1, description="pause of a busy scheduler loop between steps")
    idle_seconds: PositiveFloat = Field(2.0, description="pause of an idle scheduler loop, cut short by NOTIFY")
    bundle_seconds: PositiveFloat = Field(1.0, description="work aimed at per SQS message")
    bundle_tasks_max: PositiveInt = 500
    window_bundles: PositiveFloat = Field(2.0, description="unclaimed bundles kept queued per slot of a pool")
    losses_max: PositiveInt = Field(5, description="a task whose worker was lost this often fails")

    scale_seconds: PositiveFloat = Field(5.0, description="pause between two looks at a pool's capacity")
    scale_out_seconds: PositiveFloat = Field(60.0, description="nodes are added until the backlog takes no longer")
    scale_in_seconds: PositiveFloat = Field(120.0, description="a surplus node is drained when idle for this long")

    webhook_private_addresses: bool = Field(False, description="allow webhooks to private and loopback addresses")
    webhook_hours: PositiveFloat = 24.0

    log_level: str = "INFO"


class WorkerSettings(Settings):
    """One worker node."""

    pool: str = "default"
    slots: PositiveInt = 2
    instance_id: str | None = Field(None, description="EC2 instance, so that a drained node can terminate itself")
    scratch: str = Field("/tmp/piecework", description="directory of the tasks' private working directories")
    processor_path: str = Field("", description="directories put on PYTHONPATH of user code, colon-separated")
    drain_seconds: PositiveFloat = Field(100.0, description="after SIGTERM, running tasks get this long to end")
    log_bytes_max: PositiveInt = 1_048_576
    receive_wait_seconds: Annotated[int, Field(ge=1, le=20)] = 20


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
