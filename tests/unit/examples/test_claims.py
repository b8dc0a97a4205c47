"""The claims example: no transaction set is lost or torn, every fault is found, and every cent is accounted for."""

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.claims import check, data, ledger, remittance
from examples.claims.intake import Claim, read_claims
from examples.claims.money import cents, x12_amount
from examples.claims.pricing import price
from examples.claims.settle import Account, settle
from examples.claims.split import split
from examples.claims.x12 import npi_is_valid, read_sets
from tests.unit.examples.x12_judge import is_valid

CLAIMS, SEED = 800, 35  # a seed by which each kind of defect is planted
SETTLING = yaml.safe_load(Path(check.__file__).with_name("job.yaml").read_text())["merge"]["params"]
STYLES = [
    ("*", ":", "~", "\n"),
    ("*", ":", "~", ""),
    ("|", ">", "~", "\r\n"),
    ("\x1d", "\x1e", "\x1c", ""),
    ("*", "<", "\n", ""),
    ("*", "<", "\r", "\n"),
]

# Splitting.


def interchange(style: tuple[str, str, str, str], number: int, *groups: int, **wrong: str) -> bytes:
    """An interchange with this many transaction sets in its groups; `wrong` replaces texts, such as GE="9*1"."""
    element, component, terminator, line_end = style
    isa = ["ISA", "00", " " * 10, "00", " " * 10, "ZZ", f"{'A':15}", "ZZ", f"{'B':15}", "260101", "0000", "^", "00501"]
    segments = ["*".join([*isa, f"{number:09d}", "0", "P", component])]
    for group, sets in enumerate(groups, start=1):
        segments.append(f"GS*HC*A*B*20260101*0000*{group}*X*005010X222A1")
        for one in range(1, sets + 1):
            names = ["NM1*85*2*NURSE*SE", "NM1*87*2*CHASE*", "N3*SE", "REF*EI*SE"] * one
            segments += [f"ST*837*{number:04d}{group:02d}{one:03d}", *names]
            segments.append(wrong.get("SE", f"SE*{4 * one + 2}*{number:04d}{group:02d}{one:03d}"))
        segments.append("GE*" + wrong.get("GE", f"{sets}*{group}"))
    segments.append("IEA*" + wrong.get("IEA", f"{len(groups)}*{number:09d}"))
    return "".join(segment.replace("*", element) + terminator + line_end for segment in segments if segment).encode()


def parts_of(directory: Path, content: bytes, part_bytes: int) -> list[bytes]:
    source, output = directory / "source.x12", directory / f"parts-{part_bytes}"
    output.mkdir(parents=True)
    source.write_bytes(content)
    split(source, output, part_bytes)
    return [part.read_bytes() for part in sorted(output.iterdir())]


@pytest.mark.parametrize("style", STYLES)
def test_each_transaction_set_is_in_exactly_one_part_and_each_part_is_a_valid_interchange(
    tmp_path: Path, style: tuple[str, str, str, str]
) -> None:
    other = STYLES[STYLES.index(style) - 1]
    content = b"\r\n" + interchange(style, 1, 1, 9, 3) + interchange(other, 2, 2) + interchange(style, 3, 4, 1)
    whole = list(read_sets(content))
    assert len(whole) == 20
    for part_bytes in (1, 500, 2_000, 1_000_000):
        parts = parts_of(tmp_path / str(part_bytes), content, part_bytes)
        read = [one for part in parts for one in read_sets(part)]
        assert read == whole  # the segments, the control numbers around them, and no faults
        assert all(part.count(b"ISA") == 1 for part in parts)
        assert len(parts) == {1: 20, 1_000_000: 3}.get(part_bytes, len(parts))
        assert len(parts) > 3 or b"".join(parts) == content.lstrip()
        largest_set = 4 * 9 * 20
        assert max(map(len, parts)) < max(part_bytes, largest_set) + 400
        assert sum(map(len, parts)) < len(content) + len(parts) * 400


def test_acknowledgments_before_the_first_group_are_kept_once(tmp_path: Path) -> None:
    acknowledgments = b"TA1*000000905*260101*0000*A*000~\n" * 2
    plain = interchange(STYLES[0], 1, 2, 1)
    content = plain[:107] + acknowledgments + plain[107:]
    assert list(read_sets(content)) == list(read_sets(plain))
    parts = parts_of(tmp_path / "acknowledged", content, 1)
    assert parts[0].partition(b"GS*")[0] == content.partition(b"GS*")[0]
    assert [part.replace(acknowledgments, b"") for part in parts] == parts_of(tmp_path / "plain", plain, 1)
    assert b"".join(parts).count(b"TA1*") == 2
    late = plain.replace(b"GE*2*1~\n", b"GE*2*1~\n" + acknowledgments)
    outside = "segment 'TA1' outside a transaction set [TA105 022: Invalid Control Structure]"
    assert all(outside in one.faults for one in read_sets(late))


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"GE": "4*1"}, "GE01 says '4', but there are 3 transaction sets [AK905 5: "),
        ({"GE": "3*7"}, "GE02 is '7', but GS06 is '1' [AK905 4: "),
        ({"GE": "3"}, "GE02 is '', but GS06 is '1'"),
        ({"IEA": "2*000000002"}, "IEA01 says '2', but there are 1 groups [TA105 021: "),
        ({"IEA": "1*000000009"}, "IEA02 is '000000009', but ISA13 is '000000002' [TA105 001: "),
        ({"SE": ""}, "SE is missing [IK502 2: "),
    ],
)
def test_an_interchange_with_a_wrong_envelope_stays_whole_and_its_neighbours_are_cut(
    tmp_path: Path, wrong: dict[str, str], fault: str
) -> None:
    bad = interchange(STYLES[0], 2, 3, **wrong)
    before, after = interchange(STYLES[1], 1, 2), interchange(STYLES[2], 3, 2)
    parts = parts_of(tmp_path, before + bad + after, 1)
    assert parts[2] == bad
    assert len(parts) == 5
    faults = [one.faults for one in read_sets(before + bad + after)]
    assert faults[:2] == faults[-2:] == [[], []]
    assert all(fault in "; ".join(found) for found in faults[2:5])


NO_ISA = "no ISA segment of 16 elements, but '{}' [TA105 022: Invalid Control Structure]"
NO_GE = "GE is missing [AK905 3: Functional Group Trailer Missing]"
NO_IEA = "IEA is missing [TA105 023: Improper (Premature) End-of-File (Transmission)]"


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b"", []),
        (b"\r\n", []),
        (interchange(STYLES[0], 1, 0), []),
        (b"hello", [[NO_ISA.format("hello")]]),
        (interchange(STYLES[0], 1, 1)[:-26], [[NO_GE, NO_IEA]]),
        (interchange(STYLES[0], 1, 1) + b"rest~", [[], [NO_ISA.format("rest~")]]),
        (b"rest~" + interchange(STYLES[0], 1, 1), [[NO_ISA.format("rest~")], []]),
    ],
)
def test_what_is_not_an_interchange_is_kept_and_told(tmp_path: Path, content: bytes, faults: list[list[str]]) -> None:
    parts = parts_of(tmp_path, content, 1)
    assert [one.faults for part in parts for one in read_sets(part)] == faults
    assert [one.faults for one in read_sets(content)] == faults


def test_splitting_needs_no_memory_for_the_file(tmp_path: Path) -> None:
    small = interchange(STYLES[0], 1, 200)
    head, sets, tail = (
        small.partition(b"ST*")[0],
        small[small.index(b"ST*") : small.index(b"GE*")],
        b"IEA*1*000000001~\n",
    )
    (tmp_path / "many-interchanges.x12").write_bytes(small * 20)
    (tmp_path / "one-interchange.x12").write_bytes(head + sets * 20 + b"GE*4000*1~\n" + tail)
    program = f"""
from pathlib import Path
from examples.claims.split import split
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
for file in Path({str(tmp_path)!r}).glob("*.x12"):
    output = file.with_suffix("")
    output.mkdir()
    split(file, output, 4_000_000)
print(peak() - before)
"""
    root = Path(check.__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    assert all(file.stat().st_size > 20_000_000 for file in tmp_path.glob("*.x12"))
    assert len(list((tmp_path / "many-interchanges").iterdir())) == 20
    assert int(told) < 10_000  # KiB


# Validation.


@pytest.mark.parametrize("npi", ["1234567893", "1679576722", "1245319599"])
def test_npi(npi: str) -> None:
    assert npi_is_valid(npi)
    assert data.npi(npi[:9]) == npi
    for place, digit in enumerate(npi):
        others = [npi[:place] + other + npi[place + 1 :] for other in "0123456789" if other != digit]
        assert not any(map(npi_is_valid, others))


@pytest.mark.parametrize("npi", ["", "123456789", "12345678930", "123456789x", "12345678\u0663"])
def test_no_npi(npi: str) -> None:
    assert not npi_is_valid(npi)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("40", 4000), ("40.5", 4050), (".5", 50), ("0", 0), ("7.", 700), ("1.230", 123)]
    + [(text, None) for text in ("", ".", "-1", "1.234", "1e2", "1,5", "\u0661")],
)
def test_amounts(text: str, amount: int | None) -> None:
    assert cents(text) == amount
    if amount is not None:
        assert cents(x12_amount(amount)) == amount


PROFESSIONAL = """ST*837*0001*005010X222A1~BHT*0019*00*1*20260701*0600*CH~
NM1*41*2*SENDER*****46*S~NM1*40*2*PLAN*****46*P~
HL*1**20*1~NM1*85*2*CLINIC*****XX*1234567893~REF*EI*580000001~
HL*2*1*22*1~SBR*P********CI~NM1*IL*1*DOE*ANN****MI*W1~NM1*PR*2*PLAN*****PI*P~
HL*3*2*23*0~PAT*19~NM1*QC*1*DOE*BOB~DMG*D8*20010203*M~
CLM*C1*100***11:B:1*Y*A*Y*Y~HI*ABK:I10*ABF:E119~NM1*82*1*ROE*EVE****XX*1245319599~
SBR*S*01*******CI~NM1*IL*1*OTHER*ANN****MI*W9~NM1*PR*2*OTHER*****PI*O~
LX*1~SV1*HC:99213:25*60.5*UN*1***1:2~DTP*472*D8*20260110~REF*6R*L1~
LX*2~SV1*HC:71046:26:RT*39.5*UN*2***2~DTP*472*RD8*20260111-20260112~SE*29*0001~"""
INSTITUTIONAL = """ST*837*0001*005010X223A2~BHT*0019*00*1*20260701*0600*CH~
NM1*41*2*SENDER*****46*S~NM1*40*2*PLAN*****46*P~
HL*1**20*1~NM1*85*2*HOSPITAL*****XX*1234567893~
HL*2*1*22*0~SBR*P*18*******CI~NM1*IL*1*DOE*ANN****MI*W1~DMG*D8*19700203*F~NM1*PR*2*PLAN*****PI*P~
CLM*C2*3000***11:A:1**A*Y*Y~DTP*434*RD8*20260105-20260107~CL1*1*1*01~HI*ABK:I10~HI*ABF:E119~NM1*71*1*ROE*EVE****XX*1~
LX*1~SV2*0120**3000*DA*2~SE*20*0001~"""


def claims_of(text: str) -> list[Claim]:
    """The claims of a transaction set, which is numbered and counted again."""
    segments = [segment for line in text.splitlines() for segment in line.split("~") if segment]
    segments[-1] = f"SE*{len(segments)}*0001" if segments[-1].endswith("*0001") else segments[-1]
    head = interchange(("*", ":", "~", ""), 1).decode().partition("IEA")[0]
    tail = "GE*1*1~IEA*1*000000001~"
    [one] = read_sets(f"{head}GS*HC*A*B*20260101*0000*1*X*005010~{'~'.join(segments)}~{tail}".encode())
    return read_claims(one)


def test_a_professional_claim() -> None:
    [claim] = claims_of(PROFESSIONAL)
    assert claim.faults == []
    assert (claim.number, claim.kind, claim.charge, claim.segment) == ("C1", "P", 10000, 16)
    assert (claim.subscriber.id, claim.patient.first, claim.patient.birth) == ("W1", "BOB", "2001-02-03")
    assert (claim.payee.npi, claim.payee.tax, claim.rendering) == ("1234567893", "580000001", "1245319599")
    assert (claim.begins, claim.ends, claim.received, claim.diagnoses) == ("2026-01-10", "2026-01-12", "2026-07-01", 2)
    first, second = claim.lines
    assert (first.procedure, first.modifiers, first.charge, first.reference) == ("99213", ("25",), 6050, "L1")
    assert (second.modifiers, second.units, second.date, second.until) == (("26", "RT"), 2, "2026-01-11", "2026-01-12")


def test_an_institutional_claim() -> None:
    [claim] = claims_of(INSTITUTIONAL)
    assert claim.faults == []
    assert (claim.kind, claim.charge, claim.place, claim.diagnoses) == ("I", 300000, "11", 2)
    [line] = claim.lines
    assert (line.revenue, line.procedure, line.units, line.date, line.until) == (
        "0120",
        "",
        2,
        "2026-01-05",
        "2026-01-07",
    )


def edit(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "change", "fault"),
    [
        (PROFESSIONAL, edit("1234567893", "1234567890"), "billing provider"),
        (PROFESSIONAL, edit("*XX*1234567893", "*24*1234567893"), "billing provider"),
        (PROFESSIONAL, edit("NM1*85*2*CLINIC*****XX*1234567893~", ""), "NM1*85 is missing"),
        (PROFESSIONAL, edit("NM1*41*2*SENDER*****46*S~", ""), "NM1*41 is missing (loop 1000A)"),
        (PROFESSIONAL, edit("NM1*40*2*PLAN*****46*P~", ""), "NM1*40 is missing (loop 1000B)"),
        (PROFESSIONAL, edit("BHT*0019*00*1*20260701*0600*CH~", ""), "BHT is missing"),
        (PROFESSIONAL, edit("20260701", "20260731x"), "BHT04 of segment 2 is '20260731x' [IK403 8: Invalid Date]"),
        (PROFESSIONAL, edit("0600*CH~", "0600*RP~"), "BHT06 is 'RP'"),
        (PROFESSIONAL, edit("005010X222A1", "004010X098A1"), "neither an 837P nor an 837I"),
        (PROFESSIONAL, edit("HL*3*2*23", "HL*4*2*23"), "HL01 is '4', but it should be 3"),
        (PROFESSIONAL, edit("HL*3*2*23", "HL*3*1*23"), "HL02 of HL 3 is '1', which is not a level 22"),
        (PROFESSIONAL, edit("HL*2*1*22", "HL*2*1*19"), "HL03 is '19'"),
        (PROFESSIONAL, edit("SBR*P********CI~", ""), "SBR is missing (loop 2000B)"),
        (PROFESSIONAL, edit("NM1*IL*1*DOE*ANN****MI*W1~", ""), "NM1*IL is missing (loop 2010BA)"),
        (PROFESSIONAL, edit("****MI*W1", ""), "NM109 of the subscriber"),
        (PROFESSIONAL, edit("NM1*PR*2*PLAN*****PI*P~", ""), "NM1*PR is missing (loop 2010BB)"),
        (PROFESSIONAL, edit("PAT*19~", ""), "PAT is missing (loop 2000C)"),
        (PROFESSIONAL, edit("NM1*QC*1*DOE*BOB~", ""), "NM1*QC is missing (loop 2010CA)"),
        (
            PROFESSIONAL,
            edit("CLM*C1*", "CLM**"),
            "CLM01 of segment 16 is missing [IK403 1: Required Data Element Missing]",
        ),
        (
            PROFESSIONAL,
            edit("*100***", "*1OO***"),
            "CLM02 of segment 16 is '1OO' [IK403 6: Invalid Character In Data Element]",
        ),
        (PROFESSIONAL, edit("11:B:1", "11:B:7"), "CLM05-3 of segment 16 is '7'"),
        (PROFESSIONAL, edit("HI*ABK:I10*ABF:E119~", ""), "HI has no diagnosis"),
        (PROFESSIONAL, edit("*60.5*", "*60.51*"), "CLM02 of segment 16 is 10000 cents, but the lines come to 10001"),
        (
            PROFESSIONAL,
            edit("SV1*HC:99213:25*60.5*UN*1***1:2~", ""),
            "line 1: SV1 is missing (loop 2400) [IK304 3: Required Segment Missing]",
        ),
        (
            PROFESSIONAL,
            edit("HC:99213:25", "NU:0300"),
            "line 1: SV101 of segment 23 is 'NU:0300' [IK403 7: Invalid Code Value]",
        ),
        (
            PROFESSIONAL,
            edit("UN*2", "UN*many"),
            "line 2: SV104 of segment 27 is 'many' [IK403 6: Invalid Character In Data Element]",
        ),
        (PROFESSIONAL, edit("DTP*472*D8*20260110~", ""), "line 1: DTP*472 is missing"),
        (
            PROFESSIONAL,
            edit("20260110", "20260230"),
            "line 1: DTP03 of segment 24 is '20260230' [IK403 8: Invalid Date]",
        ),
        (PROFESSIONAL, lambda text: text[: text.index("LX*1")] + "SE*0*0001~", "LX is missing (loop 2400)"),
        (PROFESSIONAL, lambda text: text[: text.index("CLM")] + "SE*0*0001~", "CLM is missing (loop 2300)"),
        (PROFESSIONAL, edit("SE*29*0001", "SE*29*0002"), "SE02 is '0002', but ST02 is '0001'"),
        (PROFESSIONAL, edit("SE*29*0001", "SE*28*0009"), "SE01 says '28', but there are 29 segments"),
        (INSTITUTIONAL, edit("DTP*434*RD8*20260105-20260107~", ""), "DTP*434 is missing"),
        (INSTITUTIONAL, edit("CL1*1*1*01~", ""), "CL1 is missing (loop 2300)"),
        (
            INSTITUTIONAL,
            edit("SV2*0120", "SV2*"),
            "line 1: SV201 of segment 19 is '' [IK403 1: Required Data Element Missing]",
        ),
    ],
)
def test_faults(text: str, change: Callable[[str], str], fault: str) -> None:
    assert_fault(text, change, fault)


def assert_fault(text: str, change: Callable[[str], str], fault: str) -> None:
    """The change makes the first claim have the fault."""
    assert change(text) != text
    assert fault in "; ".join(claims_of(change(text))[0].faults)


def test_a_name_of_another_loop_is_not_the_provider_s() -> None:
    """What a pay-to plan (2010AC) and another payer (2330) say of themselves, and a line of its renderer (2420)."""
    plan = "REF*EI*580000001~NM1*PE*2*PLAN*****PI*9~N3*1 A ST~N4*MIAMI*FL*33101~REF*EI*999999999~"
    text = PROFESSIONAL.replace("REF*EI*580000001~", plan).replace("LX*1~", "NM1*82*1~REF*G2*7~LX*1~")
    claim, further = claims_of(
        text.replace("REF*6R*L1~", "REF*6R*L1~NM1*82*1*DOE*EVA****XX*1679576722~").replace(
            "SE*29*0001~", "CLM*C2*5***11:B:1~SBR*S*01~CLM*C3*5***11:B:1~NM1*82*1*ROE*EVE****XX*1245319599~SE*29*0001~"
        )
    )[::2]
    assert claim.faults == []
    assert further.rendering == "1245319599"
    assert (claim.payee.name, claim.payee.tax, claim.rendering) == ("CLINIC", "580000001", "1245319599")
    assert [line.rendering for line in claim.lines] == ["1679576722", None]


@pytest.mark.parametrize(
    "segment", ["SBR*P*18*******CI~", "NM1*IL*1*DOE*ANN****MI*W1~", "NM1*PR*2*PLAN*****PI*P~", "CL1*1*1*01~"]
)
def test_what_one_claim_has_does_not_count_for_the_next(segment: str) -> None:
    head, hl, claim = INSTITUTIONAL.partition("HL*2*1*22*0~")
    first, second = claims_of(head + hl + claim.replace("SE*20*0001~", "HL*3*1*22*0~") + claim.replace(segment, ""))
    assert first.faults == []
    assert len(second.faults) == 1


# Adjudication.


def service(date: str = "2026-01-10", charge: int = 10000, allowed: int = 8000, **more: Any) -> ledger.Row:
    plan = {"annual_deductible": 10000, "coinsurance_percent": 15}
    row = {"payee": "1", "date": date, "qualifier": "HC", "procedure": "99213", "charge": charge, "allowed": allowed}
    return ledger.Row(**(row | plan | more))


def test_deductible_and_coinsurance_over_two_years() -> None:
    account = Account()
    rows = [service(date) for date in ("2025-12-30", "2025-12-31", "2026-01-01")]
    rows.append(service("2026-01-02", charge=3333, allowed=3333))
    for row in rows:
        account.settle(row)
    assert [(row.deductible, row.coinsurance, row.paid, row.codes) for row in rows] == [
        (8000, 0, 0, "CO-45 PR-1"),
        (2000, 900, 5100, "CO-45 PR-1 PR-2"),
        (8000, 0, 0, "CO-45 PR-1"),
        (2000, 200, 1133, "PR-1 PR-2"),  # 15% of 13.33 are 1.9995
    ]


def test_half_a_cent_of_coinsurance_is_rounded_up() -> None:
    row = service(charge=10, allowed=10, annual_deductible=0)
    Account().settle(row)
    assert (row.coinsurance, row.paid) == (2, 8)


def test_duplicates() -> None:
    account = Account()
    others = [service(), service(), service(charge=10001), service(modifiers="76"), service("2026-01-11")]
    others.append(service(payee="2"))
    denied = service("2026-01-12", status=ledger.DENIED, codes="PR-27")
    for row in (*others, denied, retried := service("2026-01-12")):
        account.settle(row)
    assert [row.codes == "OA-18" for row in others] == [False, True, False, False, False, False]
    assert (others[1].status, others[1].allowed, others[1].paid) == (ledger.DENIED, 0, 0)
    assert (denied.codes, retried.status) == ("PR-27", ledger.PAID)


@pytest.mark.parametrize("field", ["interchange", "sender", "group", "set", "segment", "claim"])
def test_claims_are_told_apart_by_where_they_came_in(field: str) -> None:
    assert ledger.claim_of(service()) != ledger.claim_of(service(**{field: 7}))


def test_large_payments_are_divided_and_what_is_owed_is_kept_back_over_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remittance, "CLAIMS_MAX", 2)
    monkeypatch.setattr(remittance, "_SPOOL_CHARACTERS", 10)
    (tmp_path / "recoveries.csv").write_text("payee,reference,amount\n1,R1,5.00\n1,R2,20.00\n2,R3,1.00\n")
    made = remittance.Remittances(tmp_path)
    for number in range(5):
        made.add([service(claim=f"C{number}", payee_name="A*B~C:D", status=ledger.PAID, paid=1000, coinsurance=7000)])
    recoveries = remittance.read_recoveries(tmp_path / "recoveries.csv")
    payer = remittance.Payer(**SETTLING["payer"])
    assert made.write(tmp_path / "835", payer, SETTLING["paid_on"], recoveries) == 2500
    segments = [line.rstrip("~").split("*") for line in (tmp_path / "835").read_text().splitlines()]
    shown = {"BPR": slice(1, 3), "N1": slice(2, 3), "CLP": slice(1, 2), "PLB": slice(3, None)}
    assert [segment[shown[segment[0]]] for segment in segments if segment[0] in shown and segment[1] != "PR"] == [
        *(["H", "0"], ["A B C D"], ["C0"], ["C1"], ["WO:R1", "5"], ["WO:R2", "15"]),
        *(["I", "15"], ["A B C D"], ["C2"], ["C3"], ["WO:R2", "5"]),
        *(["I", "10"], ["A B C D"], ["C4"]),
    ]


FEES = """qualifier,code,modifier,start,end,allowed
HC,99213,,2025-01-01,2025-12-31,50.00
HC,99213,,2026-01-01,,51.00
HC,71046,,2025-01-01,,30.00
HC,71046,26,2025-01-01,,9.99
"""
MEMBERS = """subscriber,person,last,first,birth,sex,start,end,deductible,coinsurance_percent
W1,01,DOE,BOB,2001-02-03,M,2026-01-01,2026-03-31,250.00,20
W1,01,DOE,BOB,2001-02-03,M,2026-05-01,,0.00,10
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit("", ""), [("", 5100), ("", 1998)]),
        (edit("*UN*1*", "*UN*0.5*"), [("", 2550), ("", 1998)]),
        (edit("*UN*2*", "*UN*1.5*"), [("", 5100), ("", 1499)]),  # 14.985 is rounded up
        (lambda text: text.replace("*60.5*", "*10*").replace("*100*", "*49.5*"), [("", 1000), ("", 1998)]),
        (edit("20260110", "20260501"), [("", 5100), ("", 1998)]),
        (edit("20260110", "20251231"), [("PR-26", 0), ("", 1998)]),
        (edit("20260110", "20260401"), [("PR-27", 0), ("", 1998)]),
        (edit("*MI*W1", "*MI*W2"), [("PR-31", 0)] * 2),
        (edit("20010203", "20010204"), [("PR-31", 0)] * 2),
        (edit("SBR*P*", "SBR*S*"), [("OA-22", 0)] * 2),
        (edit("HC:99213", "HC:99999"), [("CO-96 N130", 0), ("", 1998)]),
        (edit("1245319599", "1245319590"), [("CO-16 N290", 0)] * 2),
        (edit("***1:2", "***1:3"), [("CO-16 M76", 0), ("", 1998)]),
    ],
)
def test_pricing(tmp_path: Path, change: Callable[[str], str], expected: list[tuple[str, int]]) -> None:
    told = price_text(tmp_path, change(PROFESSIONAL))
    rows = list(ledger.read(tmp_path / "ledgers" / "1.csv"))
    assert [(f"{row.codes} {row.remark}".strip(), row.allowed) for row in rows] == expected
    assert told["records"] == {"records_in": 1, "records_out": 1, "records_rejected": 0}


def price_text(directory: Path, text: str) -> dict[str, Any]:
    """Price one transaction set, given as its text."""
    head, _, tail = interchange(("*", ":", "~", ""), 1, 0).decode().partition("GE*0*1")
    (directory / "part.x12").write_text(f"{head}{text}GE*1*1{tail}", encoding="latin-1")
    (directory / "fees.csv").write_text(FEES)
    (directory / "members.csv").write_text(MEMBERS)
    (directory / "ledgers").mkdir()
    made = directory / "ledgers" / "1.csv"
    return price(directory / "part.x12", made, directory / "fees.csv", directory / "members.csv")


def settle_text(directory: Path) -> bytes:
    """Settle what was priced; returns the 835."""
    (directory / "recoveries.csv").write_text("payee,reference,amount\n")
    further = (directory / name for name in ("remittance.x12", "rejected.csv"))
    settle(directory / "ledgers", directory / "ledger.csv", *further, directory / "recoveries.csv", **SETTLING)
    return (directory / "remittance.x12").read_bytes()


def test_the_remittance_names_a_procedure_in_the_code_list_of_the_claim(tmp_path: Path) -> None:
    """Not all are HCPCS: what a nursing home is paid for is in HIPPS."""
    price_text(tmp_path, INSTITUTIONAL.replace("SV2*0120**3000*DA*2", "SV2*0022*HP:BBA01*3000*UN*2"))
    assert b"~\nSVC*HP:BBA01*3000*0*0022*0**2~\n" in settle_text(tmp_path)


def test_line_ends_and_letters_of_any_kind(tmp_path: Path) -> None:
    """Line ends inside segments mean nothing, and a name in another encoding than UTF-8 comes back as it was."""
    wrapped = "\r\n".join(PROFESSIONAL[start : start + 80] for start in range(0, len(PROFESSIONAL), 80))
    wrapped = wrapped.replace("SE*29*", "CLM*D\xd8*5***11:B:1~SE*30*")  # a claim to be rejected
    price_text(tmp_path, wrapped.replace("DOE", "MU\xd1OZ").replace("C1", "C\xd8"))
    written = settle_text(tmp_path)
    assert b"~\nCLP*C\xd8*1*100*" in written
    assert b"~\nNM1*QC*1*MU\xd1OZ*BOB****MI*W1~\n" in written
    assert b",D\xd8," in (tmp_path / "rejected.csv").read_bytes()


# The whole.


def price_all(raw: Path, work: Path, part_bytes: int) -> list[Path]:
    """The ledger of every part, in order."""
    parts: list[Path] = []
    for file in sorted((raw / "claims").iterdir()):
        (work / "parts" / file.name).mkdir(parents=True)
        split(file, work / "parts" / file.name, part_bytes)
        parts += sorted((work / "parts" / file.name).iterdir())
    (work / "ledgers").mkdir()
    ledgers = [work / "ledgers" / f"{number:08d}.csv" for number in range(len(parts))]
    for part, made in zip(parts, ledgers, strict=True):
        price(part, made, raw / "fees.csv", raw / "members.csv")
    return ledgers


def reduce_tree(raw: Path, work: Path, ledgers: list[Path], fan_in: int) -> Path:
    """Settle level by level; returns the directory of the last task."""
    level = 0
    while True:
        groups = [ledgers[start : start + fan_in] for start in range(0, len(ledgers), fan_in)]
        done = []
        for number, group in enumerate(groups):
            source, output = work / f"{level}-{number}" / "in", work / f"{level}-{number}" / "out"
            source.mkdir(parents=True)
            output.mkdir()
            for place, path in enumerate(group):
                (source / f"{place:08d}.csv").hardlink_to(path)
            further = (output / name for name in ("remittance.x12", "rejected.csv"))
            settle(source, output / "ledger.csv", *further, raw / "recoveries.csv", **SETTLING)
            done.append(output)
        if len(done) == 1:
            return done[0]
        ledgers = [output / "ledger.csv" for output in done]
        level += 1


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("raw")
    assert data.write(directory, CLAIMS, SEED) == CLAIMS
    return directory


@pytest.fixture(scope="module")
def results(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("flat")
    return reduce_tree(raw, work, price_all(raw, work, 1 << 30), fan_in=1000)


@pytest.fixture(scope="module")
def computed(raw: Path) -> tuple[check.Lines, set[str]]:
    return check.adjudicate(raw)


def test_results_are_those_of_the_independent_check(raw: Path, results: Path) -> None:
    assert check.main(raw, results) == 0
    planted = list(csv.DictReader((raw / "planted.csv").open()))
    assert {row["outcome"] for row in planted} >= {
        "rejected",
        "OA-18",
        "OA-22",
        "PR-26",
        "PR-27",
        "PR-31",
        "CO-16",
        "CO-96",
    }
    assert "encounter" in {row["defect"] for row in planted}


def test_part_size_and_shape_of_the_tree_change_nothing(raw: Path, results: Path, tmp_path: Path) -> None:
    ledgers = price_all(raw, tmp_path, 10_000)
    assert len(ledgers) > 3**3
    deep = reduce_tree(raw, tmp_path, ledgers[::-1], fan_in=3)
    for name in ("ledger.csv", "remittance.x12", "rejected.csv"):
        assert (deep / name).read_bytes() == (results / name).read_bytes()


def test_a_file_that_comes_in_twice_is_paid_once(raw: Path, results: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    first = min((raw / "claims").iterdir())
    (tmp_path / "raw" / "claims" / "again.x12").write_bytes(first.read_bytes())
    ledgers = price_all(tmp_path / "raw", tmp_path, 10_000)
    flat = reduce_tree(tmp_path / "raw", tmp_path / "flat", ledgers, fan_in=1000)
    deep = reduce_tree(tmp_path / "raw", tmp_path / "deep", ledgers[::-1], fan_in=2)
    for name in ("ledger.csv", "remittance.x12", "rejected.csv"):
        assert (deep / name).read_bytes() == (flat / name).read_bytes()
    sent_again = [claim.number for one in read_sets(first.read_bytes()) for claim in read_claims(one)]
    once, twice = (list(ledger.read(directory / "ledger.csv")) for directory in (results, flat))
    assert sum(row.paid for row in twice) == sum(row.paid for row in once)
    more = Counter(row.claim for row in twice) - Counter(row.claim for row in once)
    assert more == Counter(row.claim for row in once if row.claim in sent_again)
    shown = [(results / "remittance.x12").read_text().count(f"CLP*{number}*") for number in sent_again]
    assert [(flat / "remittance.x12").read_text().count(f"CLP*{number}*") for number in sent_again] == [
        2 * count for count in shown
    ]


def test_data_come_from_the_seed(raw: Path, tmp_path: Path) -> None:
    data.write(tmp_path / "again", CLAIMS, SEED)
    data.write(tmp_path / "other", 100, SEED + 1)
    for path in sorted(raw.rglob("*.*")):
        assert (tmp_path / "again" / path.relative_to(raw)).read_bytes() == path.read_bytes()
    assert (tmp_path / "other" / "members.csv").read_bytes() != (raw / "members.csv").read_bytes()


@pytest.mark.parametrize(
    ("name", "pattern", "replacement"),
    [
        ("ledger.csv", r"(paid,\d+\.\d\d,\d+\.\d\d,\d+\.\d\d,\d+\.\d\d,)\d+", r"\g<1>77"),
        ("ledger.csv", r",OA-18,", ",CO-18,"),
        ("ledger.csv", r"\nW[^\n]*,paid,[^\n]*", ""),
        ("ledger.csv", r"(\nW[^\n]*,paid,[^\n]*)", r"\1\1"),
        ("rejected.csv", r"\n[^\n]*\n$", "\n"),
        ("remittance.x12", r"CAS\*PR\*1\*\d+", "CAS*PR*1*1"),
        ("remittance.x12", r"CAS\*PR\*1\*", "CAS*PR*2*"),
        ("remittance.x12", r"BPR\*I\*\d", "BPR*I*7"),
        ("remittance.x12", r"SE\*(\d+)", r"SE*1\1"),
        ("remittance.x12", r"(CLP\*[^*]*\*1\*[^*]*\*[^*]*\*)\d+", r"\g<1>1"),
    ],
)
def test_the_check_finds_what_is_wrong(
    raw: Path,
    results: Path,
    computed: tuple[check.Lines, set[str]],
    tmp_path: Path,
    name: str,
    pattern: str,
    replacement: str,
) -> None:
    for path in results.iterdir():
        text = path.read_bytes().decode()
        changed = re.sub(pattern, replacement, text, count=1) if path.name == name else text
        assert (changed != text) == (path.name == name)
        (tmp_path / path.name).write_bytes(changed.encode())
    differences, _ = check.compare(raw, tmp_path, *computed)
    assert differences > 0


def test_an_independent_validator_agrees(raw: Path, results: Path, tmp_path: Path) -> None:
    """pyx12 knows the implementation guides: it takes the 835, and the claims that are not rejected, of both kinds."""
    text = (results / "remittance.x12").read_text()
    second = text.index("ST*835*0002~")  # one transaction set is enough
    assert is_valid(re.sub(r"GE\*\d+", "GE*1", text[:second] + text[text.index("GE*") :]))
    rejected = {row["claim"] for row in csv.DictReader((results / "rejected.csv").open())}
    accepted: dict[str, list[str]] = {"P": [], "I": []}
    for file in sorted((raw / "claims").iterdir()):
        for part in parts_of(tmp_path / file.name, file.read_bytes(), 1):
            claims = [claim for one in read_sets(part) for claim in read_claims(one)]
            small = len(part) < 3_000 and b"\x1e" not in part  # as a delimiter pyx12 does not know it
            if small and not any(claim.number in rejected for claim in claims):
                accepted[claims[0].kind].append(part.decode())
    parts = accepted["P"][:3] + accepted["I"][:3]
    assert [is_valid(part) for part in parts] == [True] * 6
    assert not is_valid(re.sub(r"(\WSE\W)", r"\g<1>9", parts[0]))
