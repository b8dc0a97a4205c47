"""Every command: what it asks of the services, what it prints for people and for programs, how it ends."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.client.answers import (
    ATTEMPT,
    JOB_ID,
    LATER,
    LOST,
    NO_TASKS,
    TIME,
    WORKER_ID,
    job,
    job_summary,
    stage,
    task,
)
from tests.unit.client.conftest import KEY, Answer, Run, Service, answer, problem
from tests.unit.client.openapi import operations, schemas

ID = "01970000-0000-7000-8000-00000000000d"

WORKER = {
    "worker_id": WORKER_ID,
    "pool": "default",
    "hostname": "node-1",
    "instance_id": None,
    "instance_type": None,
    "zone": None,
    "market": None,
    "release": "0.2.0",
    "pid": 42,
    "slots": 2,
    "busy": 1,
    "state": "active",
    "isolation": "sandbox",
    "engine": "docker 28.2.2",
    "cpus": 4.0,
    "memory": 17_179_869_184,
    "gpus": 1,
    "disk": 107_374_182_400,
    "started_at": TIME,
    "heartbeat_at": LATER,
    "stopped_at": None,
    "quarantine": None,
    "drain_reason": None,
    "interrupted_at": None,
    "replace_instance": False,
}
ON_EC2 = {**WORKER, "instance_id": "i-1", "instance_type": "m7g.large", "zone": "eu-central-1a", "market": "spot"}
FAILURE_KIND = {
    "fingerprint": "3f2a91c07bd4",
    "attempts": 3600,
    "tasks": 1200,
    "first_at": TIME,
    "last_at": LATER,
    "stage": 0,
    "index": 7,
    "attempt": 1,
    "error": {"type": "exit_code", "message": "no such file"},
    "source": {"uri": "s3://photos/cat.png", "part": None, "objects": None},
}
RULE = {
    "name": "default",
    "labels": {},
    "keep": {"interim": 86400.0, "results": "forever", "records": 7776000.0},
    "created_at": TIME,
}
POOL = {
    "name": "default",
    "queue_url": "http://sqs/q",
    "dead_letter_url": "http://sqs/d",
    "group_name": "grid",
    "capacity_min": 1,
    "capacity_max": 5,
    "capacity_desired": 3,
    "slots": 2,
    "largest_node": None,
    "price_per_hour": 0.4,
    "spot_price_per_hour": None,
    "paused": False,
    "workers_live": 3,
    "slots_live": 6,
    "slots_busy": 4,
    "tasks_ready": 10,
    "tasks_queued": 5,
    "tasks_running": 4,
    "instances": 3,
    "instances_missing": 0,
    "instances_missing_since": None,
    "replacements": 0,
    "replace_at": None,
    "scaling_error": None,
    "scaling_error_since": None,
}
QUOTAS = {
    "name": "nightly",
    "own": {"jobs_max": 10, "tasks_max": None},
    "quotas": [
        {"name": "jobs_max", "limit": 10, "used": 3},
        {"name": "tasks_max", "limit": 1_000_000_000, "used": 12_345_678},
        {"name": "requests_per_second", "limit": 0.5, "used": None},
    ],
}
TRIGGER = {
    "trigger_id": ID,
    "name": "incoming",
    "queue_url": "http://sqs/1/claims-in",
    "prefix": "s3://in/",
    "suffix": "",
    "match": {"type": "job.succeeded"},
    "paused": False,
    "last_job_id": None,
    "last_message_at": None,
    "last_error": "message 1: {uri}: the message has no 'uri'",
    "last_error_at": "2026-01-31T16:00:00Z",
    "unreadable_since": None,
    "lag_seconds": None,
    "created_at": "2026-01-31T17:00:00Z",
    "created_by": "anna",
    "job": {},
}
SCHEDULE = {
    "schedule_id": ID,
    "name": "month-end",
    "cron": "0 6 L * *",
    "time_zone": "Europe/Berlin",
    "misfire": "run_once",
    "overlap": "allow",
    "not_on": ["L * *"],
    "business_days": "next",
    "holidays": ["2026-12-25", "2026-12-26"],
    "paused": False,
    "paused_at": None,
    "next_run_at": LATER,
    "last_run_at": None,
    "last_job_id": None,
    "error": None,
    "runs_skipped": 0,
    "last_skipped_at": None,
    "created_at": TIME,
    "created_by": "anna",
    "job": job()["spec"],
    "upcoming": [LATER],
}
RUN = {
    "scheduled_at": TIME,
    "state": "submitted",
    "origin": "clock",
    "reason": None,
    "error": None,
    "decided_at": TIME,
    "backfill_id": None,
    "job_id": ID,
    "job_state": "succeeded",
    "started_at": TIME,
    "finished_at": TIME,
    "late_seconds": 62.0,
}
BACKFILL = {
    "backfill_id": ID,
    "schedule_id": ID,
    "since": TIME,
    "until": LATER,
    "running_max": 2,
    "runs": {"waiting": 17, "submitted": 3, "skipped": 0, "refused": 0},
    "cancelled": False,
    "created_at": TIME,
    "created_by": "anna",
    "ended_at": None,
}
PROCESSOR = {
    "name": "clean",
    "version": 3,
    "description": "drops cancelled flights",
    "spec": {"records": "flights:clean", "command": None, "output": "clean.csv", "output_format": "csv"},
    "created_at": TIME,
    "created_by": "anna",
}
ENDPOINT = {
    "endpoint_id": ID,
    "url": "https://example.org/hook",
    "events": ["job.failed"],
    "enabled": True,
    "failures": 0,
    "failing_since": None,
    "paused_until": None,
    "last_error": None,
    "disabled_at": None,
    "disabled_reason": None,
    "created_at": TIME,
    "created_by": "anna",
    "previous_until": None,
}
DELIVERY = {
    "delivery_id": ID,
    "endpoint_id": ID,
    "job_id": JOB_ID,
    "event": "job.failed",
    "payload": {"type": "job.failed"},
    "state": "failed",
    "tries": 7,
    "next_try_at": LATER,
    "give_up_at": LATER,
    "status_code": 500,
    "error": "the endpoint answered 500",
    "created_at": TIME,
    "delivered_at": None,
}
ALERT = {
    "alert_id": ID,
    "name": "nightly",
    "on": {"failed": True, "late": 21_600.0, "slowed": None, "rejects": 5},
    "job_id": None,
    "job_name": None,
    "labels": {"team": "finance"},
    "schedule": "night",
    "pool": None,
    "to": {"type": "slack", "address": "hooks.slack.com"},
    "repeat_seconds": 86_400.0,
    "quiet": {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"},
    "urgent": False,
    "paused": False,
    "open_incidents": 3,
    "last_message": "delivered",
    "last_error": None,
    "created_at": TIME,
    "created_by": "anna",
}
ALERT_MESSAGE = {
    "message_id": ID,
    "alert_id": ID,
    "event": "alert.raised",
    "payload": {"data": {"title": "nightly: failed: orders"}},
    "state": "delivered",
    "tries": 2,
    "next_try_at": LATER,
    "give_up_at": LATER,
    "error": None,
    "created_at": TIME,
    "delivered_at": TIME,
}
INCIDENT = {
    "incident_id": ID,
    "alert_id": ID,
    "condition": "late",
    "subject_kind": "schedule",
    "subject": ID,
    "name": "night",
    "job_id": JOB_ID,
    "message": "orders has not ended",
    "times": 4,
    "found_at": TIME,
    "last_at": TIME,
    "told_at": TIME,
    "tell_at": None,
    "over_at": None,
}
CLAIMS = {"type": "lines", "uri": "s3://b/claims.csv", "format": "csv"}
API_KEY = {
    "key_id": ID,
    "name": "nightly",
    "role": "submitter",
    "principal": "anna",
    "all": False,
    "shares": ["finance"],
    "labels": {"team": "claims"},
    "pools": ["large"],
    "priority_max": 10,
    "expires_at": None,
    "last_used_at": TIME,
    "created_at": TIME,
    "created_by": "root",
    "revoked_at": None,
}
UPLOAD = {
    "upload_id": ID,
    "uri": "s3://b/uploads/7/claims.csv",
    "bytes": 5,
    "state": "running",
    "created_by": "anna",
    "created_at": TIME,
    "completed_at": None,
    "aborted_at": None,
}
AUDIT_ENTRY = {
    "audit_id": ID,
    "at": TIME,
    "key_id": ID,
    "principal": "anna",
    "role": "submitter",
    "action": "cancel_job",
    "outcome": "refused",
    "subject_kind": "job",
    "subject": JOB_ID,
    "summary": {"reason": "it belongs to ben"},
    "address": "203.0.113.7",
    "request_id": None,
}
NODES = {"worker_seconds": 7200.0, "unpriced_seconds": 300.0, "nodes": 1.26}
COST = {
    "job_id": JOB_ID,
    "rolled_up_at": TIME,
    **NODES,
    "sqs_requests_max": 0.0012,
    "s3_requests": 0.01,
    "storage_per_month": 0.0,
    "prices_region": "us-east-1",
    "prices_date": "2026-11-30",
    "stages": [
        {"stage": 0, "name": "clean", "pool": "default", **NODES},
        {"stage": 1, "name": "count", "pool": "spot", "worker_seconds": 60.0, "unpriced_seconds": 60.0, "nodes": None},
    ],
}
STATS = {
    "job_id": JOB_ID,
    "name": "flights",
    "state": "running",
    "created_at": TIME,
    "started_at": TIME,
    "finished_at": None,
    "elapsed_seconds": 185.0,
    "rolled_up_at": TIME,
    "progress": {**NO_TASKS, "tasks": 4000, "succeeded": 1234},
    "rate_per_second": 12.5,
    "seconds_left": 221.0,
    "time_spent": None,
    "stages": [
        {
            **stage(),
            "tasks": 4000,
            "progress": {**NO_TASKS, "tasks": 4000, "succeeded": 1234, "failed": 1, "cancelled": 321},
            "rate_per_second": 12.5,
            "seconds_left": None,
            "duration_seconds": {"p50": 0.25, "p95": 1.5, "p99": 12.25, "max": 75.0, "mean": 0.5},
            "attempts_by_outcome": {"succeeded": 1234, "lost": 2},
            "unsuccessful_attempts": {"lost": 2, "timeout": 0},
            "retries": 2,
            "bytes_in": 1_572_864,
            "bytes_out": 1024,
            "records_in": 12_345,
            "records_out": 12_000,
            "records_rejected": 345,
            "worker_seconds": 7300.0,
            "slot_time": {"fetching": 300.0, "running": 6000.0, "putting": 400.0, "unsuccessful": 600.0},
            "time_spent": None,
            "cpu_seconds": 100.0,
            "memory_bytes_peak": 67_108_864,
            "stragglers": [{"index": 17, "worker_id": WORKER_ID, "running_seconds": 90.0}],
        }
    ],
}


def page(*items: Any) -> Any:
    return {"items": list(items), "next_cursor": None}


# Arguments, what they ask for, what is answered, and what people see of it.
COMMANDS: list[tuple[str, str, Any, list[str]]] = [
    ("jobs", "GET /v1/jobs", page(job_summary(state="failed")), ["JOB_ID", "flights", "failed", "3/4"]),
    (
        f"job {JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}",
        job(labels={"team": "claims"}, stages=[stage(succeeded=3, waiting=1)]),
        [JOB_ID, "team=claims", "array of 4 tasks", "clean@1", "3/4"],
    ),
    (
        f"job {JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}",
        job(spec={"input": [{"type": "range", "count": 4}, CLAIMS], "stages": [{"processor": "clean"}]}),
        ["array of 4 tasks", "csv s3://b/claims.csv"],
    ),
    (f"cancel {JOB_ID}", f"POST /v1/jobs/{JOB_ID}/cancel", job("cancelling"), [f"{JOB_ID} cancelling"]),
    (f"pause {JOB_ID}", f"POST /v1/jobs/{JOB_ID}/pause", job("paused"), [f"{JOB_ID} paused"]),
    (f"resume {JOB_ID}", f"POST /v1/jobs/{JOB_ID}/resume", job(), [f"{JOB_ID} running"]),
    (f"retry {JOB_ID}", f"POST /v1/jobs/{JOB_ID}/retry", job(), [f"{JOB_ID} running"]),
    (f"retry {JOB_ID} --latest", f"POST /v1/jobs/{JOB_ID}/retry", job(), [f"{JOB_ID} running"]),
    (
        f"tasks {JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}/tasks",
        page(task(), task(1, "failed", error={"type": "crash", "message": "killed by SIGSEGV"})),
        ["1.5 KiB", "crash: killed by SIGSEGV"],
    ),
    (
        f"task {JOB_ID} 0 1",
        f"GET /v1/jobs/{JOB_ID}/tasks/0/1",
        task(1, "failed", failures=1, attempts=[ATTEMPT]),
        ["12 s", "64.0 MiB", "1.0 MiB", "exit_code: the command ended with exit code 3"],
    ),
    (
        f"task {JOB_ID} 0 2",
        f"GET /v1/jobs/{JOB_ID}/tasks/0/2",
        task(2, attempts=[LOST, ATTEMPT | {"attempt": 2, "outcome": "succeeded", "error": None}]),
        ["output_lost: task 1/2 could not read s3://b/out: the task runs again"],
    ),
    (
        f"cost {JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}/cost",
        COST,
        ["$1.26 and 5 m 00 s of unknown price", "at most $0.0012", "about $0.01", "us-east-1, 2026-11-30", "unknown"],
    ),
    (
        "costs --days 2 --by-label team",
        "GET /v1/stats/costs",
        {"items": [{"day": "2026-11-30", "pool": "default", "label": "red", "attempts": 7} | NODES]},
        ["2026-11-30", "red", "$1.26"],
    ),
    (
        f"stats {JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}/stats",
        STATS,
        [
            "1,234 of 4,000",
            "3 m 05 s",
            "12.5/s",
            "321",
            "0.25 s",
            "2 lost",
            "1.5 MiB",
            "12,345",
            "2 h 01 m",
            "task 0 17 runs",
        ],
    ),
    ("schedules list", "GET /v1/schedules", page(SCHEDULE), [ID, "month-end", "0 6 L * *", "Europe/Berlin"]),
    (
        f"schedules show {ID}",
        f"GET /v1/schedules/{ID}",
        SCHEDULE,
        ["0 6 L * * in Europe/Berlin", "L * *", "next", "2 from 2026-12-25", "run_once"],
    ),
    (f"schedules pause {ID}", f"POST /v1/schedules/{ID}/pause", SCHEDULE, [f"{ID} paused"]),
    (f"schedules resume {ID}", f"POST /v1/schedules/{ID}/resume", SCHEDULE, [f"{ID} active"]),
    (f"schedules delete {ID}", f"DELETE /v1/schedules/{ID}", None, [f"deleted {ID}"]),
    ("schedules show month-end", "GET /v1/schedules/month-end", SCHEDULE, [ID]),
    ("schedules change month-end --misfire skip", "PATCH /v1/schedules/month-end", SCHEDULE, [ID, "month-end"]),
    ("schedules run month-end", "POST /v1/schedules/month-end/runs", RUN, [ID]),
    ("schedules runs month-end", "GET /v1/schedules/month-end/runs", page(RUN), [TIME, ID, "succeeded", "1 m 02 s"]),
    (
        "schedules runs month-end",
        "GET /v1/schedules/month-end/runs",
        page({**RUN, "state": "skipped", "reason": "paused", "job_id": None, "job_state": None}),
        ["skipped", "paused"],
    ),
    ("schedules skip month-end", "POST /v1/schedules/month-end/skip", SCHEDULE, [f"{ID} runs next"]),
    (
        "schedules backfill month-end --from 2026-01-01T00:00Z --to 2026-01-31T00:00+01:00",
        "POST /v1/schedules/month-end/backfills",
        BACKFILL,
        [ID],
    ),
    (
        "schedules backfills month-end",
        "GET /v1/schedules/month-end/backfills",
        page(BACKFILL),
        [ID, TIME, LATER, "17", "active"],
    ),
    (
        f"schedules cancel-backfill month-end {ID}",
        f"POST /v1/schedules/month-end/backfills/{ID}/cancel",
        {**BACKFILL, "runs": {"waiting": 0, "submitted": 3, "skipped": 17, "refused": 0}},
        [f"{ID}: 17 runs are skipped"],
    ),
    ("triggers list", "GET /v1/triggers", page(TRIGGER), [ID, "incoming", "claims-in", "active", "no 'uri'"]),
    (
        f"triggers show {ID}",
        f"GET /v1/triggers/{ID}",
        TRIGGER,
        ["http://sqs/1/claims-in", "s3://in/", "type=job.succeeded"],
    ),
    (f"triggers pause {ID}", f"POST /v1/triggers/{ID}/pause", TRIGGER, [f"{ID} paused"]),
    (f"triggers resume {ID}", f"POST /v1/triggers/{ID}/resume", TRIGGER, [f"{ID} active"]),
    (f"triggers delete {ID}", f"DELETE /v1/triggers/{ID}", None, [f"deleted {ID}"]),
    ("processors list", "GET /v1/processors", page(PROCESSOR), ["clean", "3", "records", "flights:clean"]),
    (
        "processors show clean",
        "GET /v1/processors/clean",
        {**PROCESSOR, "versions": [1, 2, 3]},
        ["clean@3", "1, 2, 3", "drops cancelled flights"],
    ),
    ("pools list", "GET /v1/pools", page(POOL), ["default", "active", "4/6"]),
    ("pools show default", "GET /v1/pools/default", POOL, ["3 desired, between 1 and 5", "http://sqs/q"]),
    (
        "pools show default",
        "GET /v1/pools/default",
        {
            **POOL,
            "instances": 8,
            "instances_missing": 7,
            "instances_missing_since": TIME,
            "replacements": 2,
            "replace_at": LATER,
            "scaling_error": "there is no Auto Scaling group grid",
        },
        ["8, 7 without a worker since", "rounds of replacements: 2, the next at", "no Auto Scaling group grid"],
    ),
    ("pools pause default", "POST /v1/pools/default/pause", POOL, ["default paused"]),
    ("pools resume default", "POST /v1/pools/default/resume", POOL, ["default active"]),
    ("workers list", "GET /v1/workers", page(WORKER), [WORKER_ID, "node-1", "1/2", "active"]),
    ("workers list", "GET /v1/workers", page({**WORKER, "quarantine": "disk full"}), ["OUT OF SERVICE", "disk full"]),
    ("workers list", "GET /v1/workers", page(ON_EC2), ["i-1", "m7g.large", "eu-central-1a", "spot", "0.2.0"]),
    ("workers list", "GET /v1/workers", page({**WORKER, "drain_reason": "too old"}), ["WHY IT DRAINS", "too old"]),
    (f"workers show {WORKER_ID}", f"GET /v1/workers/{WORKER_ID}", ON_EC2, ["i-1, m7g.large, eu-central-1a, spot"]),
    (f"workers show {WORKER_ID}", f"GET /v1/workers/{WORKER_ID}", WORKER, ["1 of 2 busy", "sandbox", "42"]),
    (f"workers show {WORKER_ID}", f"GET /v1/workers/{WORKER_ID}", {**WORKER, "quarantine": "disk full"}, ["disk full"]),
    (
        "workers drain --pool default --release-not 0.2.0 --started-before 2026-11-30T04:00:00 --replace --at-most 2",
        "POST /v1/pools/default/drain",
        {"worker_ids": [WORKER_ID], "draining": 2, "remaining": 3},
        [f"{WORKER_ID} draining", "2 draining, 3 to follow"],
    ),
    (
        f"workers drain {WORKER_ID}",
        f"POST /v1/workers/{WORKER_ID}/drain",
        {**WORKER, "state": "draining"},
        [f"{WORKER_ID} draining"],
    ),
    (
        "webhooks create https://example.org/hook",
        "POST /v1/webhook-endpoints",
        {**ENDPOINT, "secret": "whsec_x"},
        [ID, "whsec_x"],
    ),
    ("webhooks list", "GET /v1/webhook-endpoints", page(ENDPOINT), ["https://example.org/hook", "job.failed", "yes"]),
    (
        f"webhooks show {ID}",
        f"GET /v1/webhook-endpoints/{ID}",
        ENDPOINT,
        [ID, "https://example.org/hook", "job.failed"],
    ),
    (
        f"webhooks rotate {ID} --overlap 1h",
        f"POST /v1/webhook-endpoints/{ID}/rotate",
        {**ENDPOINT, "secret": "whsec_y"},
        ["whsec_y"],
    ),
    (
        "webhooks list",
        "GET /v1/webhook-endpoints",
        page({**ENDPOINT, "enabled": False, "disabled_reason": "it answered 410 Gone"}),
        ["no", "it answered 410 Gone"],
    ),
    (
        f"webhooks show {ID}",
        f"GET /v1/webhook-endpoints/{ID}",
        {**ENDPOINT, "failures": 7, "failing_since": TIME, "paused_until": LATER, "last_error": "answered 500"},
        ["paused", "failing since", "7", "answered 500"],
    ),
    (f"webhooks enable {ID}", f"POST /v1/webhook-endpoints/{ID}/enable", ENDPOINT, [f"{ID} enabled"]),
    (
        f"schedules show {ID}",
        f"GET /v1/schedules/{ID}",
        {**SCHEDULE, "runs_skipped": 266, "last_skipped_at": TIME},
        ["skipped runs", "266", "last skipped"],
    ),
    (
        f"triggers show {ID}",
        f"GET /v1/triggers/{ID}",
        {**TRIGGER, "unreadable_since": TIME, "last_message_at": TIME, "lag_seconds": 75.0},
        ["unreadable since", "1 m 15 s"],
    ),
    (f"webhooks delete {ID}", f"DELETE /v1/webhook-endpoints/{ID}", None, [f"deleted {ID}"]),
    ("webhooks deliveries", "GET /v1/webhook-deliveries", page(DELIVERY), ["500", "the endpoint answered 500"]),
    (f"webhooks redeliver {ID}", f"POST /v1/webhook-deliveries/{ID}/redeliver", DELIVERY, [ID]),
    (
        "alerts create nightly --on failed --slack https://hooks.slack.com/x",
        "POST /v1/alerts",
        {**ALERT, "secret": None},
        [ID],
    ),
    (
        "alerts list",
        "GET /v1/alerts",
        page(ALERT),
        ["failed, late=6 h 00 m, rejects=5", "night, team=finance"],
    ),
    ("alerts list", "GET /v1/alerts", page({**ALERT, "last_error": "answered 404"}), ["answered 404"]),
    ("keys create nightly --role submitter", "POST /v1/api-keys", {**API_KEY, "secret": "pw_x"}, ["pw_x"]),
    (
        "keys list",
        "GET /v1/api-keys",
        page(API_KEY),
        [ID, "nightly", "submitter", "anna", "share finance, label team=claims, pool large, priority up to 10"],
    ),
    ("quotas show", "GET /v1/quotas", QUOTAS, ["1,000,000,000", "12,345,678", "0.5", "own", "default"]),
    (f"quotas show {ID}", f"GET /v1/api-keys/{ID}/quotas", QUOTAS, ["jobs_max", "10", "3"]),
    ("retention list", "GET /v1/retention-rules", page(RULE), ["default", "1d", "forever", "90d"]),
    ("retention show default", "GET /v1/retention-rules/default", RULE, ["default", "1d", "forever", "90d"]),
    ("retention put default --records 90d", "PUT /v1/retention-rules/default", RULE, ["default", "90d"]),
    ("retention delete old", "DELETE /v1/retention-rules/old", None, ["deleted old"]),
    (
        f"failures {JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}/failures",
        {"items": [FAILURE_KIND], "complete": True},
        ["3f2a91c07bd4", "1,200", "s3://photos/cat.png", "exit_code: no such file"],
    ),
    (
        f"tasks {JOB_ID} --slowest --error 3f2a91c07bd4",
        f"GET /v1/jobs/{JOB_ID}/tasks",
        page(task(7, source={"uri": "s3://photos/cat.png", "part": 3, "objects": None})),
        ["s3://photos/cat.png part 3", "3 m 05 s"],
    ),
    (f"hold {JOB_ID}", f"POST /v1/jobs/{JOB_ID}/hold", job("succeeded"), [JOB_ID]),
    (f"release {JOB_ID}", f"POST /v1/jobs/{JOB_ID}/release", job("succeeded"), [JOB_ID]),
    (
        f"delete {JOB_ID}",
        f"DELETE /v1/jobs/{JOB_ID}",
        {"job_id": JOB_ID, "deleted_at": TIME, "results": "delete"},
        ["schedulers delete it now"],
    ),
    ("processors delete clean@2", "DELETE /v1/processors/clean/versions/2", None, ["deleted clean@2"]),
    (f"processors delete-package {'0' * 64}", f"DELETE /v1/packages/{'0' * 64}", None, ["deleted 0"]),
    ("pools delete old", "DELETE /v1/pools/old", None, ["deleted old; its queues stay"]),
    ("shares list", "GET /v1/shares", page({"name": "claims", "own": {"jobs_max": 77}}), ["claims", "77"]),
    ("shares show claims", "GET /v1/shares/claims", QUOTAS, ["jobs_max", "10", "3"]),
    (f"keys revoke {ID}", f"DELETE /v1/api-keys/{ID}", None, [f"revoked {ID}"]),
    (
        "whoami",
        "GET /v1/me",
        API_KEY,
        ["anna", "submitter", "nightly", "share finance, label team=claims, pool large, priority up to 10"],
    ),
    ("audit", "GET /v1/audit", page(AUDIT_ENTRY), ["anna", "cancel_job", "refused", JOB_ID, "belongs to ben"]),
    ("uploads list", "GET /v1/uploads", page(UPLOAD), [ID, "claims.csv", "running", "anna"]),
    (f"uploads abort {ID}", f"DELETE /v1/uploads/{ID}", None, [f"aborted {ID}"]),
]
each_command = pytest.mark.parametrize(
    ("arguments", "route", "shape", "seen"), COMMANDS, ids=[arguments for arguments, *_ in COMMANDS]
)


@each_command
def test_people_see_what_matters(
    arguments: str, route: str, shape: Any, seen: list[str], run: Run, service: Service
) -> None:
    service.on(*route.split(" ", 1), answer(shape, 204 if shape is None else 200))
    result = run(*arguments.split())
    assert result.exit_code == 0
    for text in seen:
        assert text in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())
    assert [f"{asked.method} {asked.path}" for asked in service.asked] == [route]


@each_command
def test_the_answers_here_are_those_of_the_services(arguments: str, route: str, shape: Any, seen: list[str]) -> None:
    [operation] = [one for one in operations() if one.is_asked_by(route)]
    if operation.answer is None:
        assert shape is None
    else:
        jsonschema.validate(
            shape, {"$ref": f"#/components/schemas/{operation.answer}", "components": {"schemas": schemas()}}
        )


@each_command
def test_programs_get_json_and_nothing_else(
    arguments: str, route: str, shape: Any, seen: list[str], run: Run, service: Service
) -> None:
    service.on(*route.split(" ", 1), answer(shape, 204 if shape is None else 200))
    after = run(*arguments.split(), "--json")
    before = run("--json", *arguments.split())
    assert json.loads(after.stdout) == json.loads(before.stdout) == ({} if shape is None else shape)
    assert after.stderr == before.stderr == ""


@each_command
def test_each_ends_with_the_problem(
    arguments: str, route: str, shape: Any, seen: list[str], run: Run, service: Service
) -> None:
    service.on(*route.split(" ", 1), problem(403, "this needs the role operator"))
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "error: this needs the role operator\n"


def test_global_options_work_everywhere(service: Service, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    service.on("GET", "/v1/pools", answer(page(POOL)))
    monkeypatch.setenv("PIECEWORK_API_URL", "http://127.0.0.1:9")
    options = ["--api-url", service.url, "--api-key", "pw_other"]
    for arguments in (
        [*options, "pools", "list"],
        ["pools", *options, "list"],
        ["pools", "list", *options],
        ["--api-key", "pw_no", "pools", "list", *options],
    ):
        assert run(*arguments).exit_code == 0
    assert {asked.headers["authorization"] for asked in service.asked} == {"Bearer pw_other"}


@pytest.mark.parametrize(
    ("status", "code"), [(400, 2), (401, 4), (403, 4), (404, 3), (409, 6), (413, 2), (422, 2), (500, 5), (503, 5)]
)
def test_scripts_can_tell_failures_apart(status: int, code: int, run: Run, service: Service) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", problem(status, "because"))
    result = run("job", JOB_ID)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("error: because")


def test_a_missing_key_says_where_keys_come_from(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", problem(401, "this API key is unknown or revoked"))
    assert "(the key comes from PIECEWORK_API_KEY)" in run("jobs").stderr
    assert "(the key comes from --api-key)" in run("jobs", "--api-key", "pw_other").stderr
    without = run("jobs", env={"PIECEWORK_API_KEY": ""}).stderr
    assert f"(there is no key for {service.url}: piecework login stores one)" in without


def test_an_unreachable_service_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = Service()
    monkeypatch.setenv("PIECEWORK_API_URL", unreachable.url)
    result = run("jobs")
    assert result.exit_code == 5
    assert result.stderr.startswith(f"error: can't reach the API at {unreachable.url}: ")
    assert result.stderr.endswith("; is it running? The URL: PIECEWORK_API_URL\n")
    assert "Errno" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("job", "'JOB'"),
        ("jbos", "No such command 'jbos'. Did you mean 'jobs'?"),
        ("jobs --limit 0", "'--limit'"),
        ("jobs --state done", "'done' is not one of 'scheduled'"),
        ("jobs --label team", "--label: 'team' is not KEY=VALUE"),
        (f"task {JOB_ID} 0", "INDEX"),
        ("pools capacity default", "--min, --max, --desired: give at least one of them"),
        ("keys create x", "--role"),
        ("processors show clean@new", "'clean@new' is not NAME or NAME@VERSION"),
        ("processors delete clean", "name the one to delete, such as clean@1"),
        ("--api-url nowhere jobs", "api_url: 'nowhere' is not a URL"),
    ],
)
def test_bad_usage_is_one_line(arguments: str, message: str, run: Run, service: Service) -> None:
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not service.asked


def test_a_job_that_has_ended_says_where_its_time_went(run: Run, service: Service) -> None:
    spent = dict.fromkeys(("scheduled", "planning", "fetching", "putting", "retrying", "cancelling"), 0.0)
    spent |= {"queued": 30.0, "running": 60.0, "merging": 10.0}
    stages = [STATS["stages"][0] | {"time_spent": spent | {"merging": 0.0}}]
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("succeeded", [stage(state="succeeded", succeeded=4)])))
    service.on("GET", f"/v1/jobs/{JOB_ID}/stats", answer(STATS | {"time_spent": spent, "stages": stages}))
    *_, head, queued, running, merging = (line.split() for line in run("job", JOB_ID).stdout.splitlines())
    assert head == ["TIME", "JOB", "SHARE", "clean"]
    assert queued == ["queued", "30", "s", "30%", "30", "s"]
    assert running == ["running", "1", "m", "00", "s", "60%", "1", "m", "00", "s"]
    assert merging == ["merging", "10", "s", "10%", "-"]


def test_a_job_that_has_ended_is_shown_without_the_stats_service_too(run: Run, service: Service) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("succeeded", [stage(state="succeeded", succeeded=4)])))
    service.on("GET", f"/v1/jobs/{JOB_ID}/stats", problem(404, "there is no such path"))
    result = run("job", JOB_ID)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "4/4" in result.stdout


def test_a_job_accounts_for_all_its_tasks(run: Run, service: Service) -> None:
    counts = {"succeeded": 18, "failed": 1, "cancelled": 2, "running": 3, "queued": 4, "ready": 5, "waiting": 7}
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("cancelling", [stage(task_count=40, **counts)])))
    heads, cells = (line.split() for line in run("job", JOB_ID).stdout.splitlines()[-2:])
    shown = dict(zip(heads, cells, strict=True))
    assert [shown[head] for head in ("DONE", "FAILED", "CANCELLED", "RUNNING", "QUEUED", "WAITING")] == [
        "18/40", "1", "2", "3", "9", "7",
    ]  # fmt: skip


def test_a_job_says_what_of_its_records_does_not_come_out_even(run: Run, service: Service) -> None:
    records = {"in": 1000, "out": 998, "rejected": 0, "filtered": 0, "added": 0, "balanced": False}
    warning = "stage clean: 1,000 records in, 998 out, 0 rejected: 2 are unaccounted for"
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job(stages=[stage() | {"records": records}], warnings=[warning])))
    lines = run("job", JOB_ID).stdout.splitlines()
    assert f"warning  {warning}" in lines
    assert lines[-1].endswith("  1,000 in, 998 out")


def test_jobs_are_filtered_by_the_api(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page()))
    run("jobs", "--state", "failed", "--name", "x", "--label", "a=1", "--label", "b=2", "--schedule", ID)
    assert service.asked[0].query == {
        "state": ["failed"],
        "name": ["x"],
        "label": ["a:1", "b:2"],
        "schedule_id": [ID],
        "limit": ["50"],
    }


def test_a_long_listing_says_that_there_is_more(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer({"items": [job_summary(1), job_summary(2)], "next_cursor": "c"}))
    result = run("jobs")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "only the first 2 are shown; --all shows all\n"
    assert run("jobs", "--limit", "2").stderr == ""  # as was asked for
    assert json.loads(run("jobs", "--limit", "2", "--json").stdout)["next_cursor"] == "c"


def test_all_follows_the_pages(run: Run, service: Service) -> None:
    first = answer({"items": [job_summary(1)], "next_cursor": "c"})
    service.on("GET", "/v1/jobs", first, answer(page(job_summary(2))))
    listing = json.loads(run("jobs", "--all", "--json").stdout)
    assert [each["job_id"][-1] for each in listing["items"]] == ["1", "2"]
    assert listing["next_cursor"] is None


def test_a_pipe_gets_whole_values_however_narrow_the_terminal(run: Run, service: Service) -> None:
    name = "a-very-long-name-of-a-job-" * 10
    service.on("GET", "/v1/jobs", answer(page(job_summary(1, name=name))))
    result = run("jobs")
    assert name in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_logs_are_printed_as_they_are(run: Run, service: Service) -> None:
    log = {"attempt": 2, "uri": "s3://b/log.txt", "url": f"{service.url}/log"}
    service.on("GET", f"/v1/jobs/{JOB_ID}/tasks/1/17/log", answer(log))
    service.on("GET", "/log", Answer(content=b"line\n\xff[bold]\n"))
    assert run("logs", JOB_ID, "1", "17", "--attempt", "2").stdout_bytes == b"line\n\xff[bold]\n"
    assert service.asked[0].query == {"attempt": ["2"]}
    assert json.loads(run("logs", JOB_ID, "1", "17", "--json").stdout) == {**log, "text": "line\n\ufffd[bold]\n"}


@pytest.fixture
def results(service: Service) -> Any:
    names = {"delays.json": b'{"AA": 1}', "manifest.json": b"{}"}
    files = [
        {"name": name, "uri": f"s3://b/{name}", "bytes": len(content), "url": f"{service.url}/{name}"}
        for name, content in names.items()
    ]
    files[0]["checksum_crc32"] = "/eej+w=="
    for name, content in names.items():
        service.on("GET", f"/{name}", Answer(content=content))
    results = {"job_id": JOB_ID, "files": files[:1], "manifest": files[1]}
    service.on("GET", f"/v1/jobs/{JOB_ID}/results", answer(results))
    return results


def test_results_are_listed(run: Run, results: Any) -> None:
    assert [line.split() for line in run("results", JOB_ID).stdout.splitlines()] == [
        ["NAME", "SIZE", "URI", "CRC-32"],
        ["delays.json", "9", "B", "s3://b/delays.json", "/eej+w=="],
        ["manifest.json", "2", "B", "s3://b/manifest.json", "-"],
    ]
    assert json.loads(run("results", JOB_ID, "--json").stdout) == results


@pytest.mark.parametrize(
    ("size", "note"),
    [(90, "the job has left no files\n"), (200_000, "there are too many parts to list: the manifest has them\n")],
)
def test_results_without_files_say_why(size: int, note: str, run: Run, service: Service) -> None:
    manifest = {"name": "manifest.json", "uri": "s3://b/manifest.json", "bytes": size, "url": f"{service.url}/m"}
    service.on("GET", f"/v1/jobs/{JOB_ID}/results", answer({"job_id": JOB_ID, "files": [], "manifest": manifest}))
    assert run("results", JOB_ID).stderr == note


def test_results_are_downloaded(run: Run, results: Any) -> None:
    result = run("results", JOB_ID, "--download", "out")
    assert result.stdout.splitlines() == ["out/delays.json", "out/manifest.json"]
    assert Path("out/delays.json").read_bytes() == b'{"AA": 1}'
    first, last = result.stderr.splitlines()
    assert first == "downloading 2 files: 11 B"
    assert last.startswith("downloading 2 files: 11 B, done in ")


def test_a_directory_that_cannot_be_made_is_one_line(run: Run, results: Any) -> None:
    Path("out").touch()
    result = run("results", JOB_ID, "--download", "out")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, "error: out: File exists")


def test_an_upload_prints_the_uri(run: Run, service: Service) -> None:
    Path("claims.csv").write_bytes(b"a,b\n1")
    part = {"number": 1, "bytes": 5, "url": f"{service.url}/part"}
    upload = {"upload_id": "u", "uri": "s3://b/claims.csv", "part_bytes": 5, "parts": [part]}
    service.on("POST", "/v1/uploads", answer(upload, 201))
    service.on("PUT", "/part", Answer(headers={"etag": '"e"'}))
    service.on("POST", "/v1/uploads/u/complete", answer({"upload_id": "u", "uri": "s3://b/claims.csv", "bytes": 5}))
    assert run("upload", "claims.csv").stdout == "s3://b/claims.csv\n"


def test_a_trigger_is_made_of_a_job_file(run: Run, service: Service) -> None:
    Path("job.yaml").write_text("input: {type: lines, uri: '{uri}'}\nstages: [processor: noop]")
    service.on("POST", "/v1/triggers", answer(TRIGGER, 201))
    options = ("--queue", "http://sqs/1/claims-in", "--prefix", "s3://in/", "--match", "data.n=1")
    assert run("triggers", "create", "incoming", "job.yaml", *options).stdout == f"{ID}\n"
    assert service.asked[0].body == {
        "name": "incoming",
        "queue_url": "http://sqs/1/claims-in",
        "prefix": "s3://in/",
        "suffix": "",
        "match": {"data.n": 1},
        "job": {"name": "noop", "input": {"type": "lines", "uri": "{uri}"}, "stages": [{"processor": "noop"}]},
    }


def test_a_schedule_is_made_of_a_job_file(run: Run, service: Service) -> None:
    Path("job.yaml").write_text("input: {type: range, count: 1}\nstages: [processor: noop]")
    service.on("POST", "/v1/schedules", answer(SCHEDULE, 201))
    assert run("schedules", "create", "month-end", "job.yaml", "--cron", "0 6 L * *").stdout == f"{ID}\n"
    assert service.asked[0].body == {
        "name": "month-end",
        "cron": "0 6 L * *",
        "time_zone": "UTC",
        "misfire": "run_once",
        "overlap": "allow",
        "not_on": [],
        "business_days": None,
        "ical": None,
        "job": {"name": "noop", "input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}]},
    }


def test_an_old_version_of_a_processor_is_shown_by_its_name(run: Run, service: Service) -> None:
    service.on("GET", "/v1/processors/clean", answer({**PROCESSOR, "versions": [1, 2, 3]}))
    assert run("processors", "show", "clean@2").exit_code == 0
    assert service.asked[0].query["version"] == ["2"]


def test_a_schedule_is_changed_in_what_is_given(run: Run, service: Service) -> None:
    Path("job.yaml").write_text("input: {type: range, count: 1}\nstages: [processor: noop]")
    service.on("PATCH", "/v1/schedules/month-end", answer(SCHEDULE))
    run("schedules", "change", "month-end", "--name", "ultimo", "--job", "job.yaml")
    assert service.asked[0].body == {
        "name": "ultimo",
        "job": {"name": "noop", "input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}]},
    }
    Path("berlin.ics").write_text("BEGIN:VCALENDAR")
    calendar = ("--not-on", "L * *", "--not-on", "holidays", "--business-days", "previous", "--holidays", "berlin.ics")
    run("schedules", "change", "month-end", *calendar)
    assert service.asked[1].body == {
        "not_on": ["L * *", "holidays"],
        "business_days": "previous",
        "ical": "BEGIN:VCALENDAR",
    }
    nothing = run("schedules", "change", "month-end")
    assert nothing.exit_code == 2 and "nothing to change: give --name" in nothing.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("schedules", "create", "nightly", "job.yaml", "--cron", "0 6 * * *"),
        ("schedules", "change", "nightly", "--job", "job.yaml"),
        ("submit", "job.yaml", "--cron", "0 6 * * *"),
    ],
)
@pytest.mark.parametrize(
    "input", ["{type: lines, uri: claims.csv}", "[{type: lines, uri: 's3://b/k'}, {type: files, prefix: in}]"]
)
def test_a_schedule_can_not_read_a_file_of_this_machine(
    run: Run, service: Service, command: tuple[str, ...], input: str
) -> None:
    Path("claims.csv").write_text("a,b")
    Path("in").mkdir()
    Path("job.yaml").write_text(f"input: {input}\nstages: [processor: noop]")
    refused = run(*command)
    assert refused.exit_code == 2
    assert "can't read a file of this machine" in refused.stderr and "piecework upload" in refused.stderr
    assert service.asked == []


def test_times_of_a_schedule_are_those_of_its_zone(run: Run, service: Service) -> None:
    shown = {**SCHEDULE, "upcoming": ["2026-07-31T04:00:00Z", "2026-12-31T05:00:00Z"]}
    service.on("GET", "/v1/schedules/month-end", answer(shown))
    output = run("schedules", "show", "month-end").stdout
    assert "2026-07-31 06:00:00 CEST" in output and "2026-12-31 06:00:00 CET" in output


def test_days_of_a_backfill_are_those_of_the_schedules_zone(run: Run, service: Service) -> None:
    service.on("GET", "/v1/schedules/month-end", answer(SCHEDULE))
    service.on("POST", "/v1/schedules/month-end/backfills", answer(BACKFILL, 201))
    options = ("--from", "2026-03-01", "--to", "2026-03-31", "--running-max", "2")
    result = run("schedules", "backfill", "month-end", *options)
    assert result.stdout == f"{ID}\n" and "17 runs wait for their turns" in result.stderr
    [asked] = service.requests("POST", "/v1/schedules/month-end/backfills")
    assert asked.body == {
        "since": "2026-03-01T00:00:00+01:00",
        "until": "2026-03-31T23:59:59+02:00",
        "running_max": 2,
    }
    bad = run("schedules", "backfill", "month-end", "--from", "January", "--to", "2026-03-31")
    assert bad.exit_code == 2 and "--from: 'January' is not a time" in bad.stderr


def test_a_processor_is_registered_from_options(run: Run, service: Service) -> None:
    service.on("POST", "/v1/processors", answer(PROCESSOR, 201))
    Path("schema.yaml").write_text("type: object\nrequired: [bitrate]")
    result = run(
        "processors", "register", "clean", "--command", "ffmpeg -i {input} -metadata 'title=a b' {output}",
        "--output", "video.mp4", "--env", "TMP=/x", "--params-schema", "schema.yaml", "--description", "transcodes",
    )  # fmt: skip
    assert result.stdout == "clean@3\n"
    assert service.asked[0].body == {
        "name": "clean",
        "description": "transcodes",
        "command": ["ffmpeg", "-i", "{input}", "-metadata", "title=a b", "{output}"],
        "output": "video.mp4",
        "environment": {"TMP": "/x"},
        "params_schema": {"type": "object", "required": ["bitrate"]},
    }


def test_options_can_say_all_that_a_processors_file_can(run: Run, service: Service) -> None:
    service.on("POST", "/v1/processors", answer(PROCESSOR, 201))
    Path("schema.json").write_text('{"type": "object"}')
    options = (
        "--image i --entrypoint e --command run --callable a:b --records a:c --sql q --builtin noop --package abc "
        "--input fees --input a=s3://b/a --output o --output-directory --output-optional --further-output log=log.csv "
        "--output-format csv --filters --env A=1 --secret B=env:B --idempotent --no-network --share-children "
        "--function a:d --params-schema schema.json --description words --allow-option x"
    )
    assert run("processors", "register", "clean", *options.split()).exit_code == 0
    body = service.asked[0].body
    assert body.keys() == schemas()["ProcessorRegistration"]["properties"].keys()
    assert (body["inputs"], body["outputs"]) == ({"fees": None, "a": "s3://b/a"}, {"log": "log.csv"})
    assert body["output_required"] is False
    assert body["network"] is False
    assert body["secrets"] == {"B": "env:B"}


def test_a_processor_is_registered_from_a_file(run: Run, service: Service) -> None:
    service.on("POST", "/v1/processors", answer(PROCESSOR, 201))
    Path("clean.yaml").write_text("name: clean\nrecords: flights:clean\ndescription: from the file\n")
    assert run("processors", "register", "clean", "clean.yaml", "--output-format", "csv").exit_code == 0
    assert service.asked[0].body == {
        "name": "clean",
        "description": "from the file",
        "records": "flights:clean",
        "output_format": "csv",
    }
    other = run("processors", "register", "other", "clean.yaml")
    assert other.exit_code == 2
    assert "name: the file says 'clean', the command 'other'" in other.stderr


@pytest.mark.parametrize(
    ("options", "quotas"),
    [
        (["--tasks-max", "5"], {"jobs_max": 10, "tasks_max": 5}),
        (["--jobs-max", "5"], {"jobs_max": 5}),
        (["--reset", "--tasks-max", "5"], {"tasks_max": 5}),
        (["--reset"], {}),
    ],
)
@pytest.mark.parametrize(
    ("command", "path"),
    [(["quotas", "set", ID], f"/v1/api-keys/{ID}/quotas"), (["shares", "set", "claims"], "/v1/shares/claims")],
)
def test_quotas_that_are_not_given_stay_unless_they_are_reset(
    command: list[str], path: str, options: list[str], quotas: dict[str, int], run: Run, service: Service
) -> None:
    service.on("GET", path, answer(QUOTAS))
    service.on("PUT", path, answer(QUOTAS))

    assert "jobs_max" in run(*command, *options).stdout

    assert service.asked[-1].body == quotas


def test_a_pool_is_put(run: Run, service: Service) -> None:
    service.on("PUT", "/v1/pools/big", answer({**POOL, "name": "big"}))
    assert "big" in run("pools", "put", "big", "--group", "grid", "--slots", "8").stdout
    assert service.asked[0].body == {"group_name": "grid", "slots": 8}


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ([], ["active", "draining"]),
        (["--state", "lost"], ["lost"]),
        (["--all"], []),
        (["--all", "--state", "stopped"], ["stopped"]),
    ],
)
def test_workers_of_the_past_are_listed_on_request(
    options: list[str], states: list[str], run: Run, service: Service
) -> None:
    service.on("GET", "/v1/workers", answer(page(WORKER)))
    assert run("workers", "list", *options).exit_code == 0
    assert service.asked[0].query.get("state", []) == states


def test_capacity_keeps_what_is_not_given(run: Run, service: Service) -> None:
    service.on("GET", "/v1/pools/default", answer(POOL))
    service.on("PUT", "/v1/pools/default/capacity", answer({**POOL, "capacity_max": 9}))
    result = run("pools", "capacity", "default", "--max", "9")
    assert result.stdout == "default: 3 desired, between 1 and 9\n"
    assert service.asked[-1].body == {"min": 1, "max": 9}


def test_webhooks_can_choose_their_events(run: Run, service: Service) -> None:
    service.on("POST", "/v1/webhook-endpoints", answer({**ENDPOINT, "secret": "whsec_x"}, 201))
    run("webhooks", "create", "https://example.org", "--event", "job.failed", "--event", "job.cancelled")
    assert service.asked[0].body == {"url": "https://example.org", "events": ["job.failed", "job.cancelled"]}


def test_an_alert_is_made_of_its_options(run: Run, service: Service) -> None:
    service.on("POST", "/v1/alerts", answer({**ALERT, "secret": "whsec_x"}, 201))
    conditions = ("--on", "failed", "--on", "late=6h", "--on", "slowed=2", "--on", "rejects=100")
    scope = (
        "--schedule",
        "night",
        "--label",
        "team=finance",
        "--quiet-hours",
        "22:00-07:00",
        "--time-zone",
        "Europe/Berlin",
    )
    told = run(
        "alerts", "create", "nightly", *conditions, *scope, "--webhook", "https://example.org", "--repeat", "never"
    )
    assert "whsec_x" in told.stdout
    assert service.asked[0].body == {
        "name": "nightly",
        "on": {"failed": True, "late": "6h", "slowed": 2.0, "rejects": 100},
        "to": {"type": "webhook", "url": "https://example.org"},
        "schedule": "night",
        "labels": {"team": "finance"},
        "quiet": {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"},
        "repeat_seconds": None,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--on", "late", "--slack", "https://x"], "write late=LIMIT, such as late=6h"),
        (["--on", "failed=yes", "--slack", "https://x"], "failed takes no value"),
        (["--on", "rejects=few", "--slack", "https://x"], "'few' is not a number"),
        ([], "say who is told"),
        (["--slack", "https://x", "--email", "a@example.com"], "an alert has one receiver"),
        (["--slack", "https://x", "--quiet-hours", "22:00"], "write two times, such as 22:00-07:00"),
    ],
)
def test_options_of_alerts_that_make_no_sense_are_refused(run: Run, options: list[str], said: str) -> None:
    refused = run("alerts", "create", "nightly", *options)
    assert refused.exit_code == 2 and said in refused.stderr


ALERT_COMMANDS = [
    ("show nightly", f"GET /v1/alerts/{ID}", ALERT, ["22:00-07:00 in Europe/Berlin", "slack hooks.slack.com"]),
    ("pause nightly", f"PATCH /v1/alerts/{ID}", {**ALERT, "secret": None}, ["nightly paused"]),
    ("resume nightly", f"PATCH /v1/alerts/{ID}", {**ALERT, "secret": None}, ["nightly active"]),
    ("delete nightly", f"DELETE /v1/alerts/{ID}", None, ["deleted nightly"]),
    (
        "messages nightly",
        f"GET /v1/alerts/{ID}/messages",
        page(ALERT_MESSAGE),
        ["nightly: failed: orders", "delivered"],
    ),
    ("incidents nightly", f"GET /v1/alerts/{ID}/incidents", page(INCIDENT), ["schedule night", "orders has not ended"]),
]


@pytest.mark.parametrize(
    ("command", "route", "body", "shown"), ALERT_COMMANDS, ids=[each[0] for each in ALERT_COMMANDS]
)
def test_an_alert_is_found_by_its_name(
    run: Run, service: Service, command: str, route: str, body: Any, shown: list[str]
) -> None:
    service.on("GET", "/v1/alerts", answer(page(ALERT)))
    method, path = route.split(" ")
    service.on(method, path, answer(body, 204) if body is None else answer(body))
    told = run("alerts", *command.split(" "))
    assert all(text in told.stdout for text in shown)
    assert service.asked[0].query["name"] == ["nightly"]


def test_a_trial_message_tells_whether_it_arrived(run: Run, service: Service) -> None:
    service.on("GET", "/v1/alerts", answer(page(ALERT)))
    service.on("POST", f"/v1/alerts/{ID}/test", answer({**ALERT_MESSAGE, "state": "pending"}, 202))
    service.on("GET", f"/v1/alerts/{ID}/messages", answer(page(ALERT_MESSAGE)))
    assert "delivered" in run("alerts", "test", "nightly").stdout
    partly = {**ALERT_MESSAGE, "error": "the server refused left@example.com"}
    service.on("GET", f"/v1/alerts/{ID}/messages", answer(page(partly)))
    assert "delivered, but the server refused left@example.com" in run("alerts", "test", "nightly").stdout
    failed = {**ALERT_MESSAGE, "state": "pending", "error": "answered 404"}
    service.on("GET", f"/v1/alerts/{ID}/messages", answer(page(failed)))
    refused = run("alerts", "test", "nightly")
    assert refused.exit_code == 5 and "not delivered: answered 404" in refused.stdout


def test_help_tells_the_exit_codes(run: Run) -> None:
    text = " ".join(run("--help").stdout.split())
    for meaning in ("1 the watched job failed", "2 bad option", "3 there is no such", "5 the service can't be reached"):
        assert meaning in text


def test_without_a_command_help_is_shown(run: Run) -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (2, "")
    for panel in ("Jobs", "Code and data", "The grid", "Access"):
        assert f"─ {panel} ─" in result.stdout


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_it_runs_as_a_module(service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary(1))))
    done = python("-m", "piecework", "jobs", "--json", PIECEWORK_API_URL=service.url, PIECEWORK_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["items"]) == 1
    assert python("-m", "piecework", "--version").stdout.startswith("piecework ")


def test_shells_can_complete_commands_and_choices() -> None:
    environment = {"_PIECEWORK_COMPLETE": "complete_bash", "COMP_WORDS": "piecework jobs --state f", "COMP_CWORD": "3"}
    assert python("-m", "piecework", **environment).stdout.split() == ["failing", "failed"]


def test_help_does_not_wait_for_the_http_library() -> None:
    check = "import sys, piecework.cli; sys.exit(bool({'httpx', 'rich', 'yaml'} & sys.modules.keys()))"
    assert python("-c", check).returncode == 0


def test_a_closed_pipe_is_not_a_traceback(service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(*(job_summary(number) for number in range(500)))))
    command = f"{sys.executable} -m piecework jobs --api-url {service.url} --api-key {KEY} | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("JOB_ID")
    assert done.stderr == ""


def test_a_job_shows_the_jobs_that_it_runs_after_and_how_they_ended(service: Service, run: Run) -> None:
    before = [
        {"job_id": WORKER_ID, "condition": "succeeded", "by_index": True, "ended": "succeeded"},
        {"job_id": JOB_ID, "condition": "any", "by_index": False, "ended": None},
    ]
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("scheduled", predecessors=before)))
    lines = [line.split(maxsplit=1) for line in run("job", JOB_ID).stdout.splitlines()]
    assert [rest for name, rest in filter(lambda line: len(line) == 2, lines) if name == "after"] == [
        f"{WORKER_ID}:index (succeeded)",
        f"{JOB_ID}:any (has not ended)",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sort {input} | uniq > {output}", "|"),
        ("sort {input} >{output}", ">{output}"),
        ("x {input} 2>&1", "2>&1"),
        ("a && b", "&&"),
        ("cat < {input}", "<"),
    ],
)
def test_a_command_for_a_shell_is_refused_unless_one_is_named(
    run: Run, service: Service, text: str, found: str
) -> None:
    service.on("POST", "/v1/processors", answer({"name": "x", "version": 1}, 201))
    result = run("processors", "register", "x", "--command", text)
    assert result.exit_code == 2
    assert f"commands run without a shell, so '{found}' would be an argument: write sh -c " in result.stderr
    assert service.requests("POST", "/v1/processors") == []

    run("processors", "register", "x", "--command", f"sh -c {shlex.quote(text)}")
    assert service.requests("POST", "/v1/processors")[0].body["command"] == ["sh", "-c", text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pip install 'a' >=1.0", ["pip", "install", "a", ">=1.0"]),
        ("x '|' \">\" a|b <tag> ;", ["x", "|", ">", "a|b", "<tag>", ";"]),
        ("expr 1 > 2", ["expr", "1", ">", "2"]),
    ],
)
def test_what_only_looks_like_a_shells_is_taken(run: Run, service: Service, text: str, words: list[str]) -> None:
    service.on("POST", "/v1/processors", answer({"name": "x", "version": 1}, 201))
    run("processors", "register", "x", "--command", text)
    assert service.requests("POST", "/v1/processors")[0].body["command"] == words


def test_a_command_in_a_file_may_be_one_line(run: Run, service: Service) -> None:
    Path("code").mkdir()
    service.on("POST", "/v1/packages", answer({"sha256": "0" * 64, "url": None}))
    service.on("POST", "/v1/processors", answer({"name": "sort", "version": 1}, 201))
    Path("code/processor.yaml").write_text('name: sort\ncommand: sort -k "1 2" {input}\n')
    assert run("processors", "push", "code").exit_code == 0
    assert service.requests("POST", "/v1/processors")[0].body["command"] == ["sort", "-k", "1 2", "{input}"]
    Path("code/processor.yaml").write_text("name: sort\ncommand: sort {input} | uniq > {output}\n")
    refused = run("processors", "push", "code")
    assert refused.exit_code == 2 and "code/processor.yaml: command: commands run without a shell" in refused.stderr


def test_requirements_without_a_hash_are_refused_before_anything_is_pushed(run: Run, service: Service) -> None:
    Path("code/processors").mkdir(parents=True)
    Path("code/processors/a.yaml").write_text("callable: a:b\n")
    service.on("POST", "/v1/packages", answer({"sha256": "0" * 64, "url": None}))
    service.on("POST", "/v1/processors", answer({"name": "a", "version": 1}, 201))
    hashed = "# all of it\n--index-url https://packages.example/simple\na==1 \\\n  --hash=sha256:00  # here\n\n"
    for text, refused in ((hashed, ""), (f"{hashed}Pillow==10.0\n", "'Pillow==10.0' has no hash")):
        service.asked.clear()
        Path("code/requirements.txt").write_text(text)
        result = run("processors", "push", "code")
        assert (result.exit_code, refused in result.stderr) == (2 if refused else 0, True), result.stderr
        assert bool(service.asked) != bool(refused)


JOB_FILE = """\
name: flights
input: {type: lines, uri: s3://b/flights.csv}
stages:
  - processor: clean
    pool: nope
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            {"field": "stages.0.pool", "value": "nope", "message": "no such pool (pools: default)"},
            "job.yaml:5:11: stages.0.pool: no such pool (pools: default) (got 'nope')",
        ),
        (
            {"field": "stages.0.name", "value": {"pool": "nope"}, "message": "Field required"},
            "job.yaml:4:5: stages.0.name: Field required (got {'pool': 'nope'})",
        ),
        (
            {"field": "stages.0.retry.max_attempts", "value": None, "message": "Field required"},
            "job.yaml:4:5: stages.0.retry.max_attempts: Field required",
        ),
        # What the file does not have, or has otherwise, an option said.
        (
            {"field": "stages.0.pool", "value": "big", "message": "no such pool"},
            "stages.0.pool: no such pool (got 'big')",
        ),
        ({"field": "stages.0.cpus", "value": -1, "message": "too small"}, "stages.0.cpus: too small (got -1)"),
        ({"field": "priority", "value": 1000, "message": "too large"}, "priority: too large (got 1000)"),
    ],
)
def test_an_error_about_a_job_file_names_the_place_in_it(
    error: dict[str, Any], line: str, run: Run, service: Service
) -> None:
    Path("job.yaml").write_text(JOB_FILE)
    service.on("POST", "/v1/jobs", problem(422, "1 field is wrong", [error]))
    result = run("submit", "job.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {line}\n")


def test_a_schedules_error_names_the_place_in_its_job_file(run: Run, service: Service) -> None:
    Path("job.yaml").write_text(JOB_FILE)
    error = {"field": "job.stages.0.pool", "value": "nope", "message": "no such pool"}
    service.on("POST", "/v1/schedules", problem(422, "1 field is wrong", [error]))
    result = run("schedules", "create", "nightly", "job.yaml", "--cron", "0 6 * * *")
    assert result.stderr == "error: job.yaml:5:11: job.stages.0.pool: no such pool (got 'nope')\n"


def test_bad_yaml_names_file_line_and_column(run: Run, service: Service) -> None:
    Path("job.yaml").write_text("name: [flights\ninput: x\n")
    result = run("submit", "job.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: job.yaml:2:")
    assert not service.asked
