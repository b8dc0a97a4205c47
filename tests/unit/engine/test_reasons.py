"""The codes of reasons are a promise: each is documented, in the order in which a job tells them."""

import re
from pathlib import Path

from services.engine.reasons.reason import CODES, Reason, in_order

DOCUMENTED = Path(__file__).parents[3] / "docs" / "why.md"


def test_every_code_is_documented_in_the_order_in_which_reasons_are_told() -> None:
    table = DOCUMENTED.read_text().partition("## Where did its time go?")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == CODES


def test_what_somebody_can_do_something_about_comes_first() -> None:
    codes = ("workers_busy", "no_workers", "starting", "job_paused")
    told = in_order(Reason(code=code, message="") for code in codes)
    assert [reason.code for reason in told] == ["job_paused", "no_workers", "workers_busy", "starting"]
