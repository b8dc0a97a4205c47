"""The Python client: one method for each operation of the services, with the operation's own name and parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx

from piecework.config import load_config
from piecework.errors import Invalid
from piecework.packing import packed
from piecework.shapes import (
    Alert,
    AlertMessage,
    ApiKey,
    AppendedItems,
    AuditEntry,
    AuditOutcome,
    Backfill,
    BusinessDays,
    CancelledItems,
    CompletedUpload,
    Condition,
    Conditions,
    CostList,
    CreatedAlert,
    CreatedApiKey,
    CreatedWebhookEndpoint,
    Deletion,
    Delivery,
    DeliveryState,
    DrainedPool,
    Event,
    Failures,
    Incident,
    Input,
    Job,
    JobCost,
    JobSpec,
    JobState,
    JobStats,
    JobSummary,
    Keep,
    KeyQuotas,
    KeyUse,
    Misfire,
    Overlap,
    Package,
    Page,
    Part,
    Pool,
    PoolSpec,
    PoolStatsList,
    Processor,
    ProcessorDetail,
    ProcessorSpec,
    ProcessorTrial,
    QuietHours,
    Receiver,
    ResultFile,
    Results,
    RetentionRule,
    Role,
    Scalar,
    Schedule,
    ScheduleChange,
    ScheduleRun,
    Share,
    ShareQuotas,
    ShareUse,
    Split,
    Task,
    TaskDetail,
    TaskLog,
    TaskState,
    Timeline,
    Trial,
    Trigger,
    Upload,
    UploadedPart,
    UploadState,
    UploadSummary,
    Value,
    Values,
    WebhookEndpoint,
    Worker,
    WorkerState,
    WorkerStatsList,
)
from piecework.transfer import Content, ReportBytes, Transfers
from piecework.transport import Transport

if TYPE_CHECKING:
    from piecework.calls.executor import Executor

T = TypeVar("T")

PAGE_MAX = 500
CONNECT_SECONDS = 5.0
COMPLETION_SECONDS = 900.0  # S3 copies the files of a directory

Id = UUID | str
KEEP: Any = object()  # of a change: what is not given stays as it is
JsonObject = Mapping[str, Any]  # a JSON object, as a shape or as one that was read from a file


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A listing: iterate over it for everything (fetched page by page), or ask for a `page`."""

    fetch: Callable[[int, str | None], Page[T]]

    def page(self, limit: int = 50, cursor: str | None = None) -> Page[T]:
        """At most `limit` (1..500) items from `cursor` on."""
        return self.fetch(limit, cursor)

    def __iter__(self) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = self.fetch(PAGE_MAX, cursor)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


class Client:
    """Talks to the API and the stats service; safe for several threads. Raises the errors of `piecework.errors`.

    What is not given comes from the context of that name, the environment, a file or the current context (see
    `piecework.config`). A call waits up
    to `timeout_seconds` for an answer; what is safe to repeat is tried `tries` times.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        stats_url: str | None = None,
        context: str | None = None,
        timeout_seconds: float = 30.0,
        tries: int = 4,
    ) -> None:
        config = load_config(api_url, stats_url, api_key, context=context)
        self._timeout_seconds = timeout_seconds
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
            headers={"User-Agent": f"piecework/{version('piecework')}"},
        )
        self.config = config
        origins, key = config.origins, config.api_key
        self._api = Transport(self._http, "API", config.api_url, origins["api_url"], key, tries)
        self._stats = Transport(self._http, "stats service", config.stats_url, origins["stats_url"], key, tries)
        self._objects = Transfers(self._http, tries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def now(self) -> datetime:
        """The API's time: durations shown to people compare its times with this, not with our clock."""
        return self._api.now()

    # Jobs

    def submit_job(
        self, spec: JobSpec | JsonObject, *, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Job:
        """Submit a JobSpec; repeating it with the same key returns the first job.

        A dry run checks it like a submission and answers with the job as it would be, but makes none: its id names
        nothing. Files that are yet to be uploaded may be named `s3://-/NAME`. Raises Invalid, with an error of `after`,
        if the service is of a release that knows no dry runs.
        """
        if not dry_run:
            return self._api.create(Job, "/v1/jobs", spec, idempotency_key)
        # A release that does not know dry runs does not know this field either, and so submits nothing.
        tested = {**spec, "after": spec.get("after") or []}
        return self._api.create(Job, "/v1/jobs", tested, idempotency_key, dry_run=True)

    def preview_split(
        self, input: Input | list[Input] | JsonObject | list[Any], *, pool: str = "default", parts_max: int = 20
    ) -> Split:
        """What a job's input, or inputs, would be split into, for a pool of that name; nothing is run."""
        body = {"input": input, "pool": pool, "parts_max": parts_max}
        return self._api.post(Split, "/v1/splits", body, repeatable=True)

    def list_jobs(
        self,
        *,
        state: JobState | Sequence[JobState] | None = None,
        name: str | None = None,
        label: Mapping[str, str] | None = None,
        schedule_id: Id | None = None,
        id_prefix: str | None = None,
        created_by: str | None = None,
        mine: bool = False,
    ) -> Listing[JobSummary]:
        """Newest first; in any of these states, with all of these labels, of this principal or of the key's own."""
        labels = [f"{key}:{value}" for key, value in (label or {}).items()]
        filters = {"state": state, "name": name, "label": labels, "schedule_id": schedule_id, "created_by": created_by}
        return self._list(JobSummary, "/v1/jobs", **filters, id_prefix=id_prefix, mine=mine or None)

    def get_job(self, job_id: Id) -> Job:
        return self._api.get(Job, f"/v1/jobs/{job_id}")

    def append_items(self, job_id: Id, chunk: int, items: Sequence[Any]) -> AppendedItems:
        """Make a task of each item of a job whose input is a stream. Chunks are numbered from 0, and count once."""
        body = {"chunk": chunk, "items": items}
        return self._api.post(AppendedItems, f"/v1/jobs/{job_id}/items", body, repeatable=True)

    def cancel_items(self, job_id: Id, items: Sequence[int]) -> CancelledItems:
        """End these items of a job whose input is a stream, up to a thousand: what waits never runs, what runs is
        killed."""
        body = {"items": items}
        return self._api.post(CancelledItems, f"/v1/jobs/{job_id}/items/cancel", body, repeatable=True)

    def close_job(self, job_id: Id) -> Job:
        """Say that no more items come: the job ends with its tasks."""
        return self._api.post(Job, f"/v1/jobs/{job_id}/close", repeatable=True)

    def follow_values(
        self, job_id: Id, *, stage: int | None = None, after: str | None = None, wait: float = 0.0
    ) -> Values:
        """How tasks have ended since the cursor `after`, in this order; waits up to `wait` seconds for the first."""
        path, patience = f"/v1/jobs/{job_id}/values", self._timeout_seconds + wait
        return self._api.get(Values, path, timeout_seconds=patience, stage=stage, after=after, wait=wait)

    def stream_values(
        self, job_id: Id, *, stage: int | None = None, after: str | None = None, wait: float = 0.0
    ) -> Iterator[Values]:
        """The same, portion by portion as they end, until the job has ended or `wait` is over.

        If it breaks off (TransportError), go on after the last portion.
        """
        path, patience = f"/v1/jobs/{job_id}/values", self._timeout_seconds + wait
        values: list[Value] = []
        for line in self._api.lines(path, timeout_seconds=patience, stage=stage, after=after, wait=wait):
            if "after" in line:
                yield {"values": values, "after": line["after"], "ended": line["ended"]}
                values = []
            else:
                values.append(line)

    def executor(self, **options: Any) -> "Executor":
        """An executor of `concurrent.futures` whose calls run on the grid; its options are those of `Executor`."""
        from piecework.calls.executor import Executor

        return Executor(self, **options)

    def cancel_job(self, job_id: Id) -> Job:
        return self._api.post(Job, f"/v1/jobs/{job_id}/cancel")

    def pause_job(self, job_id: Id) -> Job:
        return self._api.post(Job, f"/v1/jobs/{job_id}/pause")

    def resume_job(self, job_id: Id) -> Job:
        return self._api.post(Job, f"/v1/jobs/{job_id}/resume")

    def retry_job(
        self,
        job_id: Id,
        *,
        stage: int | str | None = None,
        tasks: Sequence[int] | None = None,
        only_failed: bool = False,
        latest: bool = False,
        processors: Sequence[str] = (),
        accept_changed: bool = False,
    ) -> Job:
        """Run what has not succeeded of a job that has ended again, or a stage with all that comes after it.

        `tasks` are some of the stage's, `only_failed` those that have not succeeded. The stages that run take the
        `latest` versions of their `processors`, or these (`clean@4`). With `accept_changed` the first stage takes
        objects that were replaced as they are now.
        """
        order = {
            "stage": stage,
            "tasks": None if tasks is None else list(tasks),
            "only_failed": only_failed or None,
            "latest": latest or None,
            "processors": list(processors) or None,
            "accept_changed": accept_changed or None,
        }
        given = {name: value for name, value in order.items() if value is not None}
        return self._api.post(Job, f"/v1/jobs/{job_id}/retry", given or None)

    def hold_job(self, job_id: Id) -> Job:
        """Let nothing that the job leaves be deleted."""
        return self._api.post(Job, f"/v1/jobs/{job_id}/hold")

    def release_job(self, job_id: Id) -> Job:
        """Let what the job leaves be deleted when it is due."""
        return self._api.post(Job, f"/v1/jobs/{job_id}/release")

    def delete_job(self, job_id: Id, *, results: Literal["delete", "keep"] = "delete") -> Deletion:
        """Delete a job that has ended, with all that it has left, or all but its results."""
        deletion: Deletion = self._api.delete(f"/v1/jobs/{job_id}", results=results)
        return deletion

    def list_tasks(
        self,
        job_id: Id,
        *,
        stage: int | None = None,
        state: TaskState | Sequence[TaskState] | None = None,
        error: str | None = None,
        sort: Literal["index", "slowest"] | None = None,
    ) -> Listing[Task]:
        """`error` is the fingerprint of a kind of failures. The slowest are one page: at most 500."""
        return self._list(Task, f"/v1/jobs/{job_id}/tasks", stage=stage, state=state, error=error, sort=sort)

    def list_failures(self, job_id: Id, *, stage: int | None = None) -> Failures:
        return self._api.get(Failures, f"/v1/jobs/{job_id}/failures", stage=stage)

    def get_task(self, job_id: Id, stage: int, index: int) -> TaskDetail:
        return self._api.get(TaskDetail, f"/v1/jobs/{job_id}/tasks/{stage}/{index}")

    def get_task_trial(self, job_id: Id, stage: int, index: int, *, processor: str | None = None) -> Trial:
        """What `piecework try` needs to run the task here, by its own processor or by another one."""
        return self._api.get(Trial, f"/v1/jobs/{job_id}/tasks/{stage}/{index}/trial", processor=processor)

    def get_task_log(
        self, job_id: Id, stage: int, index: int, *, attempt: int | None = None, live: bool = False
    ) -> TaskLog:
        """Where the log of an attempt (default: the last that has one) is; `read_object` reads its `url`.

        A `live` one of a running task is there some seconds later: until then, reading it raises TransferError.
        """
        path = f"/v1/jobs/{job_id}/tasks/{stage}/{index}/log"
        return self._api.get(TaskLog, path, attempt=attempt, live=live or None)

    def get_results(self, job_id: Id) -> Results:
        """Presigned links to the results; raises Conflict while there are none."""
        return self._api.get(Results, f"/v1/jobs/{job_id}/results")

    def list_parts(self, job_id: Id, *, stage: int | None = None) -> Listing[Part]:
        """What the tasks of a stage have made (default: that of which the results are made), also of a job that has
        not succeeded."""
        return self._list(Part, f"/v1/jobs/{job_id}/results/parts", stage=stage)

    # Objects, straight from and to S3

    def read_object(self, url: str) -> bytes:
        """A small object behind a presigned link, whole."""
        return self._objects.read(url)

    def download(
        self, files: Iterable[ResultFile], directory: Path, *, progress: ReportBytes | None = None
    ) -> list[Path]:
        """Download result files, several at a time, into `directory`; each appears undamaged or not at all."""
        return self._objects.download(files, directory, progress)

    def upload(self, path: Path, *, resume: Id | None = None, progress: ReportBytes | None = None) -> CompletedUpload:
        """Upload a local file, or all files of a directory, several at a time; not what desktops put into it, such as
        `.DS_Store`, `._*`, `Thumbs.db` and `desktop.ini`.

        The answer's `uri` is what a job's input names; of a directory it is a prefix. `resume` is the id of an upload
        that was cut off: of a large file, parts that S3 has already are not sent again. What you have uploaded before,
        by the same name and with the same content, is not sent again either.
        """
        content = Content(path)
        name = f"{path.resolve().name}/" if path.is_dir() else path.name
        upload = self._begin(name, content, resume)
        if upload.get("completed"):
            (progress or (lambda _: None))(content.bytes)
            return {"upload_id": upload["upload_id"], "uri": upload["uri"], "bytes": content.bytes}
        parts: list[UploadedPart] = []
        if path.is_dir():
            self._objects.send_files(content.files, path, upload, progress)
        else:
            parts = self._objects.send(path, upload, progress)
        content.check_unchanged()
        return self.complete_upload(upload["upload_id"], parts)

    def _begin(self, name: str, content: Content, resume: Id | None) -> Upload:
        if resume is not None:
            return self.renew_upload(resume)
        try:
            return self.create_upload(name, content.bytes, sha256=content.sha256())
        except Invalid as error:
            if [each["field"] for each in error.errors] != ["sha256"]:
                raise
            return self.create_upload(name, content.bytes)  # the service is of a release that does not ask

    def create_upload(
        self, filename: str, bytes: int | str, *, sha256: str | None = None, idempotency_key: str | None = None
    ) -> Upload:
        """Announce an upload of that many bytes (`upload` does all three steps); `name/` is a directory.

        If you have uploaded the same before, by its SHA-256, the answer is that upload, `completed`.
        """
        body = {"filename": filename, "bytes": bytes, **({} if sha256 is None else {"sha256": sha256})}
        return self._api.create(Upload, "/v1/uploads", body, idempotency_key)

    def complete_upload(self, upload_id: Id, parts: Iterable[UploadedPart] = ()) -> CompletedUpload:
        """Put the sent parts together; files of a directory need no parts. A large directory takes minutes."""
        path, body = f"/v1/uploads/{upload_id}/complete", {"parts": list(parts)}
        return self._api.post(CompletedUpload, path, body, repeatable=True, timeout_seconds=COMPLETION_SECONDS)

    def renew_upload(self, upload_id: Id) -> Upload:
        """Fresh links for an upload that runs, for the parts that S3 does not have yet."""
        return self._api.post(Upload, f"/v1/uploads/{upload_id}/renew", repeatable=True)

    def list_uploads(
        self, *, state: UploadState | None = None, created_by: str | None = None, mine: bool = False
    ) -> Listing[UploadSummary]:
        """The key's principal's own, newest first; for operators and keys with `all`, everybody's."""
        return self._list(UploadSummary, "/v1/uploads", state=state, created_by=created_by, mine=mine or None)

    def abort_upload(self, upload_id: Id) -> None:
        """End an upload, or delete a completed one, with all that it has left in S3."""
        self._api.delete(f"/v1/uploads/{upload_id}")

    # Schedules

    def create_schedule(
        self,
        name: str,
        cron: str,
        job: JobSpec | JsonObject,
        *,
        time_zone: str = "UTC",
        misfire: Misfire = "run_once",
        overlap: Overlap = "allow",
        not_on: Sequence[str] = (),
        business_days: BusinessDays | None = None,
        ical: str | None = None,
        idempotency_key: str | None = None,
    ) -> Schedule:
        """Submit `job` (a JobSpec) again and again, at the times of `cron` in `time_zone`; `ical` are its holidays."""
        body: dict[str, Any] = {"name": name, "cron": cron, "time_zone": time_zone, "misfire": misfire, "job": job}
        body |= {"overlap": overlap, "not_on": list(not_on), "business_days": business_days, "ical": ical}
        return self._api.create(Schedule, "/v1/schedules", body, idempotency_key)

    def list_schedules(self, *, created_by: str | None = None, mine: bool = False) -> Listing[Schedule]:
        """Newest first; of this principal or of the key's own."""
        return self._list(Schedule, "/v1/schedules", created_by=created_by, mine=mine or None)

    def get_schedule(self, schedule_id: Id) -> Schedule:
        """By its id or its name, as for all that follow."""
        return self._api.get(Schedule, _schedule(schedule_id))

    def change_schedule(self, schedule_id: Id, spec: ScheduleChange | JsonObject) -> Schedule:
        """Change what `spec` has, from the next run on."""
        return self._api.patch(Schedule, _schedule(schedule_id), spec)

    def delete_schedule(self, schedule_id: Id) -> None:
        self._api.delete(_schedule(schedule_id))

    def pause_schedule(self, schedule_id: Id) -> Schedule:
        return self._api.post(Schedule, f"{_schedule(schedule_id)}/pause", repeatable=True)

    def resume_schedule(self, schedule_id: Id) -> Schedule:
        return self._api.post(Schedule, f"{_schedule(schedule_id)}/resume", repeatable=True)

    def skip_next_run(self, schedule_id: Id) -> Schedule:
        """Leave out the next run of a schedule, and no other."""
        return self._api.post(Schedule, f"{_schedule(schedule_id)}/skip")

    def run_schedule(
        self, schedule_id: Id, *, scheduled_at: str | None = None, idempotency_key: str | None = None
    ) -> ScheduleRun:
        """Submit the schedule's job now, as a run for that time (ISO 8601), or for this moment."""
        body = {"scheduled_at": scheduled_at} if scheduled_at else {}
        return self._api.create(ScheduleRun, f"{_schedule(schedule_id)}/runs", body, idempotency_key)

    def list_schedule_runs(self, schedule_id: Id) -> Listing[ScheduleRun]:
        """What became of a schedule's runs, the latest first."""
        return self._list(ScheduleRun, f"{_schedule(schedule_id)}/runs")

    def create_backfill(
        self, schedule_id: Id, since: str, until: str, *, running_max: int = 1, idempotency_key: str | None = None
    ) -> Backfill:
        """Run a schedule for each of its times in a range (ISO 8601, with offsets), `running_max` of them at once."""
        body = {"since": since, "until": until, "running_max": running_max}
        return self._api.create(Backfill, f"{_schedule(schedule_id)}/backfills", body, idempotency_key)

    def list_backfills(self, schedule_id: Id) -> Listing[Backfill]:
        """Of a schedule, the latest first."""
        return self._list(Backfill, f"{_schedule(schedule_id)}/backfills")

    def cancel_backfill(self, schedule_id: Id, backfill_id: Id) -> Backfill:
        """Skip those of its runs that wait; its jobs go on."""
        path = f"{_schedule(schedule_id)}/backfills/{backfill_id}/cancel"
        return self._api.post(Backfill, path, repeatable=True)

    # Triggers

    def create_trigger(
        self,
        name: str,
        queue_url: str,
        job: JsonObject,
        *,
        prefix: str = "",
        suffix: str = "",
        match: Mapping[str, Scalar] | None = None,
        idempotency_key: str | None = None,
    ) -> Trigger:
        """Submit `job`, a JobSpec with `{placeholders}`, for each message of an SQS queue.

        With a prefix or a suffix: for each created object whose URI begins and ends so. With `match`, only messages
        whose fields (by dotted path) are what it says.
        """
        body = {"name": name, "queue_url": queue_url, "prefix": prefix, "suffix": suffix, "match": dict(match or {})}
        body["job"] = job
        return self._api.create(Trigger, "/v1/triggers", body, idempotency_key)

    def list_triggers(self, *, created_by: str | None = None, mine: bool = False) -> Listing[Trigger]:
        """Newest first; of this principal or of the key's own."""
        return self._list(Trigger, "/v1/triggers", created_by=created_by, mine=mine or None)

    def get_trigger(self, trigger_id: Id) -> Trigger:
        return self._api.get(Trigger, f"/v1/triggers/{trigger_id}")

    def delete_trigger(self, trigger_id: Id) -> None:
        self._api.delete(f"/v1/triggers/{trigger_id}")

    def pause_trigger(self, trigger_id: Id) -> Trigger:
        return self._api.post(Trigger, f"/v1/triggers/{trigger_id}/pause")

    def resume_trigger(self, trigger_id: Id) -> Trigger:
        return self._api.post(Trigger, f"/v1/triggers/{trigger_id}/resume")

    # Processors

    def register_processor(
        self, name: str, spec: ProcessorSpec | JsonObject, *, description: str = "", idempotency_key: str | None = None
    ) -> Processor:
        """Register `spec` (a ProcessorSpec) as a new version of `name`."""
        body = {**spec, "name": name, "description": description}
        return self._api.create(Processor, "/v1/processors", body, idempotency_key)

    def list_processors(self) -> Listing[Processor]:
        """The newest version of each."""
        return self._list(Processor, "/v1/processors")

    def get_processor(self, name: str, *, version: int | None = None) -> ProcessorDetail:
        return self._api.get(ProcessorDetail, f"/v1/processors/{_segment(name)}", version=version)

    def get_processor_trial(self, name: str, *, version: int | None = None) -> ProcessorTrial:
        """What `piecework try` needs to run the processor here, on a file of this machine."""
        return self._api.get(ProcessorTrial, f"/v1/processors/{_segment(name)}/trial", version=version)

    def delete_processor_version(self, name: str, version: int) -> None:
        """Delete a version that nothing needs any more."""
        self._api.delete(f"/v1/processors/{_segment(name)}/versions/{version}")

    def push_package(self, code: Path | Mapping[str, Path | bytes], *, progress: ReportBytes | None = None) -> Package:
        """Ship a directory of code, or files by their paths in it; `sha256` is what a processor's `package` names.

        Hidden files and compiled Python are left out. The same files make the same package, which goes over the wire
        once. Raises InputError if it is too large.
        """
        with packed(code) as archive:
            package = self.create_package(archive.sha256, archive.bytes)
            if package["url"] is not None:
                self._objects.put(archive.path, package["url"], progress)
        return package

    def create_package(self, sha256: str, bytes: int | str) -> Package:
        """Announce a package by the hash and the size of its archive (`push_package` does it all)."""
        return self._api.post(Package, "/v1/packages", {"sha256": sha256, "bytes": bytes}, repeatable=True)

    def delete_package(self, sha256: str) -> None:
        """Delete the code of processors that are all deleted."""
        self._api.delete(f"/v1/packages/{sha256}")

    # Retention

    def list_retention_rules(self) -> Listing[RetentionRule]:
        return self._list(RetentionRule, "/v1/retention-rules")

    def get_retention_rule(self, name: str) -> RetentionRule:
        return self._api.get(RetentionRule, f"/v1/retention-rules/{_segment(name)}")

    def put_retention_rule(
        self, name: str, keep: Keep | JsonObject, *, labels: Mapping[str, str] | None = None
    ) -> RetentionRule:
        """Say how long what jobs with these labels leave is kept; `default` has none and is for all others."""
        body = {"labels": dict(labels or {}), "keep": keep}
        return self._api.put(RetentionRule, f"/v1/retention-rules/{_segment(name)}", body)

    def delete_retention_rule(self, name: str) -> None:
        self._api.delete(f"/v1/retention-rules/{_segment(name)}")

    # The grid

    def list_pools(self) -> Listing[Pool]:
        return self._list(Pool, "/v1/pools")

    def get_pool(self, name: str) -> Pool:
        return self._api.get(Pool, f"/v1/pools/{_segment(name)}")

    def put_pool(self, name: str, spec: PoolSpec | JsonObject) -> Pool:
        """Create or change a pool."""
        return self._api.put(Pool, f"/v1/pools/{_segment(name)}", spec)

    def set_pool_capacity(self, name: str, min: int, max: int, desired: int | None = None) -> Pool:
        """Bounds, and maybe the present number, of the pool's worker nodes."""
        body = {"min": min, "max": max} | ({} if desired is None else {"desired": desired})
        return self._api.put(Pool, f"/v1/pools/{_segment(name)}/capacity", body)

    def drain_pool(
        self,
        name: str,
        *,
        release_not: str | None = None,
        started_before: str | None = None,
        replace_instance: bool = False,
        at_most: int | None = None,
    ) -> DrainedPool:
        """Drain the pool's workers, or only those of other releases or from before a moment.

        No more than `at_most` drain at the same time: repeat it until none drains and none remains.
        """
        given = {"release_not": release_not, "started_before": started_before, "at_most": at_most}
        body = {field: value for field, value in given.items() if value is not None}
        body |= {"replace_instance": replace_instance}
        return self._api.post(DrainedPool, f"/v1/pools/{_segment(name)}/drain", body, repeatable=True)

    def delete_pool(self, name: str) -> None:
        """Delete a pool that nothing needs any more."""
        self._api.delete(f"/v1/pools/{_segment(name)}")

    def pause_pool(self, name: str) -> Pool:
        """Let the pool's tasks wait; running ones finish."""
        return self._api.post(Pool, f"/v1/pools/{_segment(name)}/pause")

    def resume_pool(self, name: str) -> Pool:
        return self._api.post(Pool, f"/v1/pools/{_segment(name)}/resume")

    def list_workers(
        self, *, pool: str | None = None, state: WorkerState | Sequence[WorkerState] | None = None
    ) -> Listing[Worker]:
        """Newest first, stopped and lost ones of the past too; in any of these states."""
        return self._list(Worker, "/v1/workers", pool=pool, state=state)

    def get_worker(self, worker_id: Id) -> Worker:
        return self._api.get(Worker, f"/v1/workers/{worker_id}")

    def drain_worker(self, worker_id: Id) -> Worker:
        """Let a worker finish what it runs, take nothing more, and stop."""
        return self._api.post(Worker, f"/v1/workers/{worker_id}/drain")

    # Webhooks and keys

    def create_webhook_endpoint(
        self, url: str, *, events: Iterable[Event] | None = None, idempotency_key: str | None = None
    ) -> CreatedWebhookEndpoint:
        """Deliver `events` (default: every end of a job) to `url`."""
        body = {"url": url} | ({} if events is None else {"events": list(events)})
        return self._api.create(CreatedWebhookEndpoint, "/v1/webhook-endpoints", body, idempotency_key)

    def list_webhook_endpoints(self) -> Listing[WebhookEndpoint]:
        return self._list(WebhookEndpoint, "/v1/webhook-endpoints")

    def get_webhook_endpoint(self, endpoint_id: Id) -> WebhookEndpoint:
        return self._api.get(WebhookEndpoint, f"/v1/webhook-endpoints/{endpoint_id}")

    def rotate_webhook_secret(
        self, endpoint_id: Id, *, overlap_seconds: float | str = 86_400
    ) -> CreatedWebhookEndpoint:
        """Sign with a new secret, and for the overlap (seconds, or text such as "2h") with the one before, too."""
        path = f"/v1/webhook-endpoints/{endpoint_id}/rotate"
        return self._api.post(CreatedWebhookEndpoint, path, {"overlap_seconds": overlap_seconds})

    def enable_webhook_endpoint(self, endpoint_id: Id) -> WebhookEndpoint:
        """Send to a disabled or paused endpoint again, at once."""
        return self._api.post(WebhookEndpoint, f"/v1/webhook-endpoints/{endpoint_id}/enable")

    def delete_webhook_endpoint(self, endpoint_id: Id) -> None:
        self._api.delete(f"/v1/webhook-endpoints/{endpoint_id}")

    def list_webhook_deliveries(
        self,
        *,
        endpoint_id: Id | None = None,
        job_id: Id | None = None,
        state: DeliveryState | Sequence[DeliveryState] | None = None,
    ) -> Listing[Delivery]:
        """Newest first; in any of these states."""
        filters = {"endpoint_id": endpoint_id, "job_id": job_id, "state": state}
        return self._list(Delivery, "/v1/webhook-deliveries", **filters)

    def redeliver(self, delivery_id: Id) -> Delivery:
        """Send a delivery again."""
        return self._api.post(Delivery, f"/v1/webhook-deliveries/{delivery_id}/redeliver")

    # Alerts

    def create_alert(
        self,
        name: str,
        on: Conditions,
        to: Receiver,
        *,
        job_id: Id | None = None,
        job_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        schedule: str | None = None,
        pool: str | None = None,
        repeat_seconds: float | str | None = 86_400,
        quiet: QuietHours | None = None,
        urgent: bool = False,
        idempotency_key: str | None = None,
    ) -> CreatedAlert:
        """Tell `to` when one of these conditions holds for jobs of this scope, and when it is over.

        What lasts or comes back is told again no sooner than after `repeat_seconds`; None: never.
        """
        body: dict[str, Any] = {"job_id": job_id and str(job_id), "job_name": job_name, "labels": labels}
        body |= {"schedule": schedule, "pool": pool, "quiet": quiet, "urgent": urgent or None}
        given = {field: value for field, value in body.items() if value is not None}
        required = {"name": name, "on": on, "to": to, "repeat_seconds": repeat_seconds}
        return self._api.create(CreatedAlert, "/v1/alerts", required | given, idempotency_key)

    def list_alerts(self, *, name: str | None = None) -> Listing[Alert]:
        return self._list(Alert, "/v1/alerts", name=name)

    def get_alert(self, alert_id: Id) -> Alert:
        return self._api.get(Alert, f"/v1/alerts/{alert_id}")

    def change_alert(
        self,
        alert_id: Id,
        *,
        name: str = KEEP,
        on: Conditions = KEEP,
        to: Receiver = KEEP,
        job_id: Id | None = KEEP,
        job_name: str | None = KEEP,
        labels: Mapping[str, str] = KEEP,
        schedule: str | None = KEEP,
        pool: str | None = KEEP,
        repeat_seconds: float | str | None = KEEP,
        quiet: QuietHours | None = KEEP,
        urgent: bool = KEEP,
        paused: bool = KEEP,
    ) -> CreatedAlert:
        """Set what is given; None takes a restriction away. With `to`, a webhook gets a new secret."""
        body: dict[str, Any] = {"name": name, "on": on, "to": to, "job_name": job_name, "labels": labels}
        body |= {"schedule": schedule, "pool": pool, "repeat_seconds": repeat_seconds, "quiet": quiet}
        body |= {"job_id": str(job_id) if isinstance(job_id, UUID) else job_id, "urgent": urgent, "paused": paused}
        given = {field: value for field, value in body.items() if value is not KEEP}
        return self._api.patch(CreatedAlert, f"/v1/alerts/{alert_id}", given)

    def delete_alert(self, alert_id: Id) -> None:
        self._api.delete(f"/v1/alerts/{alert_id}")

    def test_alert(self, alert_id: Id) -> AlertMessage:
        """Send a trial message; `list_alert_messages` tells whether it arrived."""
        return self._api.post(AlertMessage, f"/v1/alerts/{alert_id}/test")

    def list_alert_messages(
        self, alert_id: Id, *, state: DeliveryState | Sequence[DeliveryState] | None = None
    ) -> Listing[AlertMessage]:
        """What was told, newest first; in any of these states."""
        return self._list(AlertMessage, f"/v1/alerts/{alert_id}/messages", state=state)

    def list_alert_incidents(
        self, alert_id: Id, *, condition: Condition | Sequence[Condition] | None = None, open: bool | None = None
    ) -> Listing[Incident]:
        """What was found, newest first; of any of these conditions; what holds now, or (False) what is over."""
        return self._list(Incident, f"/v1/alerts/{alert_id}/incidents", condition=condition, open=open)

    def create_api_key(
        self,
        name: str,
        role: Role,
        *,
        principal: str | None = None,
        all: bool = False,
        shares: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        pools: Sequence[str] | None = None,
        priority_max: int | None = None,
        expires_at: str | None = None,
        idempotency_key: str | None = None,
    ) -> CreatedApiKey:
        """A key of `principal` (default: of its own name), with these limits."""
        body: dict[str, Any] = {"name": name, "role": role, "principal": principal, "all": all or None}
        body |= {"shares": shares, "labels": labels, "pools": pools}
        body |= {"priority_max": priority_max, "expires_at": expires_at}
        given = {field: value for field, value in body.items() if value is not None}
        return self._api.create(CreatedApiKey, "/v1/api-keys", given, idempotency_key)

    def get_me(self) -> ApiKey:
        """The client's own key."""
        return self._api.get(ApiKey, "/v1/me")

    def list_audit(
        self,
        *,
        principal: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        outcome: AuditOutcome | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Listing[AuditEntry]:
        """Changes, newest first, from `since` and before `until` (ISO 8601 with a time zone)."""
        filters = {"principal": principal, "action": action, "subject": subject, "outcome": outcome}
        return self._list(AuditEntry, "/v1/audit", **filters, since=since, until=until)

    def list_api_keys(self) -> Listing[ApiKey]:
        return self._list(ApiKey, "/v1/api-keys")

    def revoke_api_key(self, key_id: Id) -> None:
        self._api.delete(f"/v1/api-keys/{key_id}")

    # Quotas

    def get_own_quotas(self) -> KeyUse:
        """What this key may use, and uses."""
        return self._api.get(KeyUse, "/v1/quotas")

    def get_key_quotas(self, key_id: Id) -> KeyUse:
        return self._api.get(KeyUse, f"/v1/api-keys/{key_id}/quotas")

    def set_key_quotas(self, key_id: Id, spec: KeyQuotas | JsonObject) -> KeyUse:
        """Give a key quotas of its own; those that are not given are the grid's again."""
        return self._api.put(KeyUse, f"/v1/api-keys/{key_id}/quotas", spec)

    def list_shares(self) -> Listing[Share]:
        """Those that have quotas of their own."""
        return self._list(Share, "/v1/shares")

    def get_share(self, name: str) -> ShareUse:
        """What the jobs of a share may use together, and use."""
        return self._api.get(ShareUse, f"/v1/shares/{_segment(name)}")

    def set_share(self, name: str, spec: ShareQuotas | JsonObject) -> ShareUse:
        """Give a share quotas of its own; those that are not given are the grid's again."""
        return self._api.put(ShareUse, f"/v1/shares/{_segment(name)}", spec)

    # Statistics

    def get_job_stats(self, job_id: Id) -> JobStats:
        """Progress, rates, durations, retries and volumes of a job, by stage."""
        return self._stats.get(JobStats, f"/v1/jobs/{job_id}/stats")

    def get_job_timeline(self, job_id: Id) -> Timeline:
        """What a job did in each minute."""
        return self._stats.get(Timeline, f"/v1/jobs/{job_id}/timeline")

    def get_job_cost(self, job_id: Id) -> JobCost:
        """What a job has cost so far, in US dollars."""
        return self._stats.get(JobCost, f"/v1/jobs/{job_id}/cost")

    def list_costs(self, *, pool: str | None = None, by_label: str | None = None, days: int = 30) -> CostList:
        """What all jobs cost on each of the last `days`, by pool and by the values of a label, in US dollars."""
        return self._stats.get(CostList, "/v1/stats/costs", pool=pool, by_label=by_label, days=days)

    def list_worker_stats(self, *, pool: str | None = None, minutes: int = 60) -> WorkerStatsList:
        """What each worker did in the last `minutes`."""
        return self._stats.get(WorkerStatsList, "/v1/stats/workers", pool=pool, minutes=minutes)

    def list_pool_stats(self, *, minutes: int = 60) -> PoolStatsList:
        """What each pool did in the last `minutes`."""
        return self._stats.get(PoolStatsList, "/v1/stats/pools", minutes=minutes)

    def get_timeline(self, *, pool: str | None = None, minutes: int = 60) -> Timeline:
        """What all jobs did in each minute."""
        return self._stats.get(Timeline, "/v1/stats/timeline", pool=pool, minutes=minutes)

    def _list(self, item: type[T], path: str, **filters: Any) -> Listing[T]:
        return Listing(lambda limit, cursor: self._api.get(Page, path, limit=limit, cursor=cursor, **filters))


def _schedule(id_or_name: Id) -> str:
    return f"/v1/schedules/{_segment(str(id_or_name))}"


def _segment(name: str) -> str:
    """`name` as one segment of a path, whatever is in it."""
    return quote(name, safe="")
