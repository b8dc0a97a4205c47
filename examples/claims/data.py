"""Writes claims as clearing houses send them: files of X12 837P and 837I, and what a payer knows beside them.

python data.py DIR [--claims N | --gigabytes N] [--seed S]

DIR/claims/*.x12       interchanges of mixed delimiters, line ends and sizes
DIR/fees.csv           the fee schedule, by date of service
DIR/members.csv        who is covered, when, with which deductible and coinsurance
DIR/recoveries.csv     what payees owe from earlier overpayments
DIR/planted.csv        the claims made with a defect, and what has to become of each
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import BinaryIO

CLAIMS = 20_000
CLAIM_BYTES = 515  # about
FILES = 12  # of each of the two kinds, about
_FIRST_DAY = date(2025, 7, 1)  # of service; a year of it, so that deductibles of two years are met
_FIRST_RECEIVED = date(2026, 7, 1)

_STYLES = [  # element, repetition and component separators, terminator, what follows it
    ("*", "^", ":", "~", "\n"),
    ("*", "^", ":", "~", ""),
    ("|", "^", ">", "~", "\r\n"),
    ("*", "!", "<", "\n", ""),
    ("\x1d", "\x1f", "\x1e", "\x1c", ""),
    ("+", "}", "@", "'", "\n"),
]
_LAST = ["SMITH", "JOHNSON", "BROWN", "GARCIA", "MILLER", "DAVIS", "CHASE", "NURSE", "O'BRIEN", "REESE", "WISE"]
_FIRST = ["MARY", "JAMES", "PATRICIA", "ROBERT", "JOHN", "LINDA", "MICHAEL", "DAVID", "DENISE", "JOSE", "ROSE", "ELISE"]
_STREETS = ["MAIN ST", "HIGH ST", "OAK AVE", "PARK BLVD", "RIVER RD"]
_CITIES = [("MIAMI", "FL", "33101"), ("AUSTIN", "TX", "78701"), ("BOSTON", "MA", "02108"), ("DENVER", "CO", "80202")]
_DIAGNOSES = ["I10", "E119", "J069", "M545", "R079", "N390", "K219", "Z0000", "J45909", "F411"]
_VISITS = {"99202": 7400, "99203": 11350, "99204": 16925, "99212": 5725, "99213": 9215, "99214": 12948, "99215": 18212}
_TESTS = {
    "36415": 857, "80053": 1056, "80061": 1339, "81003": 225, "83036": 971, "85025": 777, "87070": 862, "87880": 1653,
    "93000": 1532, "94010": 2710, "96372": 1440, "97110": 3011, "97140": 2815, "90471": 2116, "90686": 2032,
}  # fmt: skip
_IMAGES = {"71046": 3423, "73030": 3710, "73630": 3365, "76700": 12104, "70450": 11560, "72148": 21032}
_OUTPATIENT = {"0300": ["80053", "80061", "85025"], "0320": ["71046", "73030"], "0450": ["99283", "99284"]}
_EMERGENCY = {"99283": 7215, "99284": 12210}
_ROOMS = {"0120": 145000, "0200": 390000, "0250": 8650, "0270": 12075, "0360": 275000}  # allowed per unit
_UNKNOWN_PROCEDURE = "J9999"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make claims, and what adjudicates them.")
    parser.add_argument("directory", type=Path)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--claims", type=int, default=CLAIMS)
    size.add_argument("--gigabytes", type=float, help="make as many claims as files of about this size hold")
    parser.add_argument("--seed", type=int, default=837)
    arguments = parser.parse_args()
    claims = int(arguments.gigabytes * 1e9 / CLAIM_BYTES) if arguments.gigabytes else arguments.claims
    made = write(arguments.directory, claims, arguments.seed)
    files = list((arguments.directory / "claims").iterdir())
    size_bytes = sum(file.stat().st_size for file in files)
    print(f"{made:,} claims in {len(files)} files of {size_bytes / 1e6:.1f} MB together: {arguments.directory}")


@dataclass(frozen=True, slots=True)
class Member:
    subscriber: str
    person: str
    last: str
    first: str
    birth: str
    sex: str
    head: tuple[str, str]
    start: date
    end: date | None
    deductible: int
    percent: int


@dataclass(frozen=True, slots=True)
class Provider:
    npi: str
    name: str
    tax: str
    city: tuple[str, str, str]
    street: str
    renderers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    code: str
    modifiers: tuple[str, ...]
    charge: int
    units: int
    day: date
    revenue: str = ""
    pointers: tuple[int, ...] = (1,)


@dataclass(slots=True)
class Claim:
    """A claim before it is written."""

    number: str
    member: Member
    provider: Provider
    lines: list[Line]
    diagnoses: list[str]
    place: str
    rendering: tuple[str, str, str]
    day: date
    frequency: str = "1"
    payer_rank: str = "P"
    surcharge: int = 0


def write(directory: Path, claims: int, seed: int) -> int:
    """Write all files; returns the number of claims."""
    maker = _Maker(Random(seed), claims)
    (directory / "claims").mkdir(parents=True)
    for kind in "PI":
        maker.write_files(directory / "claims", kind, claims * 7 // 10 if kind == "P" else claims - claims * 7 // 10)
    _write_table(directory / "fees.csv", ["qualifier", "code", "modifier", "start", "end", "allowed"], _fees())
    columns = ["subscriber", "person", "last", "first", "birth", "sex"]
    columns += ["start", "end", "deductible", "coinsurance_percent"]
    _write_table(directory / "members.csv", columns, map(_member_row, maker.members))
    _write_table(directory / "recoveries.csv", ["payee", "reference", "amount"], maker.recoveries())
    _write_table(directory / "planted.csv", ["claim", "defect", "outcome"], maker.planted)
    return maker.count


def _write_table(path: Path, columns: list[str], rows: Iterator[Sequence[str]] | list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)


def _fees() -> Iterator[tuple[str, ...]]:
    prices = [("HC", code, "", fee) for codes in (_VISITS, _TESTS, _IMAGES, _EMERGENCY) for code, fee in codes.items()]
    prices += [("HC", code, "26", fee * 3 // 10) for code, fee in _IMAGES.items()]
    prices += [("NU", code, "", fee) for code, fee in _ROOMS.items()]
    for qualifier, code, modifier, fee in sorted(prices):
        yield qualifier, code, modifier, "2025-01-01", "2025-12-31", _dollars(fee)
        yield qualifier, code, modifier, "2026-01-01", "", _dollars(fee * 103 // 100)


def _member_row(member: Member) -> tuple[str, ...]:
    return (
        *(member.subscriber, member.person, member.last, member.first, member.birth, member.sex),
        *(member.start.isoformat(), member.end.isoformat() if member.end else ""),
        *(_dollars(member.deductible), str(member.percent)),
    )


def _dollars(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def npi(nine: str) -> str:
    """An NPI: nine digits and the Luhn check digit over them and the prefix 80840."""
    total = 0
    for place, digit in enumerate(reversed("80840" + nine)):
        value = int(digit) * (2 - place % 2)
        total += value - 9 if value > 9 else value
    return nine + str(-total % 10)


def _spoil(number: str) -> str:
    return number[:9] + str((int(number[9]) + 3) % 10)


class _Maker:
    def __init__(self, random: Random, claims: int) -> None:
        self.random = random
        self.count = 0
        self.planted: list[tuple[str, str, str]] = []
        self.members = list(self._make_members(max(20, claims // 20)))
        self.providers = [self._make_provider(number) for number in range(max(6, min(400, claims // 120)))]
        self._again: list[tuple[int, Claim]] = []  # clean claims that will come again, and the interchange they came in
        self._sets_max = max(2, claims // 200)  # in a group, so that few claims make several interchanges, too
        self._interchanges = 0
        self._groups = 0

    def _make_members(self, count: int) -> Iterator[Member]:
        random = self.random
        for number in range(1, count + 1):
            last = random.choice(_LAST)
            plan = random.choice([0, 25000, 50000, 150000]), random.choice([0, 10, 20, 30])
            start = date(2025, 1, 1) if random.random() < 0.9 else date(2025, 10, 1)
            end = None if random.random() < 0.8 else date(2026, 2, 28)
            firsts = random.sample(_FIRST, 4)
            for person in range(random.choice([1, 1, 2, 3, 4])):
                birth = date(random.randrange(1945, 2024), random.randrange(1, 13), random.randrange(1, 29))
                one = Member(
                    *(f"W{number:09d}", f"{person:02d}", last, firsts[person], birth.isoformat(), random.choice("FM")),
                    *((last, firsts[0]), start, end, *plan),
                )
                yield one
                if end and random.random() < 0.3:  # back after a gap, with another plan
                    yield replace(one, start=date(2026, 5, 1), end=None, deductible=one.deductible * 2, percent=20)

    def _make_provider(self, number: int) -> Provider:
        random = self.random
        city = random.choice(_CITIES)
        kind = random.choice(["MEDICAL GROUP", "CLINIC", "HOSPITAL", "NURSE HOUSE"])
        name = f"{city[0]} {random.choice(_LAST)} {kind}" + (" C*O ~ 1" if number % 7 == 3 else "")
        renderers = tuple(
            (npi(f"1{number:04d}{rank:04d}"), random.choice(_LAST), random.choice(_FIRST)) for rank in range(1, 5)
        )
        street = f"{random.randrange(1, 999)} {random.choice(_STREETS)}"
        return Provider(npi(f"1{number:04d}0000"), name, f"{580000000 + number}", city, street, renderers)

    def recoveries(self) -> Iterator[tuple[str, str, str]]:
        for number, provider in enumerate(self.providers[::5]):
            yield provider.npi, f"OVERPAID{number:04d}", _dollars(self.random.choice([1999, 25050, 10_000_000]))

    # Claims.

    def _claim(self, kind: str, provider: Provider) -> Claim:
        random = self.random
        self.count += 1
        member = random.choice(self.members)
        day = self._covered_day(member)
        diagnoses = random.sample(_DIAGNOSES, random.randrange(1, 5))
        lines = self._visit(day, len(diagnoses)) if kind == "P" else self._stay(day)
        claim = Claim(
            f"{kind}{self.count:08d}",
            member,
            provider,
            lines,
            diagnoses,
            "11" if kind == "P" or not lines[0].code else "13",
            random.choice(provider.renderers),
            day,
        )
        dice = random.random()
        if dice < 0.02:
            spoil = random.choice(_DEFECTS_OF_P if kind == "P" else _DEFECTS)
            if outcome := spoil(claim):
                self.planted.append((claim.number, spoil.__name__, outcome))
        elif dice < 0.03:
            self._again.append((self._interchanges, claim))
        return claim

    def _covered_day(self, member: Member) -> date:
        first = max(member.start, _FIRST_DAY)
        last = min(member.end or date(2026, 6, 20), date(2026, 6, 20))
        return first + timedelta(days=self.random.randrange(max(1, (last - first).days - 5)))

    def _visit(self, day: date, diagnoses: int) -> list[Line]:
        random = self.random
        image = random.choice(list(_IMAGES))
        chosen: list[tuple[str, tuple[str, ...], int, int]] = [
            (code, ("25",) if random.random() < 0.2 else (), 1, _VISITS[code])
            for code in [random.choice(list(_VISITS))]
        ]
        chosen += [(code, (), random.choice([1, 1, 1, 2, 4]), _TESTS[code]) for code in self._some(_TESTS, 3)]
        if random.random() < 0.15:
            chosen.append((image, ("26", "RT") if random.random() < 0.5 else (), 1, _IMAGES[image]))
        return [
            Line(code, modifiers, self._charge(fee * units), units, one, pointers=self._pointers(diagnoses))
            for code, modifiers, units, fee in chosen
            for one in [day + timedelta(days=random.choice([0, 0, 0, 1]))]
        ]

    def _stay(self, day: date) -> list[Line]:
        random = self.random
        if random.random() < 0.3:  # an inpatient stay, by revenue code
            days = random.randrange(1, 5)
            chosen = [
                ("", code, days if code in ("0120", "0200") else 1, _ROOMS[code]) for code in self._some(_ROOMS, 4)
            ]
            chosen = chosen or [("", "0120", days, _ROOMS["0120"])]
        else:
            fees = _TESTS | _IMAGES | _EMERGENCY
            revenues = self._some(_OUTPATIENT, 3) or ["0450"]
            chosen = [(code, r, 1, fees[code]) for r in revenues for code in [random.choice(_OUTPATIENT[r])]]
        return [Line(code, (), self._charge(fee * units), units, day, r) for code, r, units, fee in chosen]

    def _some(self, things: dict[str, int] | dict[str, list[str]], most: int) -> list[str]:
        return self.random.sample(list(things), self.random.randrange(most + 1))

    def _pointers(self, diagnoses: int) -> tuple[int, ...]:
        return tuple(self.random.sample(range(1, diagnoses + 1), self.random.randrange(1, diagnoses + 1)))

    def _charge(self, fee: int) -> int:
        """Mostly more than the fee schedule allows, now and then less; often in whole dollars."""
        charge = fee * self.random.randrange(80, 300) // 100
        return charge // 100 * 100 + 100 if self.random.random() < 0.6 else charge

    def _earlier(self) -> Claim | None:
        """A claim of an earlier interchange, sent again under another number."""
        if not self._again or self._again[0][0] == self._interchanges or self.random.random() < 0.5:
            return None
        self.count += 1
        _, claim = self._again.pop(0)
        again = replace(claim, number=f"{claim.number[0]}{self.count:08d}")
        self.planted.append((again.number, "duplicate", "OA-18"))
        return again

    # Files.

    def write_files(self, directory: Path, kind: str, claims: int) -> None:
        end, number = self.count + claims, 0
        file_bytes = claims * CLAIM_BYTES // FILES
        self._again.clear()
        while self.count < end:
            number += 1
            with (directory / f"837{kind}-{number:04d}.x12").open("wb") as file:
                size = 0
                while self.count < end and size < file_bytes:
                    size += self._write_interchange(file, kind, end)

    def _write_interchange(self, file: BinaryIO, kind: str, end: int) -> int:
        self._interchanges += 1
        style = _STYLES[self._interchanges % len(_STYLES)]
        received = _FIRST_RECEIVED + timedelta(days=self._interchanges // 40)
        out = Interchange(style, self._interchanges, self.random.choice(["CLEARING1", "CLEARING2"]), received)
        defect = {11: "iea-control", 17: "iea-count"}.get(self._interchanges % 40, "")
        for _ in range(1 if defect else self.random.choice([1, 1, 2])):
            self._write_group(out, kind, end, defect)
        return file.write(out.end(defect))

    def _write_group(self, out: "Interchange", kind: str, end: int, around: str) -> None:
        self._groups += 1
        defect = "ge-count" if self._groups % 47 == 7 and not around else around
        out.open_group(kind, self._groups)
        for _ in range(1 if defect else min(self.random.choice([2, 8, 30, 120]), self._sets_max)):
            if self.count >= end:
                break
            self._write_set(out, kind, end, defect)
        out.close_group(defect)

    def _write_set(self, out: "Interchange", kind: str, end: int, around: str) -> None:
        random = self.random
        dice = random.random()
        defect = around or next((name for name, share in _DEFECTS_OF_SETS.items() if dice < share), "")
        if not defect and (again := self._earlier()):
            out.write_set(kind, again.provider, [again])
            return
        provider = random.choice(self.providers)
        count = 2 if defect else random.choice([1, 5, 20, 60])
        claims = [self._claim(kind, provider) for _ in range(max(1, min(count, end - self.count)))]
        if defect == "billing-npi":
            provider = replace(provider, npi=_spoil(provider.npi))
        if defect:  # which comes before whatever is wrong with the claims
            ours = {claim.number for claim in claims}
            self.planted = [row for row in self.planted if row[0] not in ours]
            self._again = [entry for entry in self._again if entry[1].number not in ours]
            self.planted += [(claim.number, defect, "rejected") for claim in claims]
        out.write_set(kind, provider, claims, defect)


# Cumulative shares.
_DEFECTS_OF_SETS = {"se-count": 0.01, "se-control": 0.015, "billing-npi": 0.025, "no-bht": 0.03, "encounter": 0.035}


# Defects of claims: each changes the claim, and returns what has to become of it.


def secondary_payer(claim: Claim) -> str:
    claim.payer_rank = "S"
    return "OA-22"


def unknown_member(claim: Claim) -> str:
    claim.member = replace(claim.member, subscriber="X" + claim.member.subscriber[1:])
    return "PR-31"


def before_coverage(claim: Claim) -> str:
    _move(claim, date(2024, 12, 15))
    return "PR-26"


def after_coverage(claim: Claim) -> str:
    _move(claim, date(2026, 3, 15))  # in the gap of those who left; the others are covered
    return "PR-27" if claim.member.end else ""


def _move(claim: Claim, day: date) -> None:
    claim.day = day
    claim.lines = [replace(line, day=day) for line in claim.lines]


def not_in_fee_schedule(claim: Claim) -> str:
    claim.lines.append(replace(claim.lines[-1], code=_UNKNOWN_PROCEDURE, modifiers=(), charge=12345))
    return "CO-96"


def no_diagnosis(claim: Claim) -> str:
    claim.diagnoses = []
    return "rejected"


def no_lines(claim: Claim) -> str:
    claim.surcharge = sum(line.charge for line in claim.lines)
    claim.lines = []
    return "rejected"


def unbalanced(claim: Claim) -> str:
    claim.surcharge = 1
    return "rejected"


def no_member_id(claim: Claim) -> str:
    claim.member = replace(claim.member, subscriber="")
    return "rejected"


def replacement(claim: Claim) -> str:
    claim.frequency = "7"
    return "rejected"


def rendering_npi(claim: Claim) -> str:
    claim.rendering = (_spoil(claim.rendering[0]), *claim.rendering[1:])
    return "CO-16"


def diagnosis_pointer(claim: Claim) -> str:
    claim.lines[0] = replace(claim.lines[0], pointers=(len(claim.diagnoses) + 1,))
    return "CO-16"


_DEFECTS = [
    *(unknown_member, before_coverage, after_coverage, not_in_fee_schedule),
    *(no_diagnosis, no_lines, unbalanced, no_member_id, replacement, secondary_payer),
]
_DEFECTS_OF_P = [*_DEFECTS, rendering_npi, diagnosis_pointer]


class Interchange:
    """Writes one interchange, segment by segment."""

    def __init__(self, style: tuple[str, str, str, str, str], number: int, sender: str, received: date) -> None:
        self._element, repetition, self._component, terminator, line_end = style
        self._end = terminator + line_end
        self._clean = str.maketrans(dict.fromkeys((*style[:4], "\n"), " "))
        self._number = f"{number:09d}"
        self._sender = sender
        self._received = received
        self._groups = self._sets = self._segments = 0
        self._control = ""
        ids = ["ZZ", f"{sender:<15}", "ZZ", f"{'PWHP1':<15}"]
        isa = ["ISA", "00", " " * 10, "00", " " * 10, *ids, f"{received:%y%m%d}", "0600", repetition, "00501"]
        self._out = [self._element.join([*isa, self._number, "0", "P", self._component]) + self._end]

    def open_group(self, kind: str, number: int) -> None:
        self._groups += 1
        self._sets = 0
        self._control = str(number)
        self._add(
            "GS", "HC", self._sender, "PWHP1", f"{self._received:%Y%m%d}", "0600", self._control, "X", _VERSIONS[kind]
        )

    def close_group(self, defect: str) -> None:
        self._add("GE", str(self._sets + (defect == "ge-count")), self._control)

    def end(self, defect: str) -> bytes:
        number = self._number if defect != "iea-control" else "999999999"
        self._add("IEA", str(self._groups + (defect == "iea-count")), number)
        return "".join(self._out).encode()

    def write_set(self, kind: str, provider: Provider, claims: list[Claim], defect: str = "") -> None:
        self._sets += 1
        self._segments = 0
        control = f"{self._sets:04d}"
        self._add("ST", "837", control, _VERSIONS[kind])
        if defect != "no-bht":
            purpose = "RP" if defect == "encounter" else "CH"
            self._add("BHT", "0019", "00", f"{self._number}{control}", f"{self._received:%Y%m%d}", "0600", purpose)
        self._add("NM1", "41", "2", "CLEARING HOUSE", "", "", "", "", "46", self._sender)
        self._add("PER", "IC", "EDI DESK", "TE", "8005550111")
        self._add("NM1", "40", "2", _PAYER, "", "", "", "", "46", "PWHP1")
        self._add("HL", "1", "", "20", "1")
        self._add("NM1", "85", "2", provider.name, "", "", "", "", "XX", provider.npi)
        self._address(provider.street, provider.city)
        self._add("REF", "EI", provider.tax)
        level = 1
        for claim in claims:
            level = self._patient(claim, level)
            self._claim(kind, claim)
        segments = self._segments + 1 + (defect == "se-count")
        self._add("SE", str(segments), control if defect != "se-control" else "9999")

    def _add(self, *elements: str | list[str]) -> None:
        self._segments += 1
        clean = self._clean
        texts = [
            e.translate(clean) if isinstance(e, str) else self._component.join(part.translate(clean) for part in e)
            for e in elements
        ]
        self._out.append(self._element.join(texts).rstrip(self._element) + self._end)

    def _address(self, street: str, city: tuple[str, str, str]) -> None:
        self._add("N3", street)
        self._add("N4", city[0], city[1], f"{city[2]}1234")

    def _patient(self, claim: Claim, level: int) -> int:
        member = claim.member
        is_subscriber = member.person == "00"
        level += 1
        self._add("HL", str(level), "1", "22", "0" if is_subscriber else "1")
        self._add("SBR", claim.payer_rank, "18" if is_subscriber else "", "", "", "", "", "", "", "CI")
        self._add("NM1", "IL", "1", *member.head, "", "", "", "MI", member.subscriber)
        if is_subscriber:
            self._demography(member)
        self._add("NM1", "PR", "2", _PAYER, "", "", "", "", "PI", "PWHP1")
        if not is_subscriber:
            level += 1
            self._add("HL", str(level), str(level - 1), "23", "0")
            self._add("PAT", "19" if member.person != "01" else "01")
            self._add("NM1", "QC", "1", member.last, member.first)
            self._demography(member)
        return level

    def _demography(self, member: Member) -> None:
        self._address("1 HOME ST", _CITIES[0])
        self._add("DMG", "D8", member.birth.replace("-", ""), member.sex)

    def _claim(self, kind: str, claim: Claim) -> None:
        charge = _amount(sum(line.charge for line in claim.lines) + claim.surcharge)
        inpatient = kind == "I" and not any(line.code for line in claim.lines)
        if kind == "P":
            place = [claim.place, "B", claim.frequency]
            self._add("CLM", claim.number, charge, "", "", place, "Y", "A", "Y", "Y")
            self._diagnoses(claim.diagnoses, together=True)
            npi_number, last, first = claim.rendering
            self._add("NM1", "82", "1", last, first, "", "", "", "XX", npi_number)
        else:
            place = [claim.place, "A", claim.frequency]
            self._add("CLM", claim.number, charge, "", "", place, "", "A", "Y", "Y")
            ends = claim.day + timedelta(days=claim.lines[0].units if inpatient and claim.lines else 0)
            self._add("DTP", "434", "RD8", f"{claim.day:%Y%m%d}-{ends:%Y%m%d}")
            if inpatient:
                self._add("DTP", "435", "DT", f"{claim.day:%Y%m%d}0930")
            self._add("CL1", "1", "1", "01")
            self._diagnoses(claim.diagnoses, together=False)
            npi_number, last, first = claim.rendering
            self._add("NM1", "71", "1", last, first, "", "", "", "XX", npi_number)
        for number, line in enumerate(claim.lines, start=1):
            self._line(kind, number, line, claim.number)

    def _diagnoses(self, codes: list[str], together: bool) -> None:
        composites = [["ABK" if rank == 0 else "ABF", code] for rank, code in enumerate(codes)]
        for lot in [composites] if together else [composites[:1], composites[1:]]:
            if lot:
                self._add("HI", *lot)

    def _line(self, kind: str, number: int, line: Line, claim: str) -> None:
        self._add("LX", str(number))
        procedure = ["HC", line.code, *line.modifiers] if line.code else ""
        charge, units = _amount(line.charge), str(line.units)
        if kind == "P":
            self._add("SV1", procedure, charge, "UN", units, "", "", [str(pointer) for pointer in line.pointers])
        else:
            self._add("SV2", line.revenue, procedure, charge, "DA" if line.revenue in _BY_DAY else "UN", units)
        if line.code:
            self._add("DTP", "472", "D8", f"{line.day:%Y%m%d}")
            self._add("REF", "6R", f"{claim}-{number}")


_PAYER = "PIECEWORK HEALTH PLAN"
_VERSIONS = {"P": "005010X222A1", "I": "005010X223A2"}
_BY_DAY = {"0120", "0200"}


def _amount(cents: int) -> str:
    """As X12 writes amounts: without zeros that say nothing."""
    return _dollars(cents).rstrip("0").rstrip(".")


if __name__ == "__main__":
    main()
