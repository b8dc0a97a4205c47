"""How large a storm is, and how the services are set up for it."""

from dataclasses import dataclass
from typing import Any

from services.platform.settings import Settings

LOSSES_MAX = 10_000  # a task may lose more workers in a storm than a sane grid allows; none may fail of it


@dataclass(frozen=True, slots=True)
class Plan:
    """`gap_seconds` is the mean pause between two faults; they end after `storm_seconds` if each kind has come.

    `patience_seconds` without the end of a task end the run: what has not ended then is lost. `task_seconds` is what a
    short task sleeps.
    """

    seed: int
    tasks: int
    workers: int = 8
    schedulers: int = 2
    gap_seconds: float = 1.0
    storm_seconds: float = 600.0
    patience_seconds: float = 300.0
    lease_seconds: float = 8.0
    task_seconds: float = 0.0

    def settings(self, database_url: str, aws_url: str) -> Settings:
        return Settings(
            database_url=database_url,
            aws_endpoint_url=aws_url,
            bucket="storm",
            lease_seconds=self.lease_seconds,
            heartbeat_seconds=self.lease_seconds / 8,
            resend_seconds=self.lease_seconds / 2,
            straggler_seconds=self.lease_seconds / 4,
            losses_max=LOSSES_MAX,
            loop_seconds=0.05,
            idle_seconds=0.5,
            webhook_private_addresses=True,
        )

    @property
    def worker_settings(self) -> dict[str, Any]:
        return {"slots": 2, "receive_wait_seconds": 1, "drain_seconds": self.lease_seconds / 2}


# That a test has the time for.
SMALL = Plan(
    seed=1,
    tasks=1000,
    workers=4,
    gap_seconds=0.2,
    storm_seconds=8,
    patience_seconds=120,
    lease_seconds=3,
    task_seconds=0.05,
)
