"""A small storm in which each service has the rights of its own policies: what faults make it do needs no more."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.aws.gate.gate import Gate
from tests.aws.gated import roles_of
from tests.storm.aws_proxy import AwsProxy
from tests.storm.journal import Journal
from tests.storm.plan import SMALL
from tests.storm.report import render
from tests.storm.run import run_storm


@pytest.mark.timeout(300)
async def test_a_storm_makes_nobody_ask_for_more_than_it_may(tmp_path: Path) -> None:
    plan = replace(SMALL, seed=2)
    gates: list[Gate] = []

    def make_proxy(url: str, journal: Journal) -> AwsProxy:
        gates.append(Gate(url, journal, roles_of("storm", reads="arn:aws:s3:::storm/raw/*")))
        return gates[-1]

    outcome = await run_storm(plan, tmp_path / "logs", lambda seconds, ended, faults: None, make_proxy)

    [gate] = gates
    assert outcome.is_right, f"\n{render(outcome)}"
    assert (gate.refused, gate.unknown) == ([], [])
    assert "ChangeMessageVisibilityBatch" in gate.operations["worker"]
