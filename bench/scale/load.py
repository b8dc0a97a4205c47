"""The load to offer, and the settings that follow from it."""

import math
from dataclasses import dataclass
from typing import Any

from services.platform.settings import Settings

POOL = "default"
_AUTOVACUUM_NAP_SECONDS = 15.0  # as on RDS
_AUTOVACUUM_COST_DELAY_MS = 2.0
_TASKS_STARTED_PER_SECOND = 2000  # while the fleet comes up
_PAUSES = ("heartbeat", "resend", "bundle", "window", "loop", "idle")  # settings, in seconds
_SPARE = 1.3  # tasks planned for those expected, so that none runs out


@dataclass(frozen=True, slots=True)
class Load:
    """A fleet at work. `speed` shortens all that the protocol waits for, so that a minute does the work of many."""

    workers: int = 10_000
    slots: int = 16
    task_seconds: float = 30.0
    jobs: int = 1
    speed: float = 1.0
    minutes: float = 3.0
    processes: int = 2
    connections: int = 24  # of one load process and one kind of statement
    own_connections: int = 0  # of each worker's pool, as real ones have it; 0: they share those above
    commit_ms: float = 0.0  # that every flush of the WAL takes longer

    @property
    def tasks_per_second(self) -> float:
        """What the fleet gets through if the database never makes a slot wait."""
        return self.workers * self.slots / self.task_seconds * self.speed

    @property
    def ramp_seconds(self) -> float:
        """In which the workers come one after the other, as an Auto Scaling group's do."""
        return max(self.workers * self.slots / _TASKS_STARTED_PER_SECOND, 5.0)

    @property
    def task_count(self) -> int:
        """Tasks of all jobs: those that run, those that wait in the queue, and those that end meanwhile."""
        standing = self.workers * self.slots * (1 + Settings.model_fields["window_bundles"].default)
        ending = self.tasks_per_second * (60 * self.minutes + self.ramp_seconds)
        return math.ceil(_SPARE * (standing + ending)) if self.jobs else 0

    def settings(self, database_url: str) -> Settings:
        """Every pause of the protocol, divided by `speed`; leases don't get shorter, since no load depends on them."""
        usual = Settings(database_url=database_url)
        update = {f"{name}_seconds": getattr(usual, f"{name}_seconds") / self.speed for name in _PAUSES}
        return usual.model_copy(update=update | {"lease_seconds": usual.lease_seconds / min(self.speed, 1.0)})

    def server_settings(self) -> dict[str, Any]:
        """Of Postgres: autovacuum as quick as the work it follows, and slow commits if asked for."""
        return {
            "autovacuum_naptime": f"{max(1, round(_AUTOVACUUM_NAP_SECONDS / self.speed))}s",
            "autovacuum_vacuum_cost_delay": f"{_AUTOVACUUM_COST_DELAY_MS / self.speed}ms",
            "commit_delay": round(self.commit_ms * 1000),
            "commit_siblings": 0,
            "shared_buffers": "2GB",
            "max_wal_size": "8GB",
            "max_connections": 1000,
            "log_lock_waits": "on",
        }
