"""A small storm in which each service has the rights of its own policies: what faults make it do needs no more."""

from pathlib import Path

import pytest

from tests.aws.gate.gate import Gate
from tests.aws.gated import roles_of
from tests.storm.aws_proxy import AwsProxy
from tests.storm.journal import Journal
from tests.storm.plan import Plan
from tests.storm.report import render
from tests.storm.run import run_storm


@pytest.mark.timeout(300)
async def test_a_storm_makes_nobody_ask_for_more_than_it_may(tmp_path: Path) -> None:
    plan = Plan(
        seed=2,
        tasks=1000,
        workers=4,
        gap_seconds=0.2,
        storm_seconds=8,
        patience_seconds=120,
        lease_seconds=3,
        task_seconds=0.05,
    )
    gates: list[Gate] = []

    def make_proxy(url: str, journal: Journal) -> AwsProxy:
        gates.append(Gate(url, journal, roles_of("storm", reads="arn:aws:s3:::storm/raw/*")))
        return gates[-1]

    outcome = await run_storm(plan, tmp_path / "logs", lambda seconds, ended, faults: None, make_proxy)

    [gate] = gates
    assert outcome.is_right, f"\n{render(outcome)}"
    assert (gate.refused, gate.unknown) == ([], [])
    assert "ChangeMessageVisibilityBatch" in gate.operations["worker"]
