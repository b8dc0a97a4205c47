"""The grid: pools and their workers."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, ValidationInfo, field_validator, model_validator

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract import resources
from services.contract.fields import SIZE, QueueUrl, Strict
from services.contract.states import Isolation, WorkerState

NODES_MAX = 100_000


Amount = Annotated[int, Field(ge=0, le=35_184_372_088_832), SIZE]


class Node(Strict):
    """What a node has for tasks that ask for something."""

    cpus: Annotated[float, Field(gt=0, le=4096)]
    memory: Amount
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    disk: Amount = 0

    @property
    def capacity(self) -> resources.Capacity:
        return resources.Capacity(**self.model_dump())


class PoolSpec(Strict):
    """The queues, group and slots of a pool."""

    queue_url: QueueUrl | None = Field(None, description="an SQS queue of your own; one is created if absent")
    dead_letter_url: QueueUrl | None = Field(None, description="with `queue_url`: where unreadable messages go")
    group_name: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None, description="the Auto Scaling group of the pool's nodes; absent: the pool is not scaled"
    )
    slots: Annotated[int, Field(ge=1, le=1024)] = Field(2, description="slots per node, for planning the capacity")
    largest_node: Node | None = Field(
        None,
        description="the largest node that the pool may have: stages that ask for more are refused; absent: as seen",
    )
    price_per_hour: Annotated[float, Field(ge=0, le=100_000)] | None = Field(
        None, description="US dollars that a node costs; absent: the list price of its instance type, if it is known"
    )
    spot_price_per_hour: Annotated[float, Field(ge=0, le=100_000)] | None = Field(
        None, description="the same of a Spot node; absent: not known, since there is no list of Spot's prices"
    )

    @model_validator(mode="after")
    def _both_queues(self) -> Self:
        if (self.queue_url is None) != (self.dead_letter_url is None):
            raise ValueError("give both queue_url and dead_letter_url, or neither")
        return self


class Capacity(Strict):
    """How many nodes a pool may have."""

    min: Annotated[int, Field(ge=0, le=NODES_MAX)]
    max: Annotated[int, Field(ge=0, le=NODES_MAX)]
    desired: Annotated[int, Field(ge=0, le=NODES_MAX)] | None = Field(
        None, description="number of nodes to start with; after that, the backlog decides, between min and max"
    )

    @field_validator("max")
    @classmethod
    def _at_least_min(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min", value):
            raise ValueError(f"must not be less than min ({info.data['min']})")
        return value

    @field_validator("desired")
    @classmethod
    def _within_bounds(cls, value: int | None, info: ValidationInfo) -> int | None:
        match info.data:  # only if the bounds themselves are valid
            case {"min": least, "max": most} if value is not None and not least <= value <= most:
                raise ValueError(f"must be from min ({least}) to max ({most})")
        return value


class PoolDrain(Strict):
    """Which of a pool's workers to drain, and what becomes of their instances."""

    release_not: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="only workers of other releases than this one", examples=["0.2.0"]
    )
    started_before: AwareDatetime | None = Field(None, description="only workers that started before")
    replace_instance: bool = Field(
        False, description="the group launches another instance for each; false: it gets smaller by it"
    )
    at_most: Annotated[int, Field(ge=1, le=NODES_MAX)] | None = Field(
        None, description="workers of the pool that may drain at the same time; null: all"
    )


class DrainedPool(Row):
    """Workers that were told to drain, and what is left to do: repeat the request until both counts are 0."""

    worker_ids: list[UUID] = Field(description="those that this request has told")
    draining: int = Field(description="workers of the pool that drain now, those included")
    remaining: int = Field(description="workers that are still to be drained")


class Pool(Row):
    """A kind of worker node, and its current state."""

    name: str
    queue_url: str
    dead_letter_url: str
    group_name: str | None
    capacity_min: int
    capacity_max: int
    capacity_desired: int
    slots: int
    largest_node: Node | None = Field(description="the largest that it may have; null: nobody has said")
    price_per_hour: float | None = Field(description="US dollars of a node; null: the list price of its type, if known")
    spot_price_per_hour: float | None = Field(description="of a Spot node; null: not known")
    paused: bool
    workers_live: int
    slots_live: int
    slots_busy: int
    tasks_ready: int
    tasks_queued: int
    tasks_running: int
    instances: int | None = Field(description="of its group, those that start included; null: not scaled, or unknown")
    instances_missing: int = Field(description="instances without a live worker: they start, or never will")
    instances_missing_since: datetime | None = Field(description="since when the first of them has none")
    replacements: int = Field(description="rounds of replaced instances, one soon after another")
    replace_at: datetime | None = Field(description="no further instance is replaced before")
    scaling_error: str | None = Field(
        description="why its group can't be read, or is not as large as the pool wants; null: it is"
    )
    scaling_error_since: datetime | None


class PoolPage(Page[Pool]):
    """Pools by name."""


class Worker(Row):
    """One run of a worker node."""

    worker_id: UUID
    pool: str
    hostname: str
    instance_id: str | None = Field(description="of its EC2 instance; null: it has none, or does not know it")
    instance_type: str | None
    zone: str | None = Field(description="Availability Zone")
    market: str | None = Field(description="EC2's life cycle of the instance: on-demand, spot, …")
    release: str | None = Field(description="version of Piecework that it runs; null: one before 0.2.0")
    pid: int
    slots: int
    busy: int
    state: WorkerState
    isolation: Isolation | None = Field(description="how strongly its tasks are kept apart; null: an earlier release")
    cpus: float | None = Field(description="cores that its node has for tasks; null: an earlier release")
    memory: int | None = Field(description="bytes of memory that its node has for tasks")
    gpus: int | None = Field(description="GPUs of its node")
    disk: int | None = Field(description="bytes of disk that its node has for tasks that ask for some")
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    engine: str | None = Field(description="what runs its tasks in containers; null: it has none of these")
    quarantine: str | None = Field(description="why it took itself out of service; null: it did not")
    drain_reason: str | None = Field(description="why it drains, or drained; null: it does not, or is not known")
    interrupted_at: datetime | None = Field(description="since when it is known that EC2 ends its instance")
    replace_instance: bool = Field(description="when it has drained, its group replaces its instance")


class WorkerPage(Page[Worker]):
    """Workers, newest first."""
