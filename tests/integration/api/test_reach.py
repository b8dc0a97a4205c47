"""Where jobs may read and write: what the operator allows, and what users have in Piecework's own folders."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.integration.api.conftest import Keys, PlayedWorker, array_job, ok
from tests.integration.api.test_bad_input import blamed

pytestmark = pytest.mark.usefixtures("grid")

UPLOAD = uuid4()


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    """Jobs may use two folders of another bucket, and the bucket that holds Piecework's own folders."""
    places = f"s3://{settings.bucket}-data/open/, s3://{settings.bucket}"
    return settings.model_copy(update={"read_from": places, "write_to": places, "queues": "arn:aws:sqs:*:*:free-*"})


@pytest.fixture
async def filled(settings: Settings, aws: Aws, database: Database) -> str:
    """The other bucket, whose every object exists. The upload is the submitter's."""
    uri = f"s3://{settings.bucket}/uploads/{UPLOAD}/a.csv"
    insert = "INSERT INTO uploads (upload_id, uri, bytes, created_by) VALUES ($1, $2, 8, 'test-submitter')"
    await database.execute(insert, UPLOAD, uri)
    other = f"{settings.bucket}-data"
    await aws.s3.create_bucket(Bucket=other)
    keys = ("open/a.csv", "open-not/a.csv", "closed/a.csv")
    for bucket, key in [(other, key) for key in keys] + [
        (settings.bucket, key)
        for key in ("own.csv", f"uploads/{UPLOAD}/a.csv", f"packages/{'0' * 64}.zip", f"jobs/{UPLOAD}/0/0-1/output")
    ]:
        await aws.s3.put_object(Bucket=bucket, Key=key, Body=b"a,b\n1,2\n")
    return other


def refused(settings: Settings, other: str) -> list[str]:
    own = f"s3://{settings.bucket}"
    return [
        f"s3://{other}/closed/a.csv",
        f"s3://{other}/open-not/a.csv",
        f"s3://{other}/open/../closed/a.csv",
        "s3://hr-private/a.csv",
        f"{own}/packages/{'0' * 64}.zip",
        f"{own}//packages/{'0' * 64}.zip",
        f"{own}/jobs/{UPLOAD}/0/0-1/output",
        f"{own}/jobs/{UPLOAD}/results/a.csv",  # of no job
        f"{own}/jobs/{UPLOAD}/pins/a",
        f"{own}/uploads/a.csv",
        f"{own}/uploading/{UPLOAD}/a.csv",  # which links can still write
    ]


async def test_a_job_reads_only_what_it_may(submitter: httpx.AsyncClient, operator: httpx.AsyncClient,
                                            settings: Settings, filled: str) -> None:  # fmt: skip
    asks = {"name": "asks", "command": ["true"], "inputs": {"fees": None}}
    await ok(operator.post("/v1/processors", json=asks))
    for uri in refused(settings, filled):
        source = {"type": "lines", "uri": uri}
        stage = {"processor": "asks", "inputs": {"fees": uri}}
        manifest = {"type": "manifest", "uri": uri, "format": "csv"}
        for field, job in {
            "input.uri": array_job(input=source),
            "input.1.uri": array_job(input=[{"type": "range", "count": 1}, manifest]),
            "stages.0.inputs.fees": array_job(stages=[stage]),
            "merge.inputs.fees": array_job(merge={"type": "reduce", **stage}),
        }.items():
            for later in ({}, {"run_at": "2099-01-01T00:00:00Z"}):
                assert blamed(await submitter.post("/v1/jobs", json=job | later))[:2] == (field, uri)
        schedule = {"name": "nightly", "cron": "0 3 * * *", "job": array_job(input=source)}
        assert blamed(await submitter.post("/v1/schedules", json=schedule))[:2] == ("job.input.uri", uri)
        assert blamed(await submitter.post("/v1/splits", json={"input": source}))[:2] == ("input.uri", uri)
        owned = {"name": "owns", "command": ["true"], "inputs": {"fees": uri}}  # as an older release registered it
        await ok(operator.post("/v1/processors", json=owned))
        response = await submitter.post("/v1/jobs", json=array_job(stages=[{"processor": "owns"}]))
        assert blamed(response)[:2] == ("stages.0.inputs.fees", uri)
    own = f"s3://{settings.bucket}"
    for uri in (f"s3://{filled}/open/a.csv", f"{own}/own.csv", f"{own}/uploads/{UPLOAD}/a.csv"):
        await ok(submitter.post("/v1/jobs", json=array_job(input={"type": "lines", "uri": uri})))


async def test_an_upload_is_read_by_its_owners_jobs_and_results_by_whoever_sees_the_job(
    submitter: httpx.AsyncClient, keys: Keys, settings: Settings, aws: Aws, filled: str
) -> None:
    own = f"s3://{settings.bucket}"
    job = await ok(submitter.post("/v1/jobs", json=array_job(share="finance")))
    await aws.s3.put_object(Bucket=settings.bucket, Key=f"jobs/{job['job_id']}/results/a.csv", Body=b"a\n1\n")
    upload, results = f"{own}/uploads/{UPLOAD}/a.csv", f"{own}/jobs/{job['job_id']}/results/a.csv"
    for limits, reads_upload, reads_results in (
        ({"name": "other"}, False, True),
        ({"name": "other", "all": True}, True, True),
        ({"name": "other", "shares": ["hr"]}, False, False),
        ({"name": "other", "shares": ["hr"], "all": True}, False, False),
        ({"name": "other", "shares": ["finance"]}, False, True),
        ({"name": "second key", "principal": "test-submitter", "shares": ["hr"]}, True, True),
    ):
        async with await keys.client("submitter", **limits) as client:
            for uri, may in ((upload, reads_upload), (results, reads_results)):
                for path, body in (("splits", {}), ("jobs", array_job())):
                    source = {"input": {"type": "lines", "uri": uri}}
                    response = await client.post(f"/v1/{path}", json=body | source)
                    assert response.is_success if may else blamed(response)[:2] == ("input.uri", uri), (limits, uri)


async def test_another_processor_of_somebodys_job_reads_only_what_its_owner_and_the_caller_may_read(
    submitter: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    keys: Keys,
    worker: PlayedWorker,
    settings: Settings,
    database: Database,
    filled: str,
) -> None:
    """It may declare an upload of the job's owner, or of the caller."""
    theirs, mine = f"s3://{settings.bucket}/uploads/{UPLOAD}/a.csv", f"s3://{settings.bucket}/uploads/{uuid4()}/a.csv"
    insert = "INSERT INTO uploads (upload_id, uri, bytes, created_by) VALUES ($1, $2, 8, 'me')"
    await database.execute(insert, UUID(mine.split("/")[-2]), mine)
    for name, uri in (("theirs", theirs), ("mine", mine), ("named", None)):
        await ok(operator.post("/v1/processors", json={"name": name, "command": ["true"], "inputs": {"fees": uri}}))
    stage = {"processor": "named", "inputs": {"fees": theirs}}
    job = (await ok(submitter.post("/v1/jobs", json=array_job(share="finance", stages=[stage]))))["job_id"]
    bare = (await ok(submitter.post("/v1/jobs", json=array_job(share="finance"))))["job_id"]
    for each in (job, bare):
        await worker.plan(UUID(each), 1)
    await database.execute("UPDATE jobs SET state = 'failed'")

    async with await keys.client("developer", name="other", principal="me", shares=["finance"]) as client:
        for name in ("theirs", "mine"):
            tried = await client.get(f"/v1/jobs/{bare}/tasks/0/0/trial?processor={name}")
            assert blamed(tried)[:2] == ("processor", name)
            order = {"stage": 0, "processors": [name]}
            uri = theirs if name == "theirs" else mine
            assert blamed(await client.post(f"/v1/jobs/{bare}/retry", json=order))[:2] == ("stages.0.inputs.fees", uri)
        await ok(client.get(f"/v1/jobs/{bare}/tasks/0/0/trial?processor=noop"))
        await ok(client.get(f"/v1/jobs/{job}/tasks/0/0/trial?processor=theirs"))  # as the job itself names it
        await ok(client.post(f"/v1/jobs/{job}/retry", json={"stage": 0, "processors": ["theirs"]}))


async def test_another_processor_is_tried_by_those_who_may_read_its_code(
    submitter: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    job_id = (await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"]
    await worker.plan(UUID(job_id), 1)
    path = f"/v1/jobs/{job_id}/tasks/0/0/trial"

    await ok(submitter.get(path))

    refused = await submitter.get(f"{path}?processor=noop")
    assert refused.status_code == 403 and "developer" in refused.text


async def test_a_prefix_is_not_wider_than_what_a_job_may_read(
    submitter: httpx.AsyncClient, settings: Settings, filled: str
) -> None:
    own = f"s3://{settings.bucket}"
    for prefix in (f"{own}/", f"{own}/up", f"{own}/uploads/", f"{own}/uploads/{str(UPLOAD)[:-1]}", f"{own}/jobs/",
                   f"{own}/packages/", f"s3://{filled}/", f"s3://{filled}/op"):  # fmt: skip
        source = {"type": "objects", "prefix": prefix}
        for route, body in (("jobs", array_job(input=source)), ("splits", {"input": source})):
            assert blamed(await submitter.post(f"/v1/{route}", json=body))[:2] == ("input.prefix", prefix)
    for prefix in (f"{own}/uploads/{UPLOAD}/", f"{own}/ow", f"s3://{filled}/open/"):
        await ok(submitter.post("/v1/splits", json={"input": {"type": "objects", "prefix": prefix}}))


async def test_a_manifest_names_nothing_that_a_job_may_not_read(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws, filled: str
) -> None:
    uri = f"s3://{settings.bucket}/uploads/{UPLOAD}/rows.jsonl"
    for bad in refused(settings, filled):
        rows = f'{{"uri": "s3://{filled}/open/a.csv"}}\n{{"uri": "{bad}"}}\n'
        await aws.s3.put_object(Bucket=settings.bucket, Key=f"uploads/{UPLOAD}/rows.jsonl", Body=rows.encode())

        response = await submitter.post("/v1/splits", json={"input": {"type": "manifest", "uri": uri}})

        assert response.status_code == 422 and f"jobs may not read {bad}" in response.text


async def test_results_of_jobs_are_read_again(
    submitter: httpx.AsyncClient, settings: Settings, database: Database, aws: Aws
) -> None:
    merged = await ok(submitter.post("/v1/jobs", json=array_job(merge={"type": "concat"})))
    unmerged = await ok(submitter.post("/v1/jobs", json=array_job()))
    names = {
        f"{merged['job_id']}/results/result.csv": True,
        f"{merged['job_id']}/0/0-1/output.csv": False,
        f"{unmerged['job_id']}/0/0-1/output.csv": True,
        f"{unmerged['job_id']}/1/0-1/output.csv": False,
        f"{unmerged['job_id']}/pins/x.csv": False,
    }
    for name, readable in names.items():
        await aws.s3.put_object(Bucket=settings.bucket, Key=f"jobs/{name}", Body=b"a,b\n1,2\n")
        source = {"type": "lines", "uri": f"s3://{settings.bucket}/jobs/{name}"}
        response = await submitter.post("/v1/jobs", json=array_job(input=source))
        assert response.status_code == (201 if readable else 422), (name, response.text)


async def test_results_go_only_where_they_may(submitter: httpx.AsyncClient, settings: Settings, filled: str) -> None:
    own = f"s3://{settings.bucket}"
    for place in (f"{own}/", own + "//", f"{own}/packages/", f"{own}/jobs/", f"{own}/jobs", f"{own}/uploads/x/",
                  f"{own}/jobs/{UPLOAD}/results/", "s3://hr-private/", f"s3://{filled}/", f"s3://{filled}/open-not",
                  f"s3://{filled}/open/../closed"):  # fmt: skip
        job = array_job(results=place)
        assert blamed(await submitter.post("/v1/jobs", json=job))[:2] == ("results", place)
        schedule = {"name": "nightly", "cron": "0 3 * * *", "job": job}
        assert blamed(await submitter.post("/v1/schedules", json=schedule))[:2] == ("job.results", place)
    for place in (f"s3://{filled}/open", f"s3://{filled}/open/more/", f"{own}/exports/"):
        await ok(submitter.post("/v1/jobs", json=array_job(results=place)))


async def test_a_queue_is_one_that_is_allowed_and_none_of_a_pool_however_it_is_spelled(
    submitter: httpx.AsyncClient, operator: httpx.AsyncClient, aws: Aws
) -> None:
    free = (await aws.sqs.create_queue(QueueName=f"free-{uuid4().hex}"))["QueueUrl"]
    other = (await aws.sqs.create_queue(QueueName=f"other-{uuid4().hex}"))["QueueUrl"]
    pooled = (await aws.sqs.create_queue(QueueName=f"free-{uuid4().hex}"))["QueueUrl"]
    spelled = pooled.replace("127.0.0.1", "localhost")
    await ok(operator.put("/v1/pools/mine", json={"queue_url": spelled + "/", "dead_letter_url": f"{spelled}?x"}))
    path = pooled.partition("127.0.0.1")[2].partition("/")[2]
    bad = [other, pooled, spelled, f"{pooled}/", f"{pooled}?x", f"{pooled}#x", pooled.replace(f"/{path}", f"//{path}"),
           f"https://sqs.us-east-1.amazonaws.com/{path}", f"https://evil.example/{path}", f"{free}/", f"{free}?x",
           free.replace("127.0.0.1", "localhost")]  # fmt: skip

    for url in bad:
        job = array_job(output_queue=url)
        assert blamed(await submitter.post("/v1/jobs", json=job))[:2] == ("output_queue", url)
        schedule = {"name": "nightly", "cron": "0 3 * * *", "job": job}
        assert blamed(await submitter.post("/v1/schedules", json=schedule))[:2] == ("job.output_queue", url)
        trigger = {"name": "t", "queue_url": url, "job": array_job()}
        assert blamed(await operator.post("/v1/triggers", json=trigger))[:2] == ("queue_url", url)
        trigger = {"name": "t", "queue_url": free, "job": job}
        assert blamed(await operator.post("/v1/triggers", json=trigger))[:2] == ("job.output_queue", url)
    await ok(submitter.post("/v1/jobs", json=array_job(output_queue=free)))


async def test_by_default_a_job_reads_uploads_and_results_and_no_queue(
    submitter: httpx.AsyncClient, settings: Settings, app: Any
) -> None:
    closed: dict[str, Any] = {"read_from": "", "write_to": "", "queues": ""}
    for name, value in closed.items():
        setattr(app.state.settings, name, value)
    for field, job in {
        "input.uri": array_job(input={"type": "lines", "uri": f"s3://{settings.bucket}/own.csv"}),
        "results": array_job(results=f"s3://{settings.bucket}/exports/"),
        "output_queue": array_job(output_queue="http://127.0.0.1:1/000000000000/free-x"),
    }.items():
        field_, _, fix = blamed(await submitter.post("/v1/jobs", json=job))
        assert field_ == field and "PIECEWORK_" in fix


async def test_a_triggers_template_is_checked_where_it_says_the_place(
    operator: httpx.AsyncClient, aws: Aws, filled: str
) -> None:
    queue = (await aws.sqs.create_queue(QueueName=f"free-{uuid4().hex}"))["QueueUrl"]

    def trigger(uri: str) -> dict[str, Any]:
        return {"name": "t", "queue_url": queue, "job": array_job(input={"type": "lines", "uri": uri})}

    refused = await operator.post("/v1/triggers", json=trigger("s3://hr-private/a.csv"))
    assert blamed(refused)[:2] == ("job.input.uri", "s3://hr-private/a.csv")
    await ok(operator.post("/v1/triggers", json=trigger("{uri}")))
