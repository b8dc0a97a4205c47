"""Claims and videos as real senders have them, through the examples as a user runs them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cases.conftest import DATA, CaseGrid, Ended, Record, read_records

EXAMPLES = Path(__file__).parents[2] / "examples"

# What the claims are priced by: one member, one fee, and nothing to recover.
MEMBERS = """subscriber,person,last,first,birth,sex,start,end,deductible,coinsurance_percent
M00000001,01,TESTER,PAT,1980-01-01,F,2026-01-01,,0.00,20
"""
RECOVERIES = "payee,reference,amount\n"
FEES = "qualifier,code,modifier,start,end,allowed\nHC,99213,,2026-01-01,,60.00\n"


def example_job(name: str, file: str = "job.yaml") -> Any:
    return yaml.safe_load((EXAMPLES / name / file).read_text())


def settle(grid: CaseGrid, claims: bytes, **split: Any) -> Ended:
    """The example's job with one file of claims."""
    grid.push(EXAMPLES / "claims")
    tables: dict[str, bytes | str] = {"fees.csv": FEES, "members.csv": MEMBERS, "recoveries.csv": RECOVERIES}
    job, place = example_job("claims"), grid.put(tables | {"in/claims.x12": claims})
    first, price = job["stages"]
    price["inputs"] = {name: place + uri for name, uri in price["inputs"].items()}
    merge = job["merge"] | {"inputs": {name: place + uri for name, uri in job["merge"]["inputs"].items()}}
    return grid.run({"type": "objects", "prefix": f"{place}in/"}, first | {"params": split}, price, merge=merge)


def table(ended: Ended, name: str) -> list[Record]:
    return read_records(name, ended.files[name])


def case(*names: str) -> bytes:
    return DATA.joinpath(*names).read_bytes()


@pytest.mark.parametrize("part_bytes", [1, 8_388_608])
def test_x12_wrapped_at_80(grid: CaseGrid, part_bytes: int) -> None:
    ended = settle(grid, case("x12-wrapped-at-80", "in.x12"), part_bytes=part_bytes)
    rows = table(ended, "ledger.csv")
    assert {row["claim"]: (row["status"], row["paid"], row["codes"]) for row in rows} == {
        "C1": ("paid", "48.00", "CO-45 PR-2"),
        "C2": ("denied", "0.00", "PR-31"),
    }
    assert table(ended, "rejected.csv") == []


def test_x12_date_with_blanks(grid: CaseGrid) -> None:
    ended = settle(grid, case("x12-date-with-blanks", "in.x12"))
    said = {row["claim"]: row["reason"] for row in table(ended, "rejected.csv")}
    assert said == {
        claim: f"line 1: DTP03 of segment 20 is '{date}' [IK403 8: Invalid Date]"
        for claim, date in {"C1": "2026 1 1", "C2": "20261301", "C3": "+2026101"}.items()
    }
    assert {row["status"] for row in table(ended, "ledger.csv")} == {"rejected"}


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("spaces.x12", ["C1", "C2"]),
        ("ctrl-z.x12", ["C1", "C2"]),
        ("nuls.x12", ["C1", "C2"]),
        ("spaces-between.x12", ["C1", "C2", "C3"]),
    ],
)
def test_x12_something_behind_iea(grid: CaseGrid, name: str, claims: list[str]) -> None:
    ended = settle(grid, case("x12-something-behind-iea", name))
    assert sorted(row["claim"] for row in table(ended, "ledger.csv")) == claims
    assert table(ended, "rejected.csv") == []
