"""Commands on jobs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import exits, refs
from piecework.cli.options import All, CreatedBy, JobId, JobIds, Limit, Mine, Since
from piecework.cli.output import newer
from piecework.cli.session import Session, command, describe_columns, group, parse_pairs
from piecework.cli.tasks import describe_source
from piecework.errors import Conflict, Forbidden, InputError, Invalid, NotFound, PieceworkError
from piecework.shapes import (
    FINAL_STATES,
    Deletion,
    Job,
    JobDependency,
    JobState,
    JobSummary,
    Reason,
    Stage,
    StageRecords,
    Task,
)

FAILURES_SHOWN = 3


def watch(session: Session, job_id: JobId) -> None:
    """Show live progress until the job ends.

    Exits with 0 if it succeeded, 1 if it failed or was cancelled. Ctrl-C leaves the job running.
    """
    watch_to_end(session, job_id)


def watch_to_end(session: Session, job: Job | UUID) -> None:
    """Watch a job, known or by its id; ends the command with exit code 1 and the reason unless it succeeded."""
    from piecework.watch import job_view, wait_for_job

    try:
        with job_view(session.client, session.err) as view:
            ended = wait_for_job(session.client, job, view)
    except KeyboardInterrupt as interrupt:
        job_id = job if isinstance(job, UUID) else job["job_id"]
        session.note(f"no longer watching; the job goes on: piecework watch {job_id}")
        raise typer.Exit(exits.INTERRUPTED) from interrupt
    session.show(ended, lambda job: None)
    for warning in ended["warnings"]:
        session.note(f"warning: {warning}")
    if ended["state"] != "succeeded":
        for line in reasons_of(session, ended):
            session.complain(line)
        raise typer.Exit(exits.JOB_FAILED)


def reasons_of(session: Session, job: Job) -> list[str]:
    """Why a job did not succeed: its own error, then the first failed tasks of each stage."""
    error, lines = job["error"], list[str]()
    for stage in job["stages"]:
        if stage["progress"]["failed"]:
            # The job's own error stays the news even if its tasks can't be read.
            with suppress(PieceworkError):
                tasks = session.client.list_tasks(job["job_id"], stage=stage["stage"], state="failed")
                lines += [_reason(session, job, stage, task) for task in tasks.page(FAILURES_SHOWN)["items"]]
    why = f": {error['type']}: {error['message']}" if error else ""
    if lines:
        why = why.partition("; the first, task ")[0]  # which follows, with the command that tells more
    return [f"job {job['name']} {job['state']}{why}", *lines]


def _reason(session: Session, job: Job, stage: Stage, task: Task) -> str:
    """Why a task failed, and the command that tells more: its log if the last attempt left one, else the task."""
    why = f"{task['error']['type']}: {task['error']['message']}" if task["error"] else "failed"
    attempts = session.client.get_task(job["job_id"], task["stage"], task["index"])["attempts"]
    more = "logs" if attempts and attempts[-1]["log"] else "task"
    place = f"{task['stage']} {task['index']}"
    of = f" of {describe_source(task)}" if task.get("source") else ""
    return f"task {stage['name']} {place}{of}: {why} (piecework {more} {job['job_id']} {place})"


def list_jobs(
    session: Session,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="With this label; repeatable.")] = None,
    schedule_id: Annotated[
        UUID | None, refs.SCHEDULE.option("--schedule", help="Only jobs of this schedule."), refs.SCHEDULE
    ] = None,
    created_by: CreatedBy = None,
    mine: Mine = False,
    since: Since = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List jobs, newest first."""
    labels = parse_pairs("--label", label)
    listing = session.client.list_jobs(
        state=state, name=name, label=labels, schedule_id=schedule_id, created_by=created_by, mine=mine
    )
    session.show_list(newer(listing, since), everything, limit, lambda jobs: _show_jobs(session, jobs))


def _show_jobs(session: Session, jobs: list[JobSummary]) -> None:
    from piecework.display import moment, relative, state, table
    from piecework.waits import why

    now = session.client.now()
    when = moment if session.out.width >= 120 else relative
    table(
        session.out,
        ["JOB_ID", "~NAME", "STATE", ">DONE", "?CREATED", ">?FAILED", "?WHY", "~?OWNER"],
        (
            (
                job["job_id"],
                job["name"],
                state(job["state"]),
                f"{job['progress']['succeeded']}/{job['progress']['tasks']}",
                when(job["created_at"], now),
                job["progress"]["failed"],
                why(job) or None,
                job.get("created_by"),  # an older server does not tell
            )
            for job in jobs
        ),
    )


def show_job(session: Session, job_id: JobId) -> None:
    """Show a job with its stages and exact progress."""
    session.show(session.client.get_job(job_id), lambda job: _show_job(session, job))


def _show_job(session: Session, job: Job) -> None:
    from rich.text import Text

    from piecework.display import facts, moment, state, table
    from piecework.waits import waits, why

    now = session.client.now()
    inputs, merge = job["spec"]["input"], job["spec"].get("merge")
    facts(
        session.out,
        [
            ("job", job["job_id"]),
            ("name", job["name"]),
            ("state", state(job["state"])),
            ("error", f"{job['error']['type']}: {job['error']['message']}" if job["error"] else None),
            *(("input", _describe_input(source)) for source in (inputs if isinstance(inputs, list) else [inputs])),
            ("merge", merge.get("type") if merge else None),
            *(("waits", Text(_describe_reason(reason, now), "yellow")) for reason in waits(job.get("reasons", []))),
            *(("warning", Text(warning, "yellow")) for warning in job["warnings"]),
            *(("after", _describe_predecessor(one)) for one in job.get("predecessors", [])),
            ("labels", ", ".join(f"{key}={value}" for key, value in job["labels"].items())),
            ("priority", job["priority"] or None),
            ("share", job["share"]),
            *(
                (f"columns of {stage['name']}", describe_columns(columns))
                for stage in job["stages"]
                if (columns := stage.get("columns"))  # an older server does not tell
            ),
            ("schedule", job["schedule_id"]),
            ("run at", moment(job["run_at"], now)),
            ("created", moment(job["created_at"], now)),
            ("owner", job.get("created_by")),
            ("started", moment(job["started_at"], now)),
            ("finished", moment(job["finished_at"], now)),
            ("held", "nothing of it is deleted" if job.get("hold") else None),
            ("interim data deleted", moment(job.get("interim_deleted_at"), now)),
            ("results deleted", moment(job.get("results_deleted_at"), now)),
            ("being deleted since", moment(job.get("deleted_at"), now)),
        ],
    )
    print()
    table(
        session.out,
        [
            "STAGE",
            "~NAME",
            "~?PROCESSOR",
            "STATE",
            ">DONE",
            ">FAILED",
            ">CANCELLED",
            ">RUNNING",
            ">QUEUED",
            "?WHY",
            ">?WAITING",
            "?RECORDS",
        ],
        (
            (
                stage["stage"],
                stage["name"],
                stage["processor"],
                state(stage["state"]),
                f"{stage['progress']['succeeded']}/{'?' if stage['task_count'] is None else stage['task_count']}",
                stage["progress"]["failed"],
                stage["progress"]["cancelled"],
                stage["progress"]["running"],
                stage["progress"]["queued"] + stage["progress"]["ready"],
                why(stage) or None,
                stage["progress"]["waiting"],
                _describe_records(stage["records"]),
            )
            for stage in job["stages"]
        ),
    )
    _show_time_spent(session, job)


def _show_time_spent(session: Session, job: Job) -> None:
    """Of a job that has ended; without the stats service, the rest of the job is shown all the same."""
    from piecework.cli.stats import show_time_spent

    if job["state"] in FINAL_STATES:
        with suppress(PieceworkError):
            show_time_spent(session, session.client.get_job_stats(job["job_id"]))


def _describe_reason(reason: Reason, now: datetime) -> str:
    from piecework.display import moment

    since = reason.get("since")
    return f"{reason['message']}; since {moment(since, now)}" if since else reason["message"]


def _describe_predecessor(one: JobDependency) -> str:
    ended = one["ended"] or "has not ended"
    how = ":index" if one.get("by_index") else ""
    return f"{one['job_id']}{':any' if one['condition'] == 'any' else ''}{how} ({ended})"


def _describe_records(records: StageRecords) -> str | None:
    """`100 in, 98 out, 2 rejected`; None if nothing was counted."""
    counts = {name: count for name, count in records.items() if name != "balanced" and count}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or None


def _describe_input(source: Mapping[str, Any]) -> str:
    match source["type"]:
        case "range":
            return f"array of {source['count']:,} tasks"
        case "items":
            return f"{len(source['items']):,} items"
        case "stream":
            return "items that are appended"
        case "objects":
            return f"objects {source['prefix']}{source.get('include', '*')}"
        case kind:
            return f"{source.get('format', kind)} {source['uri']}"


def cancel(
    session: Session,
    job_ids: JobIds,
    item: Annotated[
        list[int] | None, typer.Option(metavar="NUMBER", help="Only this item of an open job; may be repeated.")
    ] = None,
) -> None:
    """Cancel jobs, or some of the items of one: their running tasks are stopped."""
    if not item:
        change_each(session, job_ids, session.client.cancel_job)
        return
    if len(job_ids) > 1:
        raise InputError("--item: the items are of one job; name only this job")
    [job_id] = job_ids
    cancelled = session.client.cancel_items(job_id, item)
    ended = sorted(set(item) - set(cancelled["cancelled"]))
    session.show(cancelled, lambda it: print(f"{job_id} {len(it['cancelled'])} items cancelled"))
    if ended:
        session.note(f"had ended: {', '.join(map(str, ended))}")


def pause(session: Session, job_ids: JobIds) -> None:
    """Pause jobs: no more of their tasks start, and those that run finish."""
    change_each(session, job_ids, session.client.pause_job)


def resume(session: Session, job_ids: JobIds) -> None:
    """Resume paused jobs."""
    change_each(session, job_ids, session.client.resume_job)


def hold(session: Session, job_ids: JobIds) -> None:
    """Let nothing that jobs leave be deleted."""
    change_each(session, job_ids, session.client.hold_job)


def release(session: Session, job_ids: JobIds) -> None:
    """Let what held jobs leave be deleted when it is due."""
    change_each(session, job_ids, session.client.release_job)


def delete(
    session: Session,
    job_ids: JobIds,
    keep_results: Annotated[bool, typer.Option("--keep-results", help="Delete all but the results.")] = False,
) -> None:
    """Delete jobs that have ended, with their tasks, logs, interim data and results."""

    def change(job_id: UUID) -> Deletion:
        return session.client.delete_job(job_id, results="keep" if keep_results else "delete")

    change_each(session, job_ids, change, lambda deletion: print(f"{deletion['job_id']}: schedulers delete it now"))


def tell_state(job: Job) -> None:
    print(f"{job['job_id']} {job['state']}", flush=True)


def change_each(
    session: Session,
    job_ids: Sequence[UUID],
    change: Callable[[UUID], Any],
    tell: Callable[[Any], None] = tell_state,
) -> None:
    """Change jobs one after the other, and tell of each at once; as data, one is itself, and several are a list.

    What is refused of one keeps nothing from the others. The command ends with the exit code of the first that was.
    """
    changed: list[Any] = []
    codes: list[int] = []
    for job_id in dict.fromkeys(job_ids):
        try:
            changed.append(change(job_id))
        except (Conflict, Forbidden, Invalid, NotFound) as refused:
            if len(job_ids) == 1:
                raise
            codes.append(exits.exit_code(refused))
            for line in refused.lines():
                session.complain(f"{job_id}: {line}")
        else:
            if session.prints_tables:
                tell(changed[-1])
    session.show(changed[0] if len(job_ids) == 1 else {"items": changed, "next_cursor": None}, lambda _: None)
    if codes:
        raise typer.Exit(codes[0])


def register(app: typer.Typer) -> None:
    command(app, "watch")(watch)
    command(app, "cancel")(cancel)
    command(app, "pause")(pause)
    command(app, "resume")(resume)
    command(app, "hold")(hold)
    command(app, "release")(release)
    command(app, "delete")(delete)
    jobs = group(app, "jobs", "Jobs; each of these verbs also stands alone: `piecework cancel JOB`.")
    command(jobs, "list")(list_jobs)
    command(jobs, "show")(show_job)
