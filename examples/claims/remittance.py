"""Writes an 835: for each payee a transaction set that says what was paid for each claim and line, and why not more.

It balances at each level: a line's charge less its adjustments (CAS) is what was paid for it; so it is for a claim; and
what was paid for all claims less what the payer keeps back (PLB) is the payment (BPR02).
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from . import ledger
from .ledger import Row
from .money import cents, x12_amount, x12_date

VERSION = "005010X221A1"
CLAIMS_MAX = 10_000  # in a transaction set: the implementation guide's advice
_SPOOL_CHARACTERS = 16 << 20
_DELIMITERS = "*:^~\r\n"
_SPACES = str.maketrans(_DELIMITERS, " " * len(_DELIMITERS))
_ANY_DELIMITER = re.compile(f"[{re.escape(_DELIMITERS)}]")
_TEXTS = [field.name for field in fields(Row) if field.type in (str, "str")]
_texts = attrgetter(*_TEXTS)


@dataclass(frozen=True, slots=True)
class Payer:
    name: str
    id: str
    tax: str
    street: str
    city: str
    state: str
    postal_code: str
    phone: str


class Recovery(NamedTuple):
    reference: str
    amount: int


@dataclass(slots=True)
class _Payment:
    """A transaction set in the making."""

    payee: Row
    claims: int = 0
    paid: int = 0


class Remittances:
    """Collects claims by payee; the text goes to files in `spool`, since a run's claims need not fit into memory."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._payments: dict[str, list[_Payment]] = defaultdict(list)
        self._texts: dict[Path, list[str]] = defaultdict(list)
        self._characters = 0

    def add(self, claim: list[Row]) -> None:
        claim = [_without_delimiters(row) for row in claim]
        payments = self._payments[claim[0].payee]
        if not payments or payments[-1].claims == CLAIMS_MAX:
            payments.append(_Payment(claim[0]))
        payment = payments[-1]
        payment.claims += 1
        payment.paid += sum(row.paid for row in claim)
        text = _claim(claim)
        self._texts[self._file(claim[0].payee, len(payments))].append(text)
        self._characters += len(text)
        if self._characters > _SPOOL_CHARACTERS:
            self._flush()

    def write(self, path: Path, payer: Payer, paid_on: str, recoveries: dict[str, list[Recovery]]) -> int:
        """Write the interchange; returns what is paid in total, in cents."""
        self._flush()
        total = sets = 0
        with path.open("w", **ledger.TEXT) as file:
            file.write(_isa(payer, paid_on))
            day = x12_date(paid_on)
            file.write(segment("GS", "HP", payer.id, "PROVIDERS", day, "0000", "1", "X", VERSION))
            for npi, payments in sorted(self._payments.items()):
                due = list(recoveries.get(npi, ()))
                for number, payment in enumerate(payments, start=1):
                    sets += 1
                    kept = keep_back(due, payment.paid)
                    amount = payment.paid - sum(one.amount for one in kept)
                    total += amount
                    control = f"{sets:04d}"
                    head = segment("ST", "835", control) + _header(payer, payment.payee, paid_on, amount, number)
                    tail = _plb(npi, paid_on, kept)
                    count = head.count("~") + tail.count("~") + 1
                    file.write(head)
                    with self._file(npi, number).open(**ledger.TEXT) as text:
                        while chunk := text.read(1 << 20):
                            count += chunk.count("~")
                            file.write(chunk)
                    file.write(tail + segment("SE", str(count), control))
            file.write(segment("GE", str(sets), "1") + segment("IEA", "1", "000000001"))
        return total

    def _file(self, npi: str, number: int) -> Path:
        return self._spool / f"{npi}-{number}"

    def _flush(self) -> None:
        for path, texts in self._texts.items():
            with path.open("a", **ledger.TEXT) as file:
                file.writelines(texts)
        self._texts.clear()
        self._characters = 0


def read_recoveries(path: Path) -> dict[str, list[Recovery]]:
    """What payees owe from earlier overpayments, by NPI."""
    found: dict[str, list[Recovery]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["payee"]].append(Recovery(row["reference"], cents(row["amount"]) or 0))
    return found


def keep_back(due: list[Recovery], paid: int) -> list[Recovery]:
    """What of the dues this payment covers; what is left of them stays in `due`."""
    kept = []
    while due and paid > 0:
        reference, amount = due.pop(0)
        kept.append(Recovery(reference, min(amount, paid)))
        paid -= kept[-1].amount
        if kept[-1].amount < amount:
            due.insert(0, Recovery(reference, amount - kept[-1].amount))
    return kept


def segment(*elements: str) -> str:
    """A segment and a line end, without the empty elements at its end."""
    return "*".join(elements).rstrip("*") + "~\n"


def _without_delimiters(row: Row) -> Row:
    """What came from an interchange with other delimiters may hold ours: they become spaces."""
    if not _ANY_DELIMITER.search("".join(_texts(row))):
        return row
    return replace(row, **{name: getattr(row, name).translate(_SPACES) for name in _TEXTS})


def _isa(payer: Payer, paid_on: str) -> str:
    day = x12_date(paid_on)[2:]
    ids = f"ZZ*{payer.id:<15.15}*ZZ*{'PROVIDERS':<15}"
    return f"ISA*00*{'':10}*00*{'':10}*{ids}*{day}*0000*^*00501*000000001*0*P*:~\n"


def _header(payer: Payer, payee: Row, paid_on: str, amount: int, number: int) -> str:
    day = x12_date(paid_on)
    if amount:
        payment = ("BPR", "I", x12_amount(amount), "C", "CHK", *[""] * 11, day)
    else:
        payment = ("BPR", "H", "0", "C", "NON", *[""] * 11, day)
    return "".join(
        [
            segment(*payment),
            segment("TRN", "1", f"{day}{payee.payee}{number:02d}", f"1{payer.tax}"),
            segment("DTM", "405", day),
            segment("N1", "PR", payer.name),
            segment("N3", payer.street),
            segment("N4", payer.city, payer.state, payer.postal_code),
            segment("PER", "BL", "CLAIMS", "TE", payer.phone),
            segment("N1", "PE", payee.payee_name, "XX", payee.payee),
            segment("REF", "TJ", payee.payee_tax) if payee.payee_tax else "",
            segment("LX", "1"),
        ]
    )


def _plb(npi: str, paid_on: str, kept: list[Recovery]) -> str:
    year_end = f"{paid_on[:4]}1231"
    return "".join(segment("PLB", npi, year_end, f"WO:{one.reference}", x12_amount(one.amount)) for one in kept)


def _claim(rows: list[Row]) -> str:
    """Loop 2100: a claim and its lines."""
    row = rows[0]
    charge, paid = (sum(getattr(row, name) for row in rows) for name in ("charge", "paid"))
    patient = sum(amount for row in rows for group, _, amount in adjustments(row) if group == "PR")
    unknown = all(row.codes == "PR-31" for row in rows)
    control = f"{row.interchange}{row.set}{row.segment}"
    texts = [
        segment(
            "CLP",
            row.claim,
            "4" if unknown else "1",
            x12_amount(charge),
            x12_amount(paid),
            x12_amount(patient) if patient else "",
            "12",
            control,
            row.place,
            row.frequency,
        ),
        segment("NM1", "QC", "1", row.patient_last, row.patient_first, "", "", "", "MI", row.subscriber),
    ]
    if (row.patient_last, row.patient_first) != (row.subscriber_last, row.subscriber_first):
        name = row.subscriber_last, row.subscriber_first
        texts.append(segment("NM1", "IL", "1", *name, "", "", "", "MI", row.subscriber))
    if row.rendering:
        texts.append(segment("NM1", "82", "1", *[""] * 5, "XX", row.rendering))
    texts.append(segment("DTM", "232", x12_date(row.begins)))
    texts.append(segment("DTM", "233", x12_date(row.ends)))
    texts.append(segment("DTM", "050", x12_date(row.received)))
    texts += map(_line, rows)
    return "".join(texts)


def _line(row: Row) -> str:
    """Loop 2110: a service line."""
    service = (row.qualifier, row.procedure, *row.modifiers.split()) if row.procedure else ("NU", row.revenue)
    revenue = row.revenue if row.procedure else ""
    denied = row.status == ledger.DENIED
    units = ("0", "", row.units) if denied else (row.units,)
    texts = [segment("SVC", ":".join(service), x12_amount(row.charge), x12_amount(row.paid), revenue, *units)]
    if row.until == row.date:
        texts.append(segment("DTM", "472", x12_date(row.date)))
    else:
        texts += segment("DTM", "150", x12_date(row.date)), segment("DTM", "151", x12_date(row.until))
    by_group: dict[str, list[str]] = {}
    for group, reason, amount in adjustments(row):
        by_group.setdefault(group, []).extend((reason, x12_amount(amount), ""))
    texts += (segment("CAS", group, *triples) for group, triples in by_group.items())
    if row.reference:
        texts.append(segment("REF", "6R", row.reference))
    if row.allowed:
        texts.append(segment("AMT", "B6", x12_amount(row.allowed)))
    if row.remark:
        texts.append(segment("LQ", "HE", row.remark))
    return "".join(texts)


def adjustments(row: Row) -> list[tuple[str, str, int]]:
    """Group code, reason code and amount of all that was not paid for a line."""
    if row.status == ledger.DENIED:
        group, reason = row.codes.split("-")
        found = [(group, reason, row.charge)]
    else:
        contractual = row.charge - row.allowed
        found = [("CO", "45", contractual), ("PR", "1", row.deductible), ("PR", "2", row.coinsurance)]
    return [one for one in found if one[2]]
