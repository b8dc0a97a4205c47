"""Retention: what is due goes, in bounded steps, whoever dies or interferes; what is held or needed stays."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from services.contract.layout import Layout
from services.engine import jobs, retention, submission
from services.engine.errors import Conflict
from services.engine.places import Reader, may_read
from services.engine.spec import JobSpec, Keep
from services.inputs.reach import Folder
from services.platform import effects
from services.platform.database import Database, new_id
from services.platform.effects import Effect, Moment
from services.scheduler.loop import Context
from services.scheduler.loops import finish, retain
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play, finished
from tests.integration.engine.test_plans import nodes
from tests.integration.scheduler.conftest import Bucket, drive, finish_job

CONCAT = {"type": "concat", "filename": "all.csv"}
AT_ONCE = {"interim": 0, "results": "forever", "records": "forever"}
ROWS = ("jobs", "stages", "tasks", "attempts", "stage_counters", "stage_stats", "stage_minutes", "lost_outputs")


@pytest.fixture
def layout(context: Context) -> Layout:
    return context.settings.layout


async def keys(bucket: Bucket) -> list[str]:
    answer = await bucket.s3.list_objects_v2(Bucket=bucket.name)
    return [entry["Key"] for entry in answer.get("Contents", [])]


async def rows(database: Database, job_id: UUID) -> dict[str, int]:
    """How many rows of the job each table has."""
    counts = {name: await database.fetchval(f"SELECT count(*) FROM {name} WHERE job_id = $1", job_id) for name in ROWS}
    return {name: count for name, count in counts.items() if count}


async def run(
    context: Context, play: Play, bucket: Bucket, tasks: int = 2, stages: int = 1, **job: Any
) -> tuple[UUID, list[str]]:
    """A job of `stages` stages that has succeeded, with a log and an output of each task; its interim outputs."""
    job_id, layout, made = await play.submit(stages=stages, **job), context.settings.layout, []
    await play.plan(job_id, tasks)
    worker_id = await play.register()
    for stage in range(stages):
        options = (await play.stage(job_id, stage))["options"]
        for task in await play.run(worker_id, job_id, stage):
            key = (job_id, stage, task.index, task.attempt)
            place = layout.attempt(*key, "out.csv", interim=options["interim"])
            made += [place.key] if options["interim"] else []
            uri = await bucket.put(place.key, b"a\n")
            await bucket.put(layout.log(*key).key, b"printed")
            output = {"uri": uri, "bytes": 2, "missing_end": "", "crc32": 0xDDEAA107}
            await play.complete(worker_id, finished(task, output=output, log=layout.log(*key).uri), done=[task])
    merger = Merger()
    await finish_job(context, play, job_id, merger.step)
    await merger.stop()
    return job_id, made


async def pass_time(database: Database, days: float) -> None:
    """All that has happened was this number of days earlier."""
    await database.execute(
        "UPDATE jobs SET created_at = created_at - $1 * interval '1 day', "
        "finished_at = finished_at - $1 * interval '1 day', keep_revision = 0",
        days,
    )


async def retain_all(context: Context) -> None:
    """Take steps until nothing more is due."""
    while await retain.step(context):
        pass


async def order(database: Database, job_id: UUID, *, keep_results: bool = False) -> None:
    async with database.acquire() as connection, connection.transaction():
        await retention.delete_job(connection, job_id, keep_results=keep_results)


async def set_rule(database: Database, name: str, labels: dict[str, str] | None = None, **keep: Any) -> None:
    async with database.acquire() as connection, connection.transaction():
        await retention.put_rule(connection, name, labels or {}, Keep.model_validate(keep))


async def test_interim_data_go_when_they_are_due_and_results_and_logs_stay(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id, interim = await run(context, play, bucket, stages=2, merge=CONCAT)
    assert len(interim) == 4
    before = await keys(bucket)
    await retain_all(context)
    assert await keys(bucket) == before

    await pass_time(context.database, 1.01)
    await retain_all(context)

    assert await keys(bucket) == [key for key in before if key not in interim]
    job = await play.job(job_id)
    assert job["interim_deleted_at"] is not None
    assert (job["deletion"], job["deleted_at"]) == (None, None)


async def test_what_a_release_before_put_beside_logs_and_results_goes_too(
    context: Context, play: Play, bucket: Bucket, layout: Layout
) -> None:
    job_id, _ = await run(context, play, bucket, merge=CONCAT, keep=AT_ONCE)
    old = [await bucket.put(f"{layout.job(job_id).key}0/{name}", b"a") for name in ("1-1/out.csv", "joined")]
    await pass_time(context.database, 0)
    await retain_all(context)
    left = await keys(bucket)
    assert [uri for uri in old if uri.removeprefix(f"s3://{bucket.name}/") in left] == []
    assert len(left) == 4  # two logs, the result, the manifest


async def test_outputs_that_nothing_merges_are_results(context: Context, play: Play, bucket: Bucket) -> None:
    _, interim = await run(context, play, bucket, stages=2, keep=AT_ONCE)
    await retain_all(context)
    assert len(interim) == 2
    assert [key.rsplit("/", 1)[1] for key in await keys(bucket)] == [
        *("log.txt", "log.txt"),  # of the first stage
        *("log.txt", "out.csv") * 2,
        "manifest.json",
    ]


@pytest.mark.parametrize(
    ("own", "rules", "gone"),
    [
        ({"interim": 0}, {}, True),
        ({}, {"short": {"interim": 0}}, True),
        ({}, {"short": {"interim": 0}, "long": {"interim": "forever"}}, False),
        ({"interim": 0}, {"long": {"interim": "forever"}}, True),
        ({"interim": "forever"}, {"short": {"interim": 0}}, False),
        ({}, {"other": {"interim": 0}}, False),
        ({}, {"default": {"interim": 0}}, True),
        ({}, {"default": {"interim": 0}, "long": {"interim": 60}}, False),
    ],
)
async def test_a_job_says_how_long_it_is_kept_then_the_longest_of_its_labels_then_the_default(
    context: Context, play: Play, bucket: Bucket, own: dict[str, Any], rules: dict[str, Any], gone: bool
) -> None:
    labels = {"short": {"team": "a"}, "long": {"kind": "audit"}, "other": {"team": "b"}, "default": {}}
    job_id, _ = await run(
        context, play, bucket, merge=CONCAT, labels={"team": "a", "kind": "audit"}, **({"keep": own} if own else {})
    )
    await retain_all(context)
    for name, keep in rules.items():
        await set_rule(context.database, name, labels[name], **keep)
    await retain_all(context)
    assert ((await play.job(job_id))["interim_deleted_at"] is not None) is gone


async def test_a_deleted_job_leaves_nothing_behind(context: Context, play: Play, bucket: Bucket) -> None:
    kept, _ = await run(context, play, bucket, stages=2, merge=CONCAT)
    others = await keys(bucket)
    job_id, _ = await run(context, play, bucket, stages=2, merge=CONCAT)
    await context.database.execute(
        "INSERT INTO stage_minutes VALUES ($1, 0, now(), 1, 0, 1, 0, 0), ($1, 1, now(), 1, 0, 1, 0, 0)", job_id
    )
    await order(context.database, job_id)
    assert (await play.job(job_id))["deleted_at"] is not None
    with pytest.raises(Conflict, match="being deleted"):
        await play.order(jobs.retry_job, job_id)
    await retain_all(context)
    assert await rows(context.database, job_id) == {}
    assert await keys(bucket) == others
    assert (await rows(context.database, kept))["tasks"] == 4
    assert await context.database.fetchval("SELECT count(*) FROM deleted_jobs") == 0


async def test_results_can_outlive_the_job(context: Context, play: Play, bucket: Bucket, layout: Layout) -> None:
    job_id, _ = await run(context, play, bucket, merge=CONCAT)
    await order(context.database, job_id, keep_results=True)
    await retain_all(context)
    assert await rows(context.database, job_id) == {}
    results = [layout.result(job_id, name).key for name in ("all.csv", "manifest.json")]
    assert await keys(bucket) == results
    folder = Folder("results", job_id)
    assert await may_read(context.database, [folder], Reader()) == {folder}

    await order(context.database, job_id)
    await retain_all(context)
    assert await keys(bucket) == []
    assert await may_read(context.database, [folder], Reader()) == set()
    assert await context.database.fetchval("SELECT count(*) FROM deleted_jobs") == 0


async def test_records_go_by_their_rule_and_results_by_theirs(context: Context, play: Play, bucket: Bucket) -> None:
    keep = {"interim": "1d", "results": "20d", "records": "10d"}
    job_id, _ = await run(context, play, bucket, merge=CONCAT, keep=keep)
    await pass_time(context.database, 11)
    await retain_all(context)
    assert await rows(context.database, job_id) == {}
    assert len(await keys(bucket)) == 2
    said = await context.database.fetchrow(
        "SELECT role, action, summary FROM audit_log WHERE subject = $1", str(job_id)
    )
    assert said is not None
    assert tuple(said) == ("scheduler", "delete_job", {"reason": "retention", "results": "keep"})

    await context.database.execute("UPDATE deleted_jobs SET expires_at = expires_at - interval '9 days'")
    await retain_all(context)
    assert await keys(bucket) == []


async def test_a_hold_stops_every_deletion_until_it_is_released(context: Context, play: Play, bucket: Bucket) -> None:
    job_id, _ = await run(context, play, bucket, merge=CONCAT, keep={"interim": 0, "records": "1d"})
    before = await keys(bucket)
    await play.order(retention.hold_job, job_id)
    await pass_time(context.database, 2)
    await retain_all(context)
    assert await keys(bucket) == before
    with pytest.raises(Conflict, match="this job is held: release it first"):
        await order(context.database, job_id)

    await play.order(retention.release_job, job_id)
    await retain_all(context)
    assert await rows(context.database, job_id) == {}


async def test_a_hold_stops_a_deletion_that_has_begun(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, interim = await run(context, play, bucket, merge=CONCAT, keep=AT_ONCE)
    held = await at(context, "ListObjectsV2", monkeypatch, partial(play.order, retention.hold_job, job_id))
    assert held == 1
    assert set(interim) <= set(await keys(bucket))
    await play.order(retention.release_job, job_id)
    await retain_all(context)
    assert not set(interim) & set(await keys(bucket))


async def at(context: Context, operation: str, monkeypatch: pytest.MonkeyPatch, interfere: Callable[[], Any]) -> int:
    """Take all steps; the first call of the operation of S3 is followed by what somebody else does. Counts that."""
    done = 0
    listing = retain._list

    async def interrupted(*arguments: Any) -> Any:
        nonlocal done
        page = await listing(*arguments)
        if not done:
            done += 1
            await interfere()
        return page

    monkeypatch.setattr(retain, "_list", interrupted)
    await retain_all(context)
    monkeypatch.setattr(retain, "_list", listing)
    return done


async def test_a_job_that_is_retried_meanwhile_keeps_what_it_makes(
    context: Context, play: Play, bucket: Bucket, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await play.submit(merge=CONCAT, keep=AT_ONCE)
    await play.plan(job_id, 2)
    worker_id = await play.register()
    good, bad = await play.run(worker_id, job_id)
    old = await bucket.put(layout.attempt(job_id, 0, 0, 1, "out.csv", interim=True).key, b"a\n")
    await play.complete(
        worker_id,
        finished(good, output={"uri": old, "bytes": 2}),
        finished(bad, "failed", retryable=False),
        done=[good],
    )
    await finish_job(context, play, job_id)
    new = layout.attempt(job_id, 0, 1, 2, "out.csv", interim=True)

    async def retry() -> None:
        await play.order(jobs.retry_job, job_id)
        await bucket.put(new.key, b"b\n")

    await at(context, "ListObjectsV2", monkeypatch, retry)
    assert (await play.job(job_id))["state"] == "running"
    await retain_all(context)
    assert new.key in await keys(bucket)


async def test_a_job_whose_interim_data_are_gone_makes_them_again_when_it_is_retried(
    context: Context, play: Play, bucket: Bucket, layout: Layout
) -> None:
    job_id = await play.submit(merge=CONCAT, keep=AT_ONCE)
    await play.plan(job_id, 2)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, bundle=1)

    async def make(task: Any, worker_id: UUID) -> None:
        place = layout.attempt(job_id, 0, task.index, task.attempt, "out.csv", interim=True)
        output = {"uri": await bucket.put(place.key, b"%d\n" % task.index), "bytes": 2, "missing_end": ""}
        await play.complete(worker_id, finished(task, output=output), done=[task])

    await make(tasks[0], worker_id)
    await play.complete(worker_id, finished(tasks[1], "failed", retryable=False), done=[tasks[1]])
    await finish_job(context, play, job_id)
    await retain_all(context)
    assert await keys(bucket) == []
    await play.order(jobs.retry_job, job_id)
    [again] = await play.run(worker_id, job_id, bundle=1)
    await make(again, worker_id)
    merger = Merger()

    async def remakes() -> bool:
        return "ready" in await play.states(job_id)

    await drive(context, finish.step, merger.step, until=remakes)
    [lost] = await play.run(worker_id, job_id, bundle=1)
    assert (lost.index, lost.attempt) == (0, 2)
    await make(lost, worker_id)
    await finish_job(context, play, job_id, merger.step)
    await merger.stop()
    assert await bucket.get(layout.result(job_id, "all.csv").uri) == b"0\n1\n"


async def test_what_a_job_that_has_not_ended_reads_is_not_deleted(context: Context, play: Play, bucket: Bucket) -> None:
    job_id, _ = await run(context, play, bucket, merge=CONCAT, keep={"results": 0})
    uri = context.settings.layout.result(job_id, "all.csv").uri
    reader = await play.submit(input={"type": "lines", "uri": uri, "format": "jsonl"})
    with pytest.raises(Conflict, match=f"the job {reader} .running. reads the results of job {job_id}"):
        await order(context.database, job_id)
    await retain_all(context)
    assert uri.rsplit("/", 1)[1] in str(await keys(bucket))
    assert (await play.job(job_id))["results_deleted_at"] is None

    await play.order(jobs.cancel_job, reader)
    await finish_job(context, play, reader)
    await order(context.database, job_id)
    await retain_all(context)
    assert await keys(bucket) == []


class Death(BaseException):
    """The scheduler dies."""


async def has_succeeded(context: Context, play: Play, bucket: Bucket) -> UUID:
    """A job with a task, an attempt, and an object of each kind."""
    job_id, layout = await play.submit(merge=CONCAT), context.settings.layout
    await play.plan(job_id, 1)
    await play.run_all(job_id)
    result = {"files": [], "manifest": {}}
    await context.database.execute(
        "UPDATE stages SET state = 'succeeded', result = $2 WHERE job_id = $1", job_id, result
    )
    await context.database.execute("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE job_id = $1", job_id)
    places = (layout.log(job_id, 0, 0, 1), layout.joined(job_id, 0), layout.result(job_id, "all.csv"))
    for place in places:
        await bucket.put(place.key, b"a")
    return job_id


async def test_a_scheduler_may_die_after_any_effect_of_a_deletion(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "HOLD_SECONDS", 0.0)
    monkeypatch.setattr(retain, "SLICES_MAX", 2)
    deaths, survived = 0, False
    while not survived:
        keep_results = deaths % 2 == 0
        job_id = await has_succeeded(context, play, bucket)
        await order(context.database, job_id, keep_results=keep_results)
        survived = await survives(context, deaths + 1)
        await retain_all(context)
        assert await rows(context.database, job_id) == {}
        assert len(await keys(bucket)) == keep_results
        assert await context.database.fetchval("SELECT count(*) FROM deleted_jobs") == keep_results
        if keep_results:
            await order(context.database, job_id)
            await retain_all(context)
        assert await keys(bucket) == []
        deaths += 1
    assert deaths > 20


async def survives(context: Context, effect: int) -> bool:
    """Take all steps, but die after this effect; False if it comes to that."""
    seen = 0

    def die(moment: Moment, _: Effect) -> None:
        nonlocal seen
        seen += moment == "after"
        if seen == effect and moment == "after":
            raise Death

    effects.watch(die)
    try:
        await retain_all(context)
    except Death:
        return False
    finally:
        effects.watch(None)
    return True


async def test_two_schedulers_delete_the_same_job_once(
    context: Context, other: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "ROWS_MAX", 1)
    monkeypatch.setattr(retain, "SLICES_MAX", 1)
    monkeypatch.setattr(retain, "HOLD_SECONDS", 0.0)  # each takes what the other is at
    job_id, _ = await run(context, play, bucket, tasks=4, stages=2, merge=CONCAT, keep={"records": 0, "results": "1d"})
    while await retain.step(context) or await retain.step(other):
        pass
    assert await rows(context.database, job_id) == {}
    assert len(await keys(bucket)) == 2
    assert await context.database.fetchval("SELECT count(*) FROM audit_log WHERE action = 'delete_job'") == 1


async def test_rows_go_in_slices_of_a_bounded_size(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "ROWS_MAX", 3)
    monkeypatch.setattr(retain, "SLICES_MAX", 2)
    job_id = await play.submit()
    await play.plan(job_id, 20)
    await play.run_all(job_id)
    await context.database.execute(
        "INSERT INTO attempts SELECT a.* FROM attempts AS a WHERE job_id = $1 AND index % 2 = 0", job_id
    )
    merger = Merger()
    await drive(context, finish.step, merger.step, until=partial(_has_ended, play, job_id))
    await merger.stop()
    await order(context.database, job_id)
    before = await rows(context.database, job_id)
    seen = [before]
    while await retain.step(context):
        seen.append(await rows(context.database, job_id))
    for table, extra in (("tasks", 0), ("attempts", 1)):
        counts = [each.get(table, 0) for each in seen]
        steps = [a - b for a, b in pairwise(counts)]
        assert counts[-1] == 0
        assert max(steps) <= 2 * (3 + extra)
        assert len([step for step in steps if step]) >= 3


@pytest.mark.parametrize("table", ["attempts", "tasks"])
async def test_a_slice_reads_no_rows_but_its_own(context: Context, play: Play, table: str) -> None:
    """Else the deletion of a job takes the square of its tasks."""
    job_id = await play.submit()
    await play.plan(job_id, 1_000)
    await play.run_all(job_id)
    await context.database.execute(f"ANALYZE {table}")
    async with context.database.acquire() as connection:
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            statement = f"EXPLAIN (ANALYZE, FORMAT JSON) {retention._ROWS[table]}"
            [plan] = await connection.fetchval(statement, job_id, 0, 99, 10)
            read = [
                (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                for node in nodes(plan["Plan"])
                if node.get("Relation Name", "").startswith(table)
            ]
            assert 10 <= max(read) <= 20, mode


async def _has_ended(play: Play, job_id: UUID) -> bool:
    return (await play.job(job_id))["finished_at"] is not None


async def test_objects_go_in_pages_of_a_bounded_number(
    context: Context, play: Play, bucket: Bucket, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if most of what is listed stays: a step goes on where the one before ended."""
    monkeypatch.setattr(retain, "PAGES_MAX", 2)
    listing = retain._list

    class Small:
        """S3 whose pages have two objects."""

        def __getattr__(self, name: str) -> Any:
            call = getattr(context.aws.s3, name)
            return partial(call, MaxKeys=2) if name == "list_objects_v2" else call

    async def small(context: Context, *arguments: Any) -> Any:
        aws = type("Aws", (), {"s3": Small()})()
        return await listing(Context(context.database, aws, context.settings), *arguments)

    monkeypatch.setattr(retain, "_list", small)
    job_id, _ = await run(context, play, bucket, tasks=6, merge=CONCAT, keep=AT_ONCE)
    for index in range(3):
        await bucket.put(f"{layout.job(job_id).key}0/{index}-9/out.csv", b"of an older worker")
    steps, left = 0, len(await keys(bucket))
    while await retain.step(context):
        steps += 1
        now = len(await keys(bucket))
        assert left - now <= 4
        left = now
    assert steps >= 5
    assert [key for key in await keys(bucket) if key.endswith("out.csv")] == []
    assert left == 6 + 2


async def test_a_message_makes_no_second_job_though_the_first_was_deleted(
    context: Context, play: Play, database: Database
) -> None:
    trigger = new_id()
    spec = JobSpec.model_validate({"input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}]})

    async def submit() -> UUID | None:
        async with database.acquire() as connection, connection.transaction():
            return await submission.submit_job(
                connection, spec, settings=context.settings, trigger_id=trigger, trigger_message="m"
            )

    job_id = await submit()
    assert job_id is not None
    await play.order(jobs.cancel_job, job_id)
    await finish_job(context, play, job_id)
    await order(database, job_id)
    await retain_all(context)
    assert await rows(database, job_id) == {}
    with pytest.raises(Exception, match="has made a job that was deleted"):
        await submit()

    await database.execute("UPDATE deleted_jobs SET created_at = now() - interval '16 days', expires_at = now()")
    await retain_all(context)
    assert await database.fetchval("SELECT count(*) FROM deleted_jobs") == 0


async def test_attempts_stay_until_the_totals_have_them(context: Context, play: Play, bucket: Bucket) -> None:
    job_id, _ = await run(context, play, bucket)
    await context.database.execute("UPDATE stats_watermark SET txid = '5', rolled_up_at = now() - interval '1 hour'")
    await order(context.database, job_id)
    await retain_all(context)
    assert (await rows(context.database, job_id))["attempts"] == 2
    await context.database.execute("UPDATE stats_watermark SET rolled_up_at = now() + interval '1 second'")
    await context.database.execute("UPDATE jobs SET expires_at = now()")
    await retain_all(context)
    assert await rows(context.database, job_id) == {}
