"""Claims of 837P and 837I transaction sets, each with all that is wrong with it.

The loops of an 837 have no marks of their own: where a segment belongs follows from the HL, CLM and LX before it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from .acknowledgments import fault, shown
from .money import cents, iso_date
from .x12 import TransactionSet, decode, element, npi_is_valid

PROFESSIONAL, INSTITUTIONAL = "P", "I"
_KINDS = {"005010X222": PROFESSIONAL, "005010X223": INSTITUTIONAL}
_PARENTS = {"20": "", "22": "20", "23": "22"}
_DIAGNOSES = {"BK", "BF", "ABK", "ABF"}
_UNITS_MAX = 100_000
_FORMATS = ("D8", "RD8", "DT", "TM")  # of DTP03
_PERIODS = ("434", "472")
_TIME = re.compile("([01][0-9]|2[0-3])[0-5][0-9]([0-5][0-9])?")

# All segments of the two guides, 005010X222 and 005010X223.
_SEGMENTS = frozenset(
    re.findall(
        r"\w+",
        "AMT BHT CAS CL1 CLM CN1 CR1 CR2 CR3 CRC CTP CUR DMG DTP FRM HCP HI HL K3 LIN LQ LX MEA MIA MOA N3 N4 NM1 NTE "
        "OI PAT PER PRV PS1 PWK QTY REF SBR SE ST SV1 SV2 SV5 SVD",
    )
)


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
    seen: set[str] = field(default_factory=set)  # of SV1, SV2 and DTP*472


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
        missing = fault("CLM is missing (loop 2300)", "IK304", "3")
        return [Claim(1, received=reader.received, faults=[*faults, *reader.faults_of_levels()] or [missing])]
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
        self._faults: dict[str, list[str]] = {"": [], "20": [], "22": [], "23": []}  # by the level of their HL
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
        self._number = 0  # of the segment
        self._handlers: dict[str, Callable[[list[str]], None]] = {
            "BHT": self._bht,
            "HL": self._hl,
            "NM1": self._nm1,
            "REF": self._ref,
            "SBR": self._sbr,
            "PAT": self._pat,
            "DMG": self._dmg,
            "CLM": self._clm,
            "CL1": self._mark,
            "HI": self._hi,
            "DTP": self._dtp,
            "LX": self._lx,
            "SV1": self._sv1,
            "SV2": self._sv2,
        }

    def read(self, number: int, segment: list[str]) -> None:
        self._number = number
        if handler := self._handlers.get(segment[0]):
            handler(segment)
        elif segment[0] not in _SEGMENTS:
            self._blame(fault(f"segment {number} is {shown(segment[0])}", "IK304", "1"))
        if why := self._set.spoiled.get(number):
            self._blame(f"segment {number}: {why}")

    def _blame(self, why: str) -> None:
        """A fault of the claim, or of all claims under the level that the segment belongs to."""
        (self._claim.faults if self._claim else self._faults[self._level]).append(why)

    def _place(self, name: str, value: str) -> str:
        line = f"line {self._line.number}: " if self._line else ""
        return f"{line}{name} of segment {self._number} is {shown(value)}"

    def faults_of_levels(self) -> list[str]:
        return [why for level in ("20", "22", "23") for why in self._faults[level]]

    def faults_of_set(self) -> list[str]:
        if not self._set.segments:
            return []
        faults = list(self._faults[""])
        if not self._kind:
            said = f"ST03 is {shown(self._version)}, which is neither an 837P nor an 837I of version 5010"
            faults.append(fault(said, "IK502", "1"))
        if "BHT" not in self._names:
            faults.append(fault("BHT is missing", "IK304", "3"))
        elif self._purpose != "CH":
            said = f"BHT06 is {shown(self._purpose)}: only claims that ask for payment (CH) are taken"
            faults.append(fault(said, "IK403", "I6"))
        for code, loop in _HEADER.items():
            if code not in self._names:
                faults.append(fault(f"NM1*{code} is missing (loop {loop})", "IK304", "3"))
        return faults

    def _bht(self, segment: list[str]) -> None:
        self._names.add("BHT")
        self.received, self._purpose = iso_date(element(segment, 4)), element(segment, 6)
        if not self.received:
            self._blame(fault(self._place("BHT04", element(segment, 4)), "IK403", "8"))

    def _hl(self, segment: list[str]) -> None:
        self.end_claim()
        number, parent, level = (element(segment, place) for place in (1, 2, 3))
        expected = _PARENTS.get(level)
        if expected is None:
            self._faults[""].append(fault(f"HL03 is {shown(level)}, which is not a level of an 837", "IK403", "7"))
        else:
            self._level = level
            for deeper in self._faults:
                if deeper >= level:
                    self._faults[deeper] = []
        if number != str(len(self._levels) + 1):
            said = f"HL01 is {shown(number)}, but it should be {len(self._levels) + 1}"
            self._faults[""].append(fault(said, "IK403", "7"))
        if expected is not None and self._levels.get(parent, "") != expected:
            said = f"HL02 of HL {number} is {shown(parent)}, which is not a level {expected}"
            self._faults[""].append(fault(said, "IK403", "7"))
        self._levels[number] = level
        if level == "20":
            self._payee, self._subscriber, self._patient, self._seen = Provider(), Person(), None, set()
        elif level == "22":
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

    def _pat(self, segment: list[str]) -> None:
        self._mark(segment)
        died = element(segment, 6)
        if died and not iso_date(died):
            self._blame(fault(self._place("PAT06", died), "IK403", "8"))

    def _dmg(self, segment: list[str]) -> None:
        if self._claim is None:
            (self._patient or self._subscriber).birth = birth = iso_date(element(segment, 2))
            if element(segment, 1) != "D8" or not birth:
                self._blame(fault(self._place("DMG02", element(segment, 2)), "IK403", "8"))

    def _clm(self, segment: list[str]) -> None:
        self.end_claim()
        place, _, frequency = (*element(segment, 5).split(self._component), "", "", "")[:3]
        self._claim = Claim(
            self._number,
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
        self._seen -= {"CL1", "DTP*434"}
        if self._claim.charge is None:
            self._blame_amount("CLM02", element(segment, 2))

    def _hi(self, segment: list[str]) -> None:
        if self._claim:
            for number, composite in enumerate(segment[1:], start=1):
                code, _, format, day, *_ = (*composite.split(self._component), "", "", "", "")
                self._claim.diagnoses += code in _DIAGNOSES
                if format and _period(format, day) is None:
                    self._blame(fault(self._place(f"HI{number:02d}-4", day), "IK403", "8"))

    def _dtp(self, segment: list[str]) -> None:
        what, format, text = (element(segment, place) for place in (1, 2, 3))
        period = _period(format, text)
        if period is None or (what in _PERIODS and not period[0]):
            code = ("DTP03", text, "8") if format in _FORMATS else ("DTP02", format, "7")
            self._blame(fault(self._place(*code[:2]), "IK403", code[2]))
        if what == "472" and self._line:
            self._line.seen.add("DTP*472")
            self._line.date, self._line.until = period or ("", "")
        elif what == "434" and self._claim:
            self._seen.add("DTP*434")
            self._claim.begins, self._claim.ends = period or ("", "")

    def _lx(self, segment: list[str]) -> None:
        if self._claim:
            self._other_payer = False
            self._line = Line(element(segment, 1))
            self._claim.lines.append(self._line)

    def _sv1(self, segment: list[str]) -> None:
        if self._line:
            self._procedure(element(segment, 1))
            if self._line.qualifier != "HC":
                self._blame(fault(self._place("SV101", element(segment, 1)), "IK403", "7"))
            self._service("SV1", element(segment, 2), element(segment, 4), first=2)
            self._line.pointers = tuple(filter(None, element(segment, 7).split(self._component)))

    def _sv2(self, segment: list[str]) -> None:
        if self._line:
            self._line.revenue = element(segment, 1)
            if not self._line.revenue:
                self._blame(fault(self._place("SV201", ""), "IK403", "1"))
            self._procedure(element(segment, 2))
            self._service("SV2", element(segment, 3), element(segment, 5), first=3)

    def _service(self, tag: str, charge: str, units: str, first: int) -> None:
        """What a line costs; `first` is the number of the charge's element."""
        assert self._line
        self._line.seen.add(tag)
        self._line.charge, self._line.units = cents(charge), _units(units)
        if self._line.charge is None:
            self._blame_amount(f"{tag}{first:02d}", charge)
        if self._line.units is None:
            self._blame_amount(f"{tag}{first + 2:02d}", units)

    def _blame_amount(self, name: str, value: str) -> None:
        code = "1" if not value else "5" if value.replace(".", "", 1).isdigit() and value.isascii() else "6"
        self._blame(fault(self._place(name, value), "IK403", code))

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
        claim.faults[:0] = [*self.faults_of_levels(), *self._missing_around(claim)]
        claim.faults += _faults(claim, self._seen)
        self.claims.append(claim)
        self._claim = self._line = None
        self._other_payer = False

    def _missing_around(self, claim: Claim) -> list[str]:
        """What is wrong with the loops that the claim is in."""
        needed = _NEEDED_DEPENDENT if self._patient else _NEEDED
        faults = [fault(what, "IK304", "3") for tag, what in needed.items() if tag not in self._seen]
        if "85" in self._seen and not npi_is_valid(claim.payee.npi):
            said = f"NM109 of the billing provider (loop 2010AA) is {shown(claim.payee.npi)}: no valid NPI"
            faults.append(fault(said, "IK403", "7"))
        if "IL" in self._seen and not claim.subscriber.id:
            faults.append(fault("NM109 of the subscriber (loop 2010BA) is missing", "IK403", "1"))
        return faults


_HEADER = {"41": "1000A", "40": "1000B"}
_NEEDED = {
    "85": "NM1*85 is missing (loop 2010AA)",
    "SBR": "SBR is missing (loop 2000B)",
    "IL": "NM1*IL is missing (loop 2010BA)",
    "PR": "NM1*PR is missing (loop 2010BB)",
}
_NEEDED_DEPENDENT = _NEEDED | {"PAT": "PAT is missing (loop 2000C)", "QC": "NM1*QC is missing (loop 2010CA)"}


def _faults(claim: Claim, seen: set[str]) -> list[str]:
    """What loop 2300 and its lines lack, and whether they add up."""
    clm, faults = f"segment {claim.segment}", []
    if not claim.number:
        faults.append(fault(f"CLM01 of {clm} is missing", "IK403", "1"))
    if claim.frequency != "1":
        said = f"CLM05-3 of {clm} is {shown(claim.frequency)}: only original claims (1) are taken"
        faults.append(fault(said, "IK403", "I6"))
    if not claim.diagnoses:
        faults.append(fault("HI has no diagnosis (loop 2300)", "IK304", "3"))
    for tag in ("DTP*434", "CL1"):
        if claim.kind == INSTITUTIONAL and tag not in seen:
            faults.append(fault(f"{tag} is missing (loop 2300)", "IK304", "3"))
    if not claim.lines:
        faults.append(fault("LX is missing (loop 2400)", "IK304", "3"))
    needed = ["SV2"] if claim.kind == INSTITUTIONAL else ["SV1", "DTP*472"]  # the stay's dates are those of its lines
    for line in claim.lines:
        missing = (tag for tag in needed if tag not in line.seen)
        faults += [fault(f"line {line.number}: {tag} is missing (loop 2400)", "IK304", "3") for tag in missing]
    if not claim.faults and not faults and claim.charge != (total := sum(line.charge or 0 for line in claim.lines)):
        faults.append(f"CLM02 of {clm} is {claim.charge} cents, but the lines come to {total}")
    return faults


def _period(format: str, text: str) -> tuple[str, str] | None:
    """The first and the last day of a DTP03 in the format of DTP02; empty for a time of day, None if it is wrong."""
    begins = ends = text
    match format:
        case "RD8":
            begins, _, ends = text.partition("-")
        case "DT":
            begins = ends = text[:8] if _TIME.fullmatch(text[8:]) else ""
        case "TM":
            return ("", "") if _TIME.fullmatch(text) else None
        case other if other != "D8":
            return None
    begins, ends = iso_date(begins), iso_date(ends)
    return (begins, ends) if begins and begins <= ends else None


def _full_name(segment: list[str]) -> str:
    return " ".join(filter(None, (element(segment, 3), element(segment, 4))))


def _units(text: str) -> Decimal | None:
    """A quantity from 0 to 100,000; None if it is not one."""
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        return None
    units = Decimal(text)
    return units if units <= _UNITS_MAX else None
