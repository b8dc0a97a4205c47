"""A small storm: every kind of fault, and the truth about every task afterwards."""

from pathlib import Path

import pytest

from tests.storm.faults import DECK
from tests.storm.plan import Plan
from tests.storm.report import render
from tests.storm.run import run_storm


@pytest.mark.timeout(600)
async def test_a_storm_does_no_harm(tmp_path: Path) -> None:
    plan = Plan(
        seed=1,
        tasks=1500,
        workers=4,
        gap_seconds=0.2,
        storm_seconds=12,
        patience_seconds=90,
        lease_seconds=3,
        task_seconds=0.05,
    )

    outcome = await run_storm(plan, tmp_path / "logs", progress=lambda seconds, ended, faults: None)

    assert outcome.is_right, f"\n{render(outcome)}"
    assert outcome.journal.dealt.keys() == DECK.keys()
