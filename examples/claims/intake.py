"""Claims of 837P and 837I transaction sets, each with all that is wrong with it.

The loops of an 837 have no marks of their own: where a segment belongs follows from the HL, CLM and LX before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from .money import cents, iso_date
from .x12 import TransactionSet, decode, element, npi_is_valid

PROFESSIONAL, INSTITUTIONAL = "P", "I"
_KINDS = {"005010X222": PROFESSIONAL, "005010X223": INSTITUTIONAL}
_PARENTS = {"20": "", "22": "20", "23": "22"}
_DIAGNOSES = {"BK", "BF", "ABK", "ABF"}
_UNITS_MAX = 100_000


@dataclass(slots=True)
class Person:
    id: str = ""
    last: str = ""
    first: str = ""
    birth: str = ""


@dataclass(slots=True)
class Provider:
    npi: str = ""
    name: str = ""
    tax: str = ""


@dataclass(slots=True)
class Line:
    number: str
    revenue: str = ""
    qualifier: str = ""
    procedure: str = ""
    modifiers: tuple[str, ...] = ()
    charge: int | None = None
    units: Decimal | None = None
    pointers: tuple[str, ...] = ()
    date: str = ""
    until: str = ""
    reference: str = ""
    rendering: str | None = None


@dataclass(slots=True)
class Claim:
    """A claim (loop 2300) and what it has from the loops around it; `segment` counts from the ST, which is 1."""

    segment: int
    kind: str = ""
    received: str = ""
    number: str = ""
    charge: int | None = None
    place: str = ""
    frequency: str = ""
    payer_rank: str = ""  # P for the payer that pays first
    payee: Provider = field(default_factory=Provider)
    subscriber: Person = field(default_factory=Person)
    patient: Person = field(default_factory=Person)
    rendering: str | None = None
    begins: str = ""
    ends: str = ""
    diagnoses: int = 0
    lines: list[Line] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_claims(one: TransactionSet) -> list[Claim]:
    """All claims of a set; one without claims, or that can't be read, gives one claim that has only faults."""
    reader = _Reader(one)
    for number, segment in enumerate(one.segments, start=1):
        reader.read(number, segment)
    reader.end_claim()
    faults = [*one.faults, *reader.faults_of_set()]
    if not reader.claims:
        return [Claim(1, received=reader.received, faults=faults or ["CLM is missing (loop 2300)"])]
    for claim in reader.claims:
        claim.faults[:0] = faults
    return reader.claims


class _Reader:
    def __init__(self, one: TransactionSet) -> None:
        self.claims: list[Claim] = []
        self.received = ""
        self._purpose = ""
        self._set = one
        self._component = decode(one.delimiters.component)
        header = one.segments[0] if one.segments else []
        self._version = element(header, 3)
        self._kind = _KINDS.get(self._version[:10], "") if element(header, 1) == "837" else ""
        self._names: set[str] = set()
        self._faults: list[str] = []
        self._levels: dict[str, str] = {}  # HL01 → HL03
        self._level = ""
        self._entity = ""  # of whom the segments are: NM101 of the last NM1 outside claims
        self._seen: set[str] = set()  # what has been since the last HL of each level
        self._payer_rank = ""
        self._payee = Provider()
        self._subscriber = Person()
        self._patient: Person | None = None
        self._claim: Claim | None = None
        self._other_payer = False  # whether the loop is one of another payer (2320, 2330)
        self._line: Line | None = None
        self._handlers: dict[str, Callable[[list[str]], None]] = {
            "BHT": self._bht,
            "HL": self._hl,
            "NM1": self._nm1,
            "REF": self._ref,
            "SBR": self._sbr,
            "PAT": self._mark,
            "DMG": self._dmg,
            "CL1": self._mark,
            "HI": self._hi,
            "DTP": self._dtp,
            "LX": self._lx,
            "SV1": self._sv1,
            "SV2": self._sv2,
        }

    def read(self, number: int, segment: list[str]) -> None:
        if segment[0] == "CLM":
            self._clm(number, segment)
        elif handler := self._handlers.get(segment[0]):
            handler(segment)

    def faults_of_set(self) -> list[str]:
        if not self._set.segments:
            return []
        faults = list(self._faults)
        if not self._kind:
            faults.append(f"ST03 is {self._version!r}, which is neither an 837P nor an 837I of version 5010")
        if not self.received:
            faults.append("BHT is missing, or BHT04 is not a date")
        elif self._purpose != "CH":
            faults.append(f"BHT06 is {self._purpose!r}: only claims that ask for payment (CH) are taken")
        faults += [f"NM1*{code} is missing (loop {loop})" for code, loop in _HEADER.items() if code not in self._names]
        return faults

    def _bht(self, segment: list[str]) -> None:
        self.received, self._purpose = iso_date(element(segment, 4)), element(segment, 6)

    def _hl(self, segment: list[str]) -> None:
        self.end_claim()
        number, parent, self._level = (element(segment, place) for place in (1, 2, 3))
        if number != str(len(self._levels) + 1):
            self._faults.append(f"HL01 is {number!r}, but it should be {len(self._levels) + 1}")
        expected = _PARENTS.get(self._level)
        if expected is None:
            self._faults.append(f"HL03 is {self._level!r}, which is not a level of an 837")
        elif self._levels.get(parent, "") != expected:
            self._faults.append(f"HL02 of HL {number} is {parent!r}, which is not a level {expected}")
        self._levels[number] = self._level
        if self._level == "20":
            self._payee, self._subscriber, self._patient, self._seen = Provider(), Person(), None, set()
        elif self._level == "22":
            self._subscriber, self._patient = Person(), None
            self._seen -= {"SBR", "IL", "PR", "PAT", "QC"}
        else:
            self._patient = Person(self._subscriber.id)
            self._seen -= {"PAT", "QC"}

    def _mark(self, segment: list[str]) -> None:
        self._seen.add(segment[0])

    def _sbr(self, segment: list[str]) -> None:
        if self._claim is None:
            self._seen.add("SBR")
            self._payer_rank = element(segment, 1)
        else:
            self._other_payer = True

    def _nm1(self, segment: list[str]) -> None:
        role = element(segment, 1)
        if self._claim is not None:
            if role == "82" and not self._other_payer:
                (self._line or self._claim).rendering = element(segment, 9)
            return  # NM1*IL and NM1*PR of a claim are of another payer (loops 2330A, 2330B)
        self._entity = role
        self._names.add(role)
        self._seen.add(role)
        if role == "85":
            self._payee = Provider(element(segment, 9) if element(segment, 8) == "XX" else "", _full_name(segment))
        elif role == "IL":
            self._subscriber.id = element(segment, 9)
            self._name(self._subscriber, segment)
        elif role == "QC" and self._patient:
            self._name(self._patient, segment)

    def _name(self, person: Person, segment: list[str]) -> None:
        person.last, person.first = element(segment, 3), element(segment, 4)

    def _ref(self, segment: list[str]) -> None:
        qualifier, value = element(segment, 1), element(segment, 2)
        if self._line and qualifier == "6R":
            self._line.reference = value
        elif self._claim is None and self._entity == "85" and qualifier in ("EI", "SY"):
            self._payee.tax = value

    def _dmg(self, segment: list[str]) -> None:
        if self._claim is None:
            (self._patient or self._subscriber).birth = iso_date(element(segment, 2))

    def _clm(self, number: int, segment: list[str]) -> None:
        self.end_claim()
        place, _, frequency = (*element(segment, 5).split(self._component), "", "", "")[:3]
        self._claim = Claim(
            number,
            self._kind,
            self.received,
            element(segment, 1),
            cents(element(segment, 2)),
            place,
            frequency,
            self._payer_rank,
            self._payee,
            self._subscriber,
            self._patient or self._subscriber,
        )
        self._seen -= {"CL1"}

    def _hi(self, segment: list[str]) -> None:
        if self._claim:
            codes = [composite.split(self._component)[0] for composite in segment[1:]]
            self._claim.diagnoses += sum(code in _DIAGNOSES for code in codes)

    def _dtp(self, segment: list[str]) -> None:
        begins, _, ends = element(segment, 3).partition("-")
        begins, ends = iso_date(begins), iso_date(ends or begins)
        if element(segment, 1) == "472" and self._line:
            self._line.date, self._line.until = begins, ends
        elif element(segment, 1) == "434" and self._claim:
            self._claim.begins, self._claim.ends = begins, ends

    def _lx(self, segment: list[str]) -> None:
        if self._claim:
            self._other_payer = False
            self._line = Line(element(segment, 1))
            self._claim.lines.append(self._line)

    def _sv1(self, segment: list[str]) -> None:
        if self._line:
            self._procedure(element(segment, 1))
            self._line.charge, self._line.units = cents(element(segment, 2)), _units(element(segment, 4))
            self._line.pointers = tuple(filter(None, element(segment, 7).split(self._component)))

    def _sv2(self, segment: list[str]) -> None:
        if self._line:
            self._line.revenue = element(segment, 1)
            self._procedure(element(segment, 2))
            self._line.charge, self._line.units = cents(element(segment, 3)), _units(element(segment, 5))

    def _procedure(self, composite: str) -> None:
        assert self._line
        if composite:
            self._line.qualifier, self._line.procedure, *rest = (*composite.split(self._component), "")
            self._line.modifiers = tuple(filter(None, rest[:4]))

    def end_claim(self) -> None:
        claim = self._claim
        if claim is None:
            return
        dates = [line.date for line in claim.lines if line.date]
        if self._kind == INSTITUTIONAL:
            for line in claim.lines:
                line.date, line.until = line.date or claim.begins, line.until or claim.ends
        elif dates:
            claim.begins, claim.ends = min(dates), max(line.until for line in claim.lines)
        claim.faults = self._missing_around(claim) + _faults(claim, "CL1" in self._seen)
        self.claims.append(claim)
        self._claim = self._line = None
        self._other_payer = False

    def _missing_around(self, claim: Claim) -> list[str]:
        """What is wrong with the loops that the claim is in."""
        needed = _NEEDED_DEPENDENT if self._patient else _NEEDED
        faults = [fault for tag, fault in needed.items() if tag not in self._seen]
        if "85" in self._seen and not npi_is_valid(claim.payee.npi):
            faults.append(f"NM109 of the billing provider (loop 2010AA) is {claim.payee.npi!r}: no valid NPI")
        if "IL" in self._seen and not claim.subscriber.id:
            faults.append("NM109 of the subscriber (loop 2010BA) is missing")
        return faults


_HEADER = {"41": "1000A", "40": "1000B"}
_NEEDED = {
    "85": "NM1*85 is missing (loop 2010AA)",
    "SBR": "SBR is missing (loop 2000B)",
    "IL": "NM1*IL is missing (loop 2010BA)",
    "PR": "NM1*PR is missing (loop 2010BB)",
}
_NEEDED_DEPENDENT = _NEEDED | {"PAT": "PAT is missing (loop 2000C)", "QC": "NM1*QC is missing (loop 2010CA)"}


def _faults(claim: Claim, has_cl1: bool) -> list[str]:
    """What is wrong with loop 2300 and its lines."""
    faults = []
    if not claim.number:
        faults.append("CLM01 is missing")
    if claim.charge is None:
        faults.append("CLM02 is not an amount")
    if claim.frequency != "1":
        faults.append(f"CLM05-3 is {claim.frequency!r}: only original claims (1) are taken")
    if not claim.diagnoses:
        faults.append("HI has no diagnosis (loop 2300)")
    if claim.kind == INSTITUTIONAL and not claim.begins:
        faults.append("DTP*434 is missing, or has no valid date (loop 2300)")
    if claim.kind == INSTITUTIONAL and not has_cl1:
        faults.append("CL1 is missing (loop 2300)")
    if not claim.lines:
        faults.append("LX is missing (loop 2400)")
    for line in claim.lines:
        faults += [f"line {line.number}: {fault}" for fault in _line_faults(claim, line)]
    if not faults and claim.charge != (total := sum(line.charge or 0 for line in claim.lines)):
        faults.append(f"CLM02 is {claim.charge} cents, but the lines come to {total}")
    return faults


def _line_faults(claim: Claim, line: Line) -> list[str]:
    faults = []
    if line.charge is None:
        faults.append("no SV1 or SV2 with an amount (loop 2400)")
    if line.units is None:
        faults.append(f"no units from 0 to {_UNITS_MAX}")
    if not line.date or not line.until:
        faults.append("DTP*472 is missing, or has no valid date")
    if claim.kind == PROFESSIONAL and line.qualifier != "HC":
        faults.append("SV101 names no HCPCS procedure")
    if claim.kind == INSTITUTIONAL and not line.revenue:
        faults.append("SV201 names no revenue code")
    return faults


def _full_name(segment: list[str]) -> str:
    return " ".join(filter(None, (element(segment, 3), element(segment, 4))))


def _units(text: str) -> Decimal | None:
    if not text.replace(".", "", 1).isdigit() or not text.isascii():
        return None
    units = Decimal(text)
    return units if units <= _UNITS_MAX else None
