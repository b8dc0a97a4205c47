"""Adjudicates the raw claims once more, in another way, and compares with what the grid made of them.

    python check.py DATA RESULTS

It shares no code with the processors: it keeps all claims in memory, in no parts, and computes in decimal dollars. It
compares every line of every claim (status, charge, allowed, deductible, coinsurance, paid, codes), the
rejected claims, the claims that data.py planted, and the 835: its counts, and its balance to the cent at each level.
"""

import csv
import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

CENT = Decimal("0.01")
ZERO = Decimal("0.00")
AMOUNTS = ("charge", "allowed", "deductible", "coinsurance", "paid")

Segment = list[str]
Key = tuple[str, int]  # the claim's number and the line's


class Line(NamedTuple):
    """What has to become of a service line; `codes` are a denial's reason and remark, or those of the adjustments."""

    status: str
    codes: str
    charge: Decimal
    allowed: Decimal = ZERO
    deductible: Decimal = ZERO
    coinsurance: Decimal = ZERO
    paid: Decimal = ZERO


class Service(NamedTuple):
    """A line before it is settled; `denial` is empty if the line is covered and has a fee."""

    charge: Decimal
    identity: tuple[str, ...]  # date, revenue code, procedure, modifiers
    denial: str
    allowed: Decimal = ZERO
    annual_deductible: Decimal = ZERO
    share: Decimal = ZERO


Lines = dict[Key, Line]


def main(data: Path, results: Path) -> int:
    gc.disable()  # it would look through millions of objects again and again, none of which is garbage
    lines, rejected = adjudicate(data)
    differences, kept = compare(data, results, lines, rejected)
    if differences:
        print(f"{differences:,} differences", file=sys.stderr)
        return 1
    claims = {claim for claim, _ in lines}
    charge, paid = (sum((getattr(line, name) for line in lines.values()), ZERO) for name in ("charge", "paid"))
    print(
        f"Compared {len(claims):,} adjudicated claims of {len(lines):,} lines and {len(rejected):,} rejected claims, "
        f"each amount and code: equal. Paid {paid:,} of {charge:,} charged; the 835 balances to the cent, "
        f"with {kept:,} kept back."
    )
    codes = Counter(code for line in lines.values() for code in line.codes.split())
    print("Adjusted lines: " + ", ".join(f"{code} {count:,}" for code, count in sorted(codes.items())))
    return 0


def compare(data: Path, results: Path, lines: Lines, rejected: set[str]) -> tuple[int, Decimal]:
    """The number of differences, which are printed, and what the 835 keeps back."""
    wrong = Differences()
    [ledger] = results.rglob("ledger.csv")
    compare_ledger(read_table(ledger), lines, rejected, wrong)
    compare_rejected(read_table(ledger.with_name("rejected.csv")), rejected, wrong)
    compare_planted(read_table(data / "planted.csv"), lines, rejected, wrong)
    kept = check_remittance(ledger.with_name("remittance.x12"), lines, wrong)
    compare_recoveries(read_table(data / "recoveries.csv"), kept, wrong)
    return wrong.count, sum(kept.values(), ZERO)


class Differences:
    def __init__(self) -> None:
        self.count = 0

    def expect(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            self.count += 1
            if self.count <= 20:
                print(f"{what}: {got!r}, but should be {expected!r}", file=sys.stderr)


def read_table(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield from csv.DictReader(file)


# The raw files.


def interchanges(text: str) -> Iterator[tuple[str, list[Segment]]]:
    """The component separator and all segments of each interchange."""
    position = 0
    while position < len(text):
        separator, component, terminator = (text[position + offset] for offset in (3, 104, 105))
        segments: list[Segment] = []
        while not segments or segments[-1][0] != "IEA":
            end = text.index(terminator, position)
            segments.append(text[position:end].strip("\r\n").split(separator))
            position = end + 1
        while text[position : position + 1] in ("\r", "\n"):
            position += 1
        yield component, segments


def transaction_sets(segments: list[Segment]) -> Iterator[tuple[tuple[str, str, str], list[Segment], bool]]:
    """The control numbers and the segments of each transaction set, and whether all envelopes around it are right."""
    tags = [segment[0] for segment in segments]
    isa, iea = segments[0], segments[-1]
    interchange_is_right = iea[1:] == [str(tags.count("GS")), isa[13]]
    for first in (place for place, tag in enumerate(tags) if tag == "GS"):
        last = tags.index("GE", first)
        group = segments[first]
        starts = [place for place in range(first, last) if tags[place] == "ST"]
        group_is_right = segments[last][1:] == [str(len(starts)), group[6]]
        for start in starts:
            end = tags.index("SE", start)
            one = segments[start : end + 1]
            is_right = one[-1][1:] == [str(len(one)), one[0][2]]
            yield (isa[13], group[6], one[0][2]), one, is_right and group_is_right and interchange_is_right


def claims(data: Path) -> Iterator[dict[str, Any]]:
    """Every claim: the segments around it by a key such as `IL`, and its own; whether its envelopes are wrong."""
    for path in sorted((data / "claims").iterdir()):
        text = path.read_bytes().decode(errors="surrogateescape")
        for component, segments in interchanges(text):
            for controls, one, envelopes_are_right in transaction_sets(segments):
                around: dict[str, Segment] = {}
                claim: dict[str, Any] = {}
                for number, segment in enumerate(one, start=1):
                    tag = segment[0]
                    if tag in ("HL", "CLM", "SE"):
                        if claim:
                            yield claim
                        claim = {}
                    if tag == "HL":
                        for key in {"20": (), "22": ("QC", "IL"), "23": ("QC",)}[segment[3]]:
                            around.pop(key, None)
                    if tag == "CLM":
                        claim = {"controls": controls, "number": number, "component": component, "body": []}
                        claim |= {"around": dict(around), "wrong": not envelopes_are_right}
                    if claim:
                        claim["body"].append(segment)
                    elif tag == "NM1":
                        around[segment[1]] = segment
                    else:
                        around[tag] = segment


# Adjudication.


def adjudicate(data: Path) -> tuple[Lines, set[str]]:
    """Every line of every claim, and the numbers of the rejected claims."""
    fees = defaultdict(list)
    for row in read_table(data / "fees.csv"):
        fees[row["qualifier"], row["code"], row["modifier"]].append(row)
    members = defaultdict(list)
    for row in read_table(data / "members.csv"):
        members[row["subscriber"], row["birth"], row["first"]].append(row)
    accepted, rejected = [], set()
    for claim in claims(data):
        number, around = claim["body"][0][1], claim["around"]
        lines = service_lines(claim)
        if must_be_rejected(claim, lines):
            rejected.add(number)
            continue
        person = around["IL"][9], iso(around["DMG"][2]), around.get("QC", around["IL"])[4]
        order = min(line["date"] for line in lines), around["BHT"][4], claim["controls"], claim["number"]
        services = [decide(claim, line, members[person], fees) for line in lines]
        accepted.append((order, number, person, around["85"][9], services))
    accepted.sort()
    settled: Lines = {}
    billed: set[tuple[object, ...]] = set()
    met: dict[object, Decimal] = defaultdict(Decimal)
    for _, number, person, payee, services in accepted:
        for place, service in enumerate(services, start=1):
            settled[number, place] = settle(service, person, payee, billed, met)
    return settled, rejected


def service_lines(claim: dict[str, Any]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    stay = next((segment[3] for segment in claim["body"] if segment[:2] == ["DTP", "434"]), "")
    for segment in claim["body"]:
        if segment[0] in ("SV1", "SV2"):
            at = int(segment[0] == "SV2")
            lines.append(
                {
                    "revenue": segment[1] if at else "",
                    "procedure": segment[1 + at].split(str(claim["component"]))[:6],
                    "charge": Decimal(segment[2 + at]).quantize(CENT),
                    "units": Decimal(segment[4 + at]),
                    "pointers": [] if at else segment[7].split(claim["component"]),
                    "date": iso(stay[:8]) if stay else "",
                }
            )
        elif segment[:2] == ["DTP", "472"]:
            lines[-1]["date"] = iso(segment[3][:8])
    return lines


def iso(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def must_be_rejected(claim: dict[str, Any], lines: list[dict[str, Any]]) -> bool:
    around, clm = claim["around"], claim["body"][0]
    return (
        claim["wrong"]
        or "BHT" not in around
        or around["BHT"][6] != "CH"
        or not luhn("80840" + around["85"][9])
        or len(around["IL"]) < 10
        or clm[5].split(claim["component"])[2] != "1"
        or not any(segment[0] == "HI" for segment in claim["body"])
        or not lines
        or sum(line["charge"] for line in lines) != Decimal(clm[2])
    )


def luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def decide(claim: dict[str, Any], line: dict[str, Any], coverages: list[dict[str, str]], fees: Any) -> Service:
    """What depends on no other claim."""
    procedure, day, charge = line["procedure"], line["date"], line["charge"]
    service = Service(charge, (day, line["revenue"], *procedure[1:]), "")
    own = takewhile(lambda segment: segment[0] not in ("SBR", "LX"), claim["body"])
    renderers = [segment[9] for segment in own if segment[:2] == ["NM1", "82"]]
    diagnoses = sum(len(segment) - 1 for segment in claim["body"] if segment[0] == "HI")
    if not all(luhn("80840" + npi) for npi in renderers):
        return service._replace(denial="CO-16 N290")
    if any(int(pointer) > diagnoses for pointer in line["pointers"]):
        return service._replace(denial="CO-16 M76")
    if claim["around"]["SBR"][1] != "P":
        return service._replace(denial="OA-22")
    if not coverages:
        return service._replace(denial="PR-31")
    covering = [row for row in coverages if row["start"] <= day <= (row["end"] or "9999")]
    if not covering:
        return service._replace(denial="PR-26" if all(day < row["start"] for row in coverages) else "PR-27")
    qualifier, code, *modifiers = procedure if len(procedure) > 1 else ["NU", line["revenue"]]
    for modifier in [*modifiers, ""]:
        for row in fees[qualifier, code, modifier]:
            if row["start"] <= day <= (row["end"] or "9999"):
                fee = (Decimal(row["allowed"]) * line["units"]).quantize(CENT, ROUND_HALF_UP)
                share = Decimal(covering[0]["coinsurance_percent"]) / 100
                return service._replace(
                    allowed=min(charge, fee), annual_deductible=Decimal(covering[0]["deductible"]), share=share
                )
    return service._replace(denial="CO-96 N130")


def settle(service: Service, person: object, payee: str, billed: set[Any], met: dict[object, Decimal]) -> Line:
    """What depends on the person's earlier claims."""
    if service.denial:
        return Line("denied", service.denial, service.charge)
    identity = person, payee, service.identity, service.charge
    if identity in billed:
        return Line("denied", "OA-18", service.charge)
    billed.add(identity)
    year = person, service.identity[0][:4]
    deductible = max(ZERO, min(service.allowed, service.annual_deductible - met[year]))
    met[year] += deductible
    coinsurance = ((service.allowed - deductible) * service.share).quantize(CENT, ROUND_HALF_UP)
    paid = service.allowed - deductible - coinsurance
    line = Line("paid", "", service.charge, service.allowed, deductible, coinsurance, paid)
    return line._replace(codes=sys.intern(" ".join(adjustments(line))))


def adjustments(line: Line) -> dict[str, Decimal]:
    if line.status == "denied":
        return {line.codes.split()[0]: line.charge}
    found = {"CO-45": line.charge - line.allowed, "PR-1": line.deductible, "PR-2": line.coinsurance}
    return {code: amount for code, amount in found.items() if amount}


# The comparisons.


def compare_ledger(table: Iterator[dict[str, str]], lines: Lines, rejected: set[str], wrong: Differences) -> None:
    seen: set[Key] = set()
    for row in table:
        key = row["claim"], int(row["line"])
        where = f"line {key[1]} of claim {key[0]}"
        if key in seen:
            wrong.expect(f"rows of {where} in the ledger", "several", 1)
        seen.add(key)
        if row["status"] == "rejected":
            wrong.expect(f"claim {key[0]} rejected", key[0] in rejected, True)
        elif (line := lines.get(key)) is None:
            wrong.expect(f"{where} in the claims, as in the ledger", False, True)
        else:
            codes = f"{row['codes']} {row['remark']}".strip()
            wrong.expect(f"status and codes of {where}", (row["status"], codes), (line.status, line.codes))
            wrong.expect(f"amounts of {where}", [Decimal(row[name]) for name in AMOUNTS], list(line[2:]))
    wrong.expect("rows in the ledger", len(seen), len(lines) + len(rejected))


def compare_rejected(table: Iterator[dict[str, str]], rejected: set[str], wrong: Differences) -> None:
    rows = list(table)
    wrong.expect("claims in rejected.csv", sorted(row["claim"] for row in rows), sorted(rejected))
    for row in rows:
        wrong.expect(f"a reason to reject claim {row['claim']}", bool(row["reason"] and row["interchange"]), True)


def compare_planted(planted: Iterator[dict[str, str]], lines: Lines, rejected: set[str], wrong: Differences) -> None:
    codes = defaultdict(set)
    for (claim, _), line in lines.items():
        codes[claim].update(line.codes.split())
    for row in planted:
        happened = {"rejected"} if row["claim"] in rejected else codes[row["claim"]]
        wrong.expect(f"{row['outcome']} for claim {row['claim']}, {row['defect']}", row["outcome"] in happened, True)


def check_remittance(path: Path, lines: Lines, wrong: Differences) -> dict[str, Decimal]:
    """The 835, for itself and beside the lines; returns what it keeps back by payee."""
    kept: dict[str, Decimal] = defaultdict(Decimal)
    reported: set[Key] = set()
    count = 0
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        segments = (line.removesuffix("~\n").split("*") for line in file)
        isa, gs = next(segments), next(segments)
        for st in segments:
            if st[0] != "ST":
                wrong.expect("GE of the 835", st, ["GE", str(count), gs[6]])
                break
            one = [st, *iter_until(segments, "SE")]
            count += 1
            wrong.expect(f"SE of transaction set {st[2]}", one[-1], ["SE", str(len(one)), st[2]])
            paid = check_claims(one, lines, reported, wrong)
            for segment in one:
                if segment[0] == "PLB":
                    kept[segment[1]] += Decimal(segment[4])
                    paid -= Decimal(segment[4])
            wrong.expect(f"BPR02 of transaction set {st[2]}", Decimal(one[1][2]), paid)
        wrong.expect("IEA of the 835", list(segments), [["IEA", "1", isa[13]]])
    wrong.expect("lines in the 835", len(reported), len(lines))
    return kept


def iter_until(segments: Iterator[Segment], tag: str) -> Iterator[Segment]:
    for segment in segments:
        yield segment
        if segment[0] == tag:
            return


def check_claims(one: list[Segment], lines: Lines, reported: set[Key], wrong: Differences) -> Decimal:
    """Balance all claims of a transaction set; returns what was paid for them."""
    total = ZERO
    starts = [place for place, segment in enumerate(one) if segment[0] == "CLP"]
    for start, end in zip(starts, [*starts[1:], len(one)], strict=True):
        clp = one[start]
        charge, paid, patient = Decimal(clp[3]), Decimal(clp[4]), Decimal(clp[5] or 0)
        services = [place for place in range(start, end) if one[place][0] == "SVC"]
        left, shares = charge, ZERO
        for number, (first, after) in enumerate(zip(services, [*services[1:], end], strict=True), start=1):
            key = clp[1], number
            where = f"line {number} of claim {clp[1]} in the 835"
            wrong.expect(f"{where} in the claims and not yet reported", key in lines and key not in reported, True)
            reported.add(key)
            found = cas(one[first:after])
            left -= sum(found.values(), ZERO)
            shares += sum((amount for code, amount in found.items() if code.startswith("PR")), ZERO)
            billed, line_paid = Decimal(one[first][2]), Decimal(one[first][3])
            wrong.expect(f"charge less adjustments of {where}", billed - sum(found.values(), ZERO), line_paid)
            if line := lines.get(key):
                expected = line.charge, line.paid, adjustments(line)
                wrong.expect(f"charge, paid and adjustments of {where}", (billed, line_paid, found), expected)
        wrong.expect(f"charge less adjustments of claim {clp[1]} in the 835", left, paid)
        wrong.expect(f"patient's share of claim {clp[1]} in the 835", patient, shares)
        total += paid
    return total


def cas(segments: list[Segment]) -> dict[str, Decimal]:
    found = {}
    for segment in segments:
        if segment[0] == "CAS":
            for place in range(2, len(segment), 3):
                found[f"{segment[1]}-{segment[place]}"] = Decimal(segment[place + 1])
    return found


def compare_recoveries(table: Iterator[dict[str, str]], kept: dict[str, Decimal], wrong: Differences) -> None:
    owed: dict[str, Decimal] = defaultdict(Decimal)
    for row in table:
        owed[row["payee"]] += Decimal(row["amount"])
    for payee, amount in kept.items():
        wrong.expect(f"payee {payee}: {amount} kept back of {owed[payee]} owed", amount <= owed[payee], True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
