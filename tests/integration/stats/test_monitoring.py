"""The alerts and the dashboard: they name what the services tell, and each alert fires on its fault alone."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import services.scheduler.__main__
import services.worker.node.node  # noqa: F401
from services.platform.database import Database
from services.platform.metrics import expose
from tests.integration.stats.conftest import catch_up, insert_attempts, insert_pool

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
OWN = {"up", "ALERTS"}  # Prometheus's own

METRIC = re.compile(r"\b(?:piecework|process|python)_\w+|\bup\b")


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [rule["expr"] for rule in ALERTS] + panels


@pytest.fixture
def promtool() -> str:
    own = ROOT / ".venv" / "bin" / "promtool"
    found = str(own) if own.exists() else shutil.which("promtool")
    if found is None and not os.environ.get("CI"):
        pytest.skip("promtool is not here: make .venv/bin/promtool")
    assert found is not None
    return found


def run(promtool: str, *arguments: str) -> None:
    ended = subprocess.run([promtool, *arguments], cwd=MONITORING, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


async def test_what_alerts_and_dashboard_name_is_what_the_services_tell(
    anonymous: httpx.AsyncClient, database: Database
) -> None:
    await insert_pool(database, "default")
    await insert_attempts(database, [{}])
    await catch_up(database)
    told: set[str] = set(OWN)
    for text in (expose("")[0].decode(), (await anonymous.get("/metrics")).text):
        for family in text_string_to_metric_families(text):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
            told |= {family.name + suffix for suffix in suffixes}
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    named -= {"piecework-api", "process", "python"}
    assert named - told == set()
    unseen = {name for name in told - named if name.startswith("piecework_")}
    assert {name for name in unseen if not name.endswith(("_sum", "_count", "_bucket"))} == set()


def test_each_alert_has_a_severity_a_summary_and_a_line_in_the_runbook() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    section = operations.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(Piecework\w+)` \|", section, re.MULTILINE)
    assert explained == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["runbook"] == "docs/operations.md#alerts"


def test_each_metric_is_explained() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    section = operations.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    named = {name for expression in expressions() for name in re.findall(r"\bpiecework_\w+", expression)}
    explained = set(re.findall(r"`(piecework_\w+)", section))
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in named} - explained == set()


def test_each_alert_is_tested_with_its_fault_and_without() -> None:
    tests: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fires = {(test["name"].split()[0], bool(test["promql_expr_test"][0]["exp_samples"])) for test in tests}
    assert fires == {(rule["alert"], fired) for rule in ALERTS for fired in (True, False)}


def test_alerts_fire_on_their_faults_and_prometheus_takes_the_files(promtool: str) -> None:
    run(promtool, "check", "config", "prometheus.yml")
    run(promtool, "test", "rules", "alerts_test.yml")
