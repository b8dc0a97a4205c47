"""The routes under /v1 and those for machines that watch the service."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from services.engine.schema import check_ready
from services.platform.database import Database
from services.platform.health import VITALS
from services.platform.problems import ProblemError, problems
from services.platform.routes import Health, JobId, metrics_response
from services.platform.settings import Settings
from services.stats import cost, grid_stats, job_stats
from services.stats.metrics import scrape
from services.stats.rollup import COST_DAYS
from services.stats.security import of_readable_job, require_viewer
from services.stats.shapes import CostList, JobCost, JobStats, PoolStatsList, Timeline, WorkerStatsList

MINUTES_MAX = 10_080


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


TheDatabase = Annotated[Database, Depends(_database)]
TheSettings = Annotated[Settings, Depends(_settings)]
Minutes = Annotated[int, Query(ge=1, le=MINUTES_MAX, description="length of the window, which ends now")]
OfPool = Annotated[str | None, Query(max_length=100, description="name of a pool; all of them if absent")]
Days = Annotated[int, Query(ge=1, le=COST_DAYS, description="how many days, today included")]
ByLabel = Annotated[str | None, Query(max_length=100, description="name of a label whose values are told apart")]

stats = APIRouter(prefix="/v1", dependencies=[Depends(require_viewer)], responses=problems(401, 422, 429, 503))
watch = APIRouter(tags=["service"])


@stats.get(
    "/jobs/{job_id}/stats",
    operation_id="get_job_stats",
    dependencies=of_readable_job,
    responses=problems(404),
    tags=["jobs"],
    summary="Statistics of a job",
)
async def get_job_stats(database: TheDatabase, settings: TheSettings, job_id: JobId) -> JobStats:
    """Progress, pace, run times, retries, stragglers and volumes of a job and its stages."""
    return await job_stats.read_job_stats(database, job_id, settings)


@stats.get(
    "/jobs/{job_id}/timeline",
    operation_id="get_job_timeline",
    dependencies=of_readable_job,
    responses=problems(404),
    tags=["jobs"],
    summary="A job by minute",
)
async def get_job_timeline(database: TheDatabase, job_id: JobId) -> Timeline:
    """What a job's attempts did in each minute; kept for 30 days."""
    return await job_stats.read_job_timeline(database, job_id)


@stats.get(
    "/jobs/{job_id}/cost",
    operation_id="get_job_cost",
    dependencies=of_readable_job,
    responses=problems(404),
    tags=["jobs"],
    summary="What a job costs",
)
async def get_job_cost(database: TheDatabase, job_id: JobId) -> JobCost:
    """What the job's attempts have cost so far by the prices of their nodes, and estimates of requests and storage."""
    return await cost.read_job_cost(database, job_id)


@stats.get("/stats/costs", operation_id="list_costs", tags=["grid"], summary="Costs by day")
async def list_costs(database: TheDatabase, pool: OfPool = None, by_label: ByLabel = None, days: Days = 30) -> CostList:
    """What all jobs cost on each day, by pool and, if a label is named, by its values; kept for 400 days."""
    return await cost.read_costs(database, days, pool, by_label)


@stats.get("/stats/workers", operation_id="list_worker_stats", tags=["grid"], summary="Statistics of workers")
async def list_worker_stats(database: TheDatabase, pool: OfPool = None, minutes: Minutes = 60) -> WorkerStatsList:
    """The workers that lived in the window: how busy they were and what they did."""
    return await grid_stats.read_worker_stats(database, minutes, pool)


@stats.get("/stats/pools", operation_id="list_pool_stats", tags=["grid"], summary="Statistics of pools")
async def list_pool_stats(database: TheDatabase, minutes: Minutes = 60) -> PoolStatsList:
    """Every pool: its live workers, how busy all its workers were in the window, and its backlog."""
    return await grid_stats.read_pool_stats(database, minutes)


@stats.get("/stats/timeline", operation_id="get_timeline", tags=["grid"], summary="All jobs by minute")
async def get_timeline(database: TheDatabase, pool: OfPool = None, minutes: Minutes = 60) -> Timeline:
    """What the attempts of all jobs did in each minute."""
    return await grid_stats.read_timeline(database, minutes, pool)


@watch.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request, database: TheDatabase, settings: TheSettings) -> Response:
    """Text or OpenMetrics, as `Accept` asks. Nothing here names a job, so no key is needed, unless the operator has set
    `PIECEWORK_METRICS_KEY`: then it is the bearer."""
    return metrics_response(request, settings.metrics_key, await scrape(database, settings))


@watch.get(
    "/healthz",
    operation_id="healthz",
    response_model_exclude_none=True,
    responses=problems(503),
    summary="Is the process alive?",
)
async def healthz() -> Health:
    """Answers as long as the process does, and 503 if its roll-up hangs."""
    _refuse(VITALS.hung())
    return Health()


@watch.get(
    "/readyz",
    operation_id="readyz",
    response_model_exclude_none=True,
    responses=problems(503),
    summary="Can it answer?",
)
async def readyz(database: TheDatabase) -> Health:
    """Answers within 2 seconds: 503 while the database is away or silent, no connection to it is free, its schema is
    not one that this release works on, or the roll-up fails: then the figures are old."""
    await check_ready(database)
    _refuse(VITALS.ill())
    return Health()


def _refuse(errors: list[str]) -> None:
    """Raises a 503 that says what is wrong."""
    if errors:
        raise ProblemError(503, "unready", "; ".join(errors))
