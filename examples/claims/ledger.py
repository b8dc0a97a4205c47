"""The ledger: a CSV table with a row for each service line, and one for each rejected claim.

It is both what the pricing of a part writes and what settling reads and writes, so a ledger can be settled again
together with others: rows come in the order in which claims are settled, and all that settling needs is in them.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from .money import dollars

OPEN, PAID, DENIED, REJECTED = "open", "paid", "denied", "rejected"


@dataclass(slots=True)
class Row:
    # The order of settling: each person's claims by date of service, then by when and where they came in.
    subscriber: str = ""
    person: str = ""
    begins: str = ""
    received: str = ""
    interchange: str = ""
    sender: str = ""
    group: str = ""
    set: str = ""
    segment: int = 0
    line: int = 0
    # What became of it.
    status: str = OPEN
    charge: int = 0
    allowed: int = 0
    deductible: int = 0
    coinsurance: int = 0
    paid: int = 0
    codes: str = ""
    remark: str = ""
    reason: str = ""
    # The claim and the line, as the remittance repeats them.
    claim: str = ""
    kind: str = ""
    ends: str = ""
    place: str = ""
    frequency: str = ""
    payee: str = ""
    payee_name: str = ""
    payee_tax: str = ""
    subscriber_last: str = ""
    subscriber_first: str = ""
    patient_last: str = ""
    patient_first: str = ""
    rendering: str = ""
    reference: str = ""
    revenue: str = ""
    qualifier: str = ""
    procedure: str = ""
    modifiers: str = ""
    date: str = ""
    until: str = ""
    units: str = ""
    annual_deductible: int = 0
    coinsurance_percent: int = 0


_NAMES = [field.name for field in fields(Row)]
_values = attrgetter(*_NAMES)
_AMOUNTS = [_NAMES.index(n) for n in ("charge", "allowed", "deductible", "coinsurance", "paid", "annual_deductible")]
_NUMBERS = [_NAMES.index(n) for n in ("segment", "line", "coinsurance_percent")]
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def order(row: Row) -> tuple[Any, ...]:
    return *claim_of(row), row.line


def claim_of(row: Row) -> tuple[Any, ...]:
    """What a claim's rows have in common, and no other's."""
    return (
        row.subscriber,
        row.person,
        row.begins,
        row.received,
        row.interchange,
        row.sender,
        row.group,
        row.set,
        row.segment,
        row.claim,
    )


def read(path: Path) -> Iterator[Row]:
    with path.open(**TEXT) as file:
        table = csv.reader(file)
        next(table)
        for values in table:
            row: list[Any] = values
            for place in _AMOUNTS:
                row[place] = int(values[place].replace(".", ""))
            for place in _NUMBERS:
                row[place] = int(values[place])
            yield Row(*row)


def write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", **TEXT) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_NAMES)
        for row in rows:
            values = list(_values(row))
            for place in _AMOUNTS:
                values[place] = dollars(values[place])
            table.writerow(values)
