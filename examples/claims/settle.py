"""The second half of adjudication: duplicates, deductible and coinsurance need all claims of a person, in order.

Settling is a reduce: it merges ledgers into one and writes the 835 beside it. Of what a ledger says that was settled
before, only what more claims can't change is kept (a denial, a rejection, the allowed amount); the rest is computed
again. So it does not matter in how many levels, and in which groups, the parts' ledgers come together.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import ledger
from .ledger import Row
from .money import dollars
from .remittance import Payer, Remittances, read_recoveries

DUPLICATE = "OA-18"
_REJECTED_COLUMNS = ("interchange", "sender", "group", "set", "segment", "claim", "payee", "subscriber", "reason")


def settle(
    input: Path, output: Path, remittance: Path, rejected: Path, recoveries: Path, payer: dict[str, str], paid_on: str
) -> dict[str, Any]:
    """From a directory of ledgers to one ledger, its 835, and a table of the rejected claims."""
    with TemporaryDirectory(dir=output.parent) as spool, rejected.open("w", **ledger.TEXT) as rejects:
        table = csv.writer(rejects, lineterminator="\n")
        table.writerow(_REJECTED_COLUMNS)
        remittances = Remittances(Path(spool))
        claims = 0

        def settled() -> Iterator[Row]:
            nonlocal claims
            ledgers = [ledger.read(part) for part in sorted(input.iterdir())]
            for _, rows in groupby(merge(*ledgers, key=ledger.order), lambda row: (row.subscriber, row.person)):
                account = Account()
                for _, same_place in groupby(rows, ledger.claim_of):
                    lines = list(same_place)
                    for claim in claims_in(lines):
                        claims += 1
                        if claim[0].status == ledger.REJECTED:
                            table.writerow([getattr(claim[0], column) for column in _REJECTED_COLUMNS])
                        else:
                            for row in claim:
                                account.settle(row)
                            remittances.add(claim)
                    yield from lines

        ledger.write(output, settled())
        paid = remittances.write(remittance, Payer(**payer), paid_on, read_recoveries(recoveries))
    return {"records": {"records_in": claims, "records_out": claims, "records_rejected": 0}, "paid": dollars(paid)}


def claims_in(rows: list[Row]) -> list[list[Row]]:
    """The claims that came in at one place of an interchange: more than one if the interchange came in again."""
    claims: list[list[Row]] = []
    seen: Counter[int] = Counter()
    for row in rows:
        if seen[row.line] == len(claims):
            claims.append([])
        claims[seen[row.line]].append(row)
        seen[row.line] += 1
    return claims


class Account:
    """What a person's earlier claims have left: services that were billed, and deductibles that were met."""

    def __init__(self) -> None:
        self._billed: set[tuple[str, str, str, str, str, int]] = set()
        self._met: dict[str, int] = defaultdict(int)  # by calendar year

    def settle(self, row: Row) -> None:
        if row.status == ledger.DENIED:
            return
        service = row.payee, row.date, row.revenue, row.procedure, row.modifiers, row.charge
        if service in self._billed:
            row.status, row.codes = ledger.DENIED, DUPLICATE
            row.allowed = row.deductible = row.coinsurance = row.paid = 0
            return
        self._billed.add(service)
        year = row.date[:4]
        row.deductible = min(row.allowed, max(0, row.annual_deductible - self._met[year]))
        self._met[year] += row.deductible
        after = row.allowed - row.deductible
        row.coinsurance = (after * row.coinsurance_percent + 50) // 100
        row.paid = after - row.coinsurance
        row.status = ledger.PAID
        adjusted = {"CO-45": row.charge - row.allowed, "PR-1": row.deductible, "PR-2": row.coinsurance}
        row.codes = " ".join(code for code, amount in adjusted.items() if amount)
