"""A small storm: every kind of fault, and the truth about every task afterwards."""

from pathlib import Path

import pytest

from tests.storm.faults import DECK
from tests.storm.plan import SMALL
from tests.storm.report import render
from tests.storm.run import run_storm


@pytest.mark.timeout(600)
async def test_a_storm_does_no_harm(tmp_path: Path) -> None:
    outcome = await run_storm(SMALL, tmp_path / "logs", progress=lambda seconds, ended, faults: None)

    assert outcome.is_right, f"\n{render(outcome)}"
    assert outcome.journal.dealt.keys() == DECK.keys()
