"""The first half of adjudication, for each part on its own: validate, look up the member and the fee, deny or price."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from . import ledger
from .intake import Claim, Line, read_claims
from .ledger import Row
from .money import cents
from .x12 import TransactionSet, npi_is_valid, read_sets

# Claim adjustment group and reason code, and the remark code that says more.
INVALID_RENDERING = ("CO-16", "N290")
INVALID_DIAGNOSIS = ("CO-16", "M76")
OTHER_PAYER_FIRST = ("OA-22", "")
BEFORE_COVERAGE = ("PR-26", "")
AFTER_COVERAGE = ("PR-27", "")
NOT_A_MEMBER = ("PR-31", "")
NOT_COVERED = ("CO-96", "N130")

REASONS_MAX = 20  # of a rejected claim


class Coverage(NamedTuple):
    person: str
    start: str
    end: str
    deductible: int
    percent: int


Members = dict[tuple[str, str, str], list[Coverage]]
Fees = dict[tuple[str, str, str], list[tuple[str, str, int]]]


def price(input: Path, output: Path, fees: Path, members: Path) -> dict[str, Any]:
    """From a file of 837P and 837I to its ledger, in which all that depends on no other claim is decided."""
    known_fees = _read_fees(fees, fees.stat().st_mtime_ns)
    known_members = _read_members(members, members.stat().st_mtime_ns)
    rows: list[Row] = []
    accepted = rejected = 0
    for one in read_sets(input.read_bytes()):
        for claim in read_claims(one):
            if claim.faults:
                rejected += 1
                rows.append(_reject(one, claim))
            else:
                accepted += 1
                rows.extend(_price_claim(one, claim, known_members, known_fees))
    rows.sort(key=ledger.order)
    ledger.write(output, rows)
    return {"records": {"records_in": accepted + rejected, "records_out": accepted, "records_rejected": rejected}}


@lru_cache(maxsize=1)  # a warm process prices many parts
def _read_fees(path: Path, changed: int) -> Fees:
    found: Fees = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            fee = row["start"], row["end"] or "9999", _amount(row["allowed"])
            found[row["qualifier"], row["code"], row["modifier"]].append(fee)
    return found


@lru_cache(maxsize=1)
def _read_members(path: Path, changed: int) -> Members:
    found: Members = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            coverage = Coverage(
                row["person"],
                row["start"],
                row["end"] or "9999",
                _amount(row["deductible"]),
                int(row["coinsurance_percent"]),
            )
            found[row["subscriber"], row["birth"], row["first"].upper()].append(coverage)
    return found


def _amount(text: str) -> int:
    amount = cents(text)
    if amount is None:
        raise ValueError(f"{text!r} is not an amount")
    return amount


def _row(one: TransactionSet, claim: Claim) -> Row:
    """What all rows of a claim have in common."""
    payee, subscriber, patient = claim.payee, claim.subscriber, claim.patient
    return Row(
        subscriber=subscriber.id,
        begins=claim.begins,
        received=claim.received,
        sender=one.sender,
        interchange=one.interchange,
        group=one.group,
        set=one.control,
        segment=claim.segment,
        charge=claim.charge or 0,
        claim=claim.number,
        kind=claim.kind,
        ends=claim.ends,
        place=claim.place,
        frequency=claim.frequency,
        payee=payee.npi,
        payee_name=payee.name,
        payee_tax=payee.tax,
        subscriber_last=subscriber.last,
        subscriber_first=subscriber.first,
        patient_last=patient.last,
        patient_first=patient.first,
    )


def _reject(one: TransactionSet, claim: Claim) -> Row:
    row = _row(one, claim)
    row.status, row.reason = ledger.REJECTED, "; ".join(claim.faults[:REASONS_MAX])
    if (more := len(claim.faults) - REASONS_MAX) > 0:
        row.reason += f"; and {more} more"
    return row


def _price_claim(one: TransactionSet, claim: Claim, members: Members, fees: Fees) -> Iterator[Row]:
    patient = claim.patient
    coverages = members.get((claim.subscriber.id, patient.birth, patient.first.upper()), [])
    for number, line in enumerate(claim.lines, start=1):
        row = _row(one, claim)
        row.line = number
        row.person = coverages[0].person if coverages else ""
        row.rendering = (claim.rendering if line.rendering is None else line.rendering) or ""
        row.reference = line.reference
        row.revenue = line.revenue
        row.qualifier = line.qualifier
        row.procedure = line.procedure
        row.modifiers = " ".join(line.modifiers)
        row.date = line.date
        row.until = line.until
        row.units = str(line.units)
        row.charge = line.charge or 0
        coverage = next((one for one in coverages if one.start <= line.date <= one.end), None)
        denial = _incomplete(claim, line) or _not_eligible(claim, line, coverages, coverage)
        allowed = None if denial else _allowed(line, fees)
        if coverage and allowed is not None:
            row.allowed = min(row.charge, allowed)
            row.annual_deductible, row.coinsurance_percent = coverage.deductible, coverage.percent
        else:
            row.status = ledger.DENIED
            row.codes, row.remark = denial or NOT_COVERED
        yield row


def _incomplete(claim: Claim, line: Line) -> tuple[str, str] | None:
    rendering = claim.rendering if line.rendering is None else line.rendering
    if rendering is not None and not npi_is_valid(rendering):
        return INVALID_RENDERING
    known = {str(number) for number in range(1, claim.diagnoses + 1)}
    return None if known.issuperset(line.pointers) else INVALID_DIAGNOSIS


def _not_eligible(
    claim: Claim, line: Line, coverages: list[Coverage], coverage: Coverage | None
) -> tuple[str, str] | None:
    if claim.payer_rank != "P":
        return OTHER_PAYER_FIRST
    if coverage:
        return None
    if not coverages:
        return NOT_A_MEMBER
    return BEFORE_COVERAGE if line.date < min(one.start for one in coverages) else AFTER_COVERAGE


def _allowed(line: Line, fees: Fees) -> int | None:
    """The fee schedule's amount for the line, in cents; None if it does not pay for it."""
    qualifier, code = (line.qualifier, line.procedure) if line.procedure else ("NU", line.revenue)
    for modifier in (*line.modifiers, ""):
        for start, end, fee in fees.get((qualifier, code, modifier), ()):
            if start <= line.date <= end:
                return int((fee * (line.units or Decimal(0))).quantize(Decimal(1), ROUND_HALF_UP))
    return None
