"""For every operation of the services something of anna's that it can be asked for, and the request that asks."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx

from services.platform.aws import Aws
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from tests.groups import create_group
from tests.integration.api.conftest import PlayedWorker, array_job, ok

SHARE = "finance"  # of anna's jobs

_RULE = {"labels": {"kind": "audit"}, "keep": {"records": "10d"}}
_RANGE = {"since": "2026-01-01T00:00:00Z", "until": "2026-03-31T23:59:59Z"}
_ALERT = {"on": {"failed": True}, "to": {"type": "webhook", "url": "https://example.com/x"}}
_RESULT = {"files": [], "manifest": {"name": "manifest.json", "uri": "s3://b/manifest.json", "bytes": 2}}


@dataclass(frozen=True)
class Request:
    """An operation as it is asked for; `subject` is the id that a list of it has."""

    method: str
    path: str
    body: Any = None
    subject: str | None = None

    async def send(self, client: httpx.AsyncClient, headers: dict[str, str] | None = None) -> httpx.Response:
        return await client.request(self.method, self.path, json=self.body, headers=headers)


@dataclass
class Subjects:
    """Makes what anna, a submitter, has; pools and the like are the operator's."""

    anna: httpx.AsyncClient
    operator: httpx.AsyncClient
    worker: PlayedWorker
    aws: Aws
    settings: Settings
    database: Database
    _kept: dict[str, dict[str, str]] = field(default_factory=dict)

    async def request_of(self, operation: str, method: str, path: str) -> Request:
        """The operation's request, of a new subject unless it only reads."""
        kind = path.split("/")[2]
        if method == "GET" and kind in self._kept:
            ids = self._kept[kind]
        else:
            make = getattr(self, f"_{kind.replace('-', '_')}", None)
            ids = await make(operation) if make else {}
            if method == "GET":
                self._kept[kind] = ids
        body = self._body(operation, ids)
        return Request(method, path.format(**ids), body, next(iter(ids.values()), None))

    async def _jobs(self, operation: str) -> dict[str, str]:
        of_items = ("append_items", "cancel_items", "close_job")
        open = {"input": {"type": "stream"}} if operation in of_items else {}
        job = await ok(self.anna.post("/v1/jobs", json=array_job(share=SHARE, **open)))
        job_id = UUID(job["job_id"])
        if operation == "resume_job":
            await ok(self.anna.post(f"/v1/jobs/{job_id}/pause"))
        elif operation in ("retry_job", "delete_job"):
            await self.database.execute("UPDATE jobs SET state = 'failed' WHERE job_id = $1", job_id)
        elif operation == "cancel_items":
            await ok(self.anna.post(f"/v1/jobs/{job_id}/items", json={"chunk": 0, "items": [1]}))
        elif operation not in ("submit_job", "cancel_job", "pause_job", *of_items):
            await self.worker.plan(job_id, 1)
            [task] = await self.worker.claim(job_id, 1)
            await self.worker.finish(task, log="s3://b/log.txt")
            await self.database.execute("UPDATE jobs SET state = 'succeeded' WHERE job_id = $1", job_id)
            await self.database.execute("UPDATE stages SET result = $2 WHERE job_id = $1", job_id, _RESULT)
        return {"job_id": job["job_id"], "stage": "0", "index": "0"}

    async def _schedules(self, operation: str) -> dict[str, str]:
        spec = {"name": f"s-{uuid4().hex}", "cron": "0 2 L * *", "job": array_job(share=SHARE)}
        schedule_id = (await ok(self.anna.post("/v1/schedules", json=spec)))["schedule_id"]
        if operation != "cancel_backfill":
            return {"schedule_id": schedule_id}
        backfill = await ok(self.anna.post(f"/v1/schedules/{schedule_id}/backfills", json=_RANGE))
        return {"schedule_id": schedule_id, "backfill_id": backfill["backfill_id"]}

    async def _triggers(self, _: str) -> dict[str, str]:
        spec = {"name": f"t-{uuid4().hex}", "queue_url": await self._queue(), "job": array_job(share=SHARE)}
        self._queue_url = await self._queue()
        return {"trigger_id": (await ok(self.operator.post("/v1/triggers", json=spec)))["trigger_id"]}

    async def _queue(self) -> str:
        answer = await self.aws.sqs.create_queue(QueueName=f"in-{uuid4().hex}")
        url: str = answer["QueueUrl"]
        return url

    async def _uploads(self, operation: str) -> dict[str, str]:
        upload = await ok(self.anna.post("/v1/uploads", json={"filename": "a.txt", "bytes": 3}))
        if operation == "complete_upload":
            async with httpx.AsyncClient() as s3:
                assert (await s3.put(upload["parts"][0]["url"], content=b"abc")).status_code == 200
        return {"upload_id": upload["upload_id"]}

    async def _processors(self, operation: str) -> dict[str, str]:
        if operation != "delete_processor_version":
            return {"name": "noop"}
        name = f"p-{uuid4().hex}"
        await ok(self.operator.post("/v1/processors", json={"name": name, "builtin": "noop"}))
        return {"name": name, "version": "1"}

    async def _packages(self, operation: str) -> dict[str, str]:
        sha256 = f"{uuid4().hex}{uuid4().hex}"
        await ok(self.operator.post("/v1/packages", json={"sha256": sha256, "bytes": 3}))
        return {"sha256": sha256}

    async def _pools(self, operation: str) -> dict[str, str]:
        if operation == "delete_pool":
            name = f"pool-{uuid4().hex[:8]}"
            await ok(self.operator.put(f"/v1/pools/{name}", json={}))
            return {"name": name}
        if operation != "set_pool_capacity":
            return {"name": "default"}
        group = await create_group(self.aws, maximum=1)
        await ok(self.operator.put("/v1/pools/scaled", json={"group_name": group}))
        return {"name": "scaled"}

    async def _workers(self, _: str) -> dict[str, str]:
        played = PlayedWorker(self.database)
        return {"worker_id": str(await played.register())}

    async def _webhook_endpoints(self, _: str) -> dict[str, str]:
        endpoint = await ok(self.operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/x"}))
        return {"endpoint_id": endpoint["endpoint_id"]}

    async def _webhook_deliveries(self, _: str) -> dict[str, str]:
        endpoint, job = await self._webhook_endpoints(""), await self._jobs("submit_job")
        delivery_id = new_id()
        await self.database.execute(
            "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, next_try_at, "
            "give_up_at) VALUES ($1, $2, $3, 'job.failed', '{}', now() + interval '1 day', now() + interval '1 day')",
            delivery_id,
            UUID(endpoint["endpoint_id"]),
            UUID(job["job_id"]),
        )
        return {"delivery_id": str(delivery_id)}

    async def _alerts(self, _: str) -> dict[str, str]:
        alert = await ok(self.operator.post("/v1/alerts", json={**_ALERT, "name": f"a-{uuid4().hex}"}))
        return {"alert_id": alert["alert_id"]}

    async def _api_keys(self, _: str) -> dict[str, str]:
        key = await ok(self.operator.post("/v1/api-keys", json={"name": "x", "role": "viewer"}))
        return {"key_id": key["key_id"]}

    async def _shares(self, _: str) -> dict[str, str]:
        await ok(self.operator.put(f"/v1/shares/{SHARE}", json={}))
        return {"name": SHARE}

    async def _retention_rules(self, operation: str) -> dict[str, str]:
        name = f"r-{uuid4().hex}"
        await ok(self.operator.put(f"/v1/retention-rules/{name}", json=_RULE))
        return {"name": name}

    def _body(self, operation: str, ids: dict[str, str]) -> Any:
        name = f"n-{uuid4().hex}"
        return {
            "submit_job": array_job(),
            "append_items": {"chunk": 0, "items": [1]},
            "cancel_items": {"items": [0]},
            "preview_split": {"input": {"type": "range", "count": 3}},
            "create_schedule": {"name": name, "cron": "0 2 L * *", "job": array_job()},
            "change_schedule": {"misfire": "skip"},
            "run_schedule": {},
            "create_backfill": _RANGE,
            "create_trigger": {"name": name, "queue_url": getattr(self, "_queue_url", ""), "job": array_job()},
            "create_upload": {"filename": "a.txt", "bytes": 3},
            "complete_upload": {},
            "register_processor": {"name": name, "builtin": "noop"},
            "create_package": {"sha256": "0" * 64, "bytes": 3},
            "put_pool": {},
            "set_pool_capacity": {"min": 0, "max": 1},
            "drain_pool": {"release_not": "0.2.0"},
            "create_webhook_endpoint": {"url": "https://example.com/x"},
            "create_alert": {**_ALERT, "name": name},
            "change_alert": {"paused": True},
            "create_api_key": {"name": name, "role": "viewer"},
            "set_key_quotas": {"jobs_max": 1000},
            "set_share": {"jobs_max": 1000},
            "put_retention_rule": _RULE,
            "rotate_webhook_secret": {},
        }.get(operation)
