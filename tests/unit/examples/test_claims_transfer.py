"""What transfers do to files changes no claim; what is wrong with one is told by its place, and no neighbour suffers.

Line ends, blanks, NULs, Ctrl-Z and byte order marks come from mainframes, terminals and mail, to places without data.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples.claims import ledger
from examples.claims.intake import read_claims
from examples.claims.money import cents, iso_date
from examples.claims.x12 import read_sets
from tests.unit.examples.test_claims import (
    INSTITUTIONAL,
    PROFESSIONAL,
    STYLES,
    assert_fault,
    claims_of,
    edit,
    interchange,
    parts_of,
    price_text,
    settle_text,
)

PLAIN = interchange(("*", ":", "~", ""), 1, 2, 1) + interchange(("|", ">", "~", "\r\n"), 22, 1)
SETS = [one.segments for one in read_sets(PLAIN)]
ISA = interchange(("*", ":", "~", ""), 1, 1)

Damage = Callable[[bytes], bytes]


def wrapped(columns: int, line_end: bytes) -> Damage:
    def wrap(data: bytes) -> bytes:
        lines = [data[start : start + columns] for start in range(0, len(data), columns)]
        return line_end.join(lines) + line_end

    return wrap


def unpadded(data: bytes) -> bytes:
    return re.sub(rb" +(?=[*|])", b"", data)


def between(junk: bytes) -> Damage:
    return lambda data: junk + data.replace(b"ISA", junk + b"ISA") + junk


def after_each_segment(junk: bytes) -> Damage:
    return lambda data: data.replace(b"~", b"~" + junk)


@pytest.mark.parametrize(
    "damage",
    [
        *(wrapped(columns, end) for columns in (80, 79, 13, 1) for end in (b"\r\n", b"\n", b"\r")),
        *(between(junk) for junk in (b"   ", b"\x1a", b"\0" * 512, b"\xef\xbb\xbf", b"\r\n \t\x1a\0\r\n")),
        *(after_each_segment(junk) for junk in (b" " * 33, b"\r\n\r\n", b"\t\n", b"~")),
        unpadded,
        lambda data: wrapped(80, b"\r\n")(unpadded(data)),
        lambda data: wrapped(80, b"\n")(between(b"\xef\xbb\xbf \x1a")(data)),
        lambda data: data.rstrip(b"\r\n").removesuffix(b"~"),
    ],
)
def test_what_a_transfer_adds_is_not_data_however_the_file_is_cut(tmp_path: Path, damage: Damage) -> None:
    content = damage(PLAIN)
    for part_bytes in (1, 700, 1_000_000):
        found = [one for part in parts_of(tmp_path / str(part_bytes), content, part_bytes) for one in read_sets(part)]
        assert [one.segments for one in found] == SETS
        assert [(one.sender, one.interchange, one.faults) for one in found] == [
            *[("A", "000000001", [])] * 3,
            ("A", "000000022", []),
        ]
    assert [one.segments for one in read_sets(content)] == SETS


@settings(max_examples=60, deadline=None)
@given(
    breaks=st.lists(st.tuples(st.integers(0, len(PLAIN)), st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=40),
    junk=st.lists(st.tuples(st.integers(0, PLAIN.count(b"~") - 1), st.binary(max_size=9)), max_size=9),
)
def test_line_ends_anywhere_and_padding_between_segments(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[tuple[int, bytes]], junk: list[tuple[int, bytes]]
) -> None:
    ends = [found.end() for found in re.finditer(b"~", PLAIN)]
    padding = b"\r\n\t \0\x1a"
    added = [(ends[place], bytes(padding[byte % len(padding)] for byte in bytes_)) for place, bytes_ in junk]
    content = bytearray(PLAIN)
    for place, what in sorted([*breaks, *added], reverse=True):
        content[place:place] = what
    parts = parts_of(tmp_path_factory.mktemp("parts"), bytes(content), 1)
    assert len(parts) == len(SETS)
    assert [one.segments for part in parts for one in read_sets(part)] == SETS


TORN = st.tuples(
    st.integers(0, len(ISA) - 1),
    st.integers(0, 60),
    st.binary(max_size=5) | st.sampled_from([b"~", b"*", b"ISA*", b"SE*", b"IEA*1*1~", b"GE*", b"ST*837*", b"~~"]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(TORN, min_size=1, max_size=4))
@example([(32, 4, b"*"), (151, 60, b"")])  # the end of a set is gone, and its interchange's sender
def test_an_interchange_torn_in_any_way_does_not_touch_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, tears: list[tuple[int, int, bytes]]
) -> None:
    torn = bytearray(ISA)
    for place, removed, added in tears:
        torn[place : min(place + removed, len(torn) - 1)] = added
    parts = parts_of(tmp_path_factory.mktemp("parts"), PLAIN + bytes(torn) + PLAIN, 1)
    found = [one for part in parts for one in read_sets(part)]
    for neighbours in (found[: len(SETS)], found[-len(SETS) :]):
        assert [(one.segments, one.faults) for one in neighbours] == [(segments, []) for segments in SETS]
    for one in found:
        assert read_claims(one)


@pytest.mark.parametrize(("element", "component", "terminator", "line_end"), STYLES)
def test_delimiters_are_those_that_the_header_names(
    tmp_path: Path, element: str, component: str, terminator: str, line_end: str
) -> None:
    content = interchange((element, component, terminator, line_end), 1, 2)
    short = re.sub(b" +(?=" + re.escape(element.encode()) + b")", b"", content)
    assert len(short) < len(content)
    for one in read_sets(short):
        assert one.faults == []
        assert [part.decode() for part in one.delimiters] == [element, "^", component, terminator]
    assert len(parts_of(tmp_path, short, 1)) == 2


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"*260101*", b"*26 1 1*", "ISA09 is '26 1 1' [TA105 014: Invalid Interchange Date Value]"),
        (b"*260101*", b"*260231*", "ISA09 is '260231' [TA105 014: Invalid Interchange Date Value]"),
        (b"*0000*^", b"*2460*^", "ISA10 is '2460' [TA105 015: Invalid Interchange Time Value]"),
        (b"*00501*", b"*00401*", "ISA12 is '00401' [TA105 017: Invalid Interchange Version ID Value]"),
        (
            b"*000000001*0",
            b"*+00000001*0",
            "ISA13 is '+00000001' [TA105 018: Invalid Interchange Control Number Value]",
        ),
        (b"*0*P*", b"*0*X*", "ISA15 is 'X' [TA105 020: Invalid Test Indicator Value]"),
        (b"*ZZ*A  ", b"*ZZ*AAAAAAAAAAAAAAAAA  ", "[TA105 006: Invalid Interchange Sender ID]"),
        (b"IEA*1*", b"IEA*\xc2\xb2*", "IEA01 says '²', but there are 1 groups [TA105 021: "),
        (b"IEA*1*", b"IEA*" + b"1" * 5000 + b"*", "1…', but there are 1 groups [TA105 021: "),
        (b"*20260101*", b"*2026 1 1*", "GS04 is '2026 1 1' [TA105 024: Invalid Interchange Content (e.g., Invalid GS"),
        (b"GE*1*", b"GE*+1*", "GE01 says '+1', but there are 1 transaction sets [AK905 5: "),
        (b"GE*1*1", b"GE*1*2", "GE02 is '2', but GS06 is '1' [AK905 4: "),
        (b"SE*6*", b"SE*6_0*", "SE01 says '6_0', but there are 6 segments [IK502 4: "),
        (b"~IEA*1*000000001~", b"~", "IEA is missing [TA105 023: Improper (Premature) End-of-File (Transmission)]"),
        (b"~GS*HC", b"~gs*HC", "segment 'gs' outside a transaction set [TA105 022: Invalid Control Structure]"),
    ],
)
def test_an_interchange_that_is_broken_is_rejected_as_a_whole_and_its_neighbours_are_not(
    tmp_path: Path, old: bytes, new: bytes, reason: str
) -> None:
    assert old in ISA
    for before, after in ((b"", PLAIN), (PLAIN, b""), (PLAIN, PLAIN)):
        content = before + ISA.replace(old, new) + after
        parts = parts_of(tmp_path / f"{len(before)}-{len(after)}", content, 1)
        found = [one.faults for part in parts for one in read_sets(part)]
        around = [not faults for faults in found]
        bad = around.index(False)
        assert around.count(False) == 1 and bad == bool(before) * len(SETS)
        assert len(found) == (bool(before) + bool(after)) * len(SETS) + 1
        assert reason in "; ".join(found[bad])


NO_DATES = "2026 1 1|+2026101|-2026101|2026_1_1|20261301|20260230|20270229|2026\u0660101|2026011||202601011| 20260101"
NO_DATES += "|20260101 |20260101\0|2026010a|00000101|2.026e07"
NO_AMOUNTS = (
    "1_000|+5|-5| 5|5 |5\0|1e3|NaN|Infinity|0x1F|\uff11\uff12|\u0661|1,000|1.2.3|$5|1.005|123456789|000123456789"
)


@pytest.mark.parametrize("text", NO_DATES.split("|"))
def test_no_date(text: str) -> None:
    assert iso_date(text) == ""


@pytest.mark.parametrize("text", [*NO_AMOUNTS.split("|"), "9" * 5000])
def test_no_amount(text: str) -> None:
    assert cents(text) is None


def test_the_largest_amount() -> None:
    assert cents("00099999999.99") == 9_999_999_999


@pytest.mark.parametrize(
    ("text", "change", "fault"),
    [
        (PROFESSIONAL, edit("D8*20260110", "D8*2026 110"), "line 1: DTP03 of segment 24 is '2026 110' [IK403 8: Inval"),
        (PROFESSIONAL, edit("D8*20260110", "D8*20260110-20260111"), "DTP03 of segment 24 is '20260110-20260111' [IK"),
        (
            PROFESSIONAL,
            edit("RD8*20260111-20260112", "RD8*20260112-20260111"),
            "DTP03 of segment 28 is '20260112-202601",
        ),
        (PROFESSIONAL, edit("RD8*20260111-20260112", "RD8*20260111"), "DTP03 of segment 28 is '20260111' [IK403 8"),
        (PROFESSIONAL, edit("D8*20260110", "XX*20260110"), "DTP02 of segment 24 is 'XX' [IK403 7: Invalid Code Value]"),
        (PROFESSIONAL, edit("D8*20260110", "TM*0900"), "line 1: DTP03 of segment 24 is '0900' [IK403 8: Invalid Date]"),
        (PROFESSIONAL, edit("D8*20010203", "D8*2001 203"), "DMG02 of segment 15 is '2001 203' [IK403 8: Invalid Date]"),
        (PROFESSIONAL, edit("*20260701*0600", "*2026 701*0600"), "BHT04 of segment 2 is '2026 701' [IK403 8: Inv"),
        (PROFESSIONAL, edit("*100***", "*+100***"), "CLM02 of segment 16 is '+100' [IK403 6: Invalid Ch"),
        (PROFESSIONAL, edit("*100***", "****"), "CLM02 of segment 16 is '' [IK403 1: Required Data Element Missing]"),
        (PROFESSIONAL, edit("*100***", f"*{'9' * 5000}***"), "9…' [IK403 5: Data Element Too Long]"),
        (PROFESSIONAL, edit("*60.5*", "*6e1*"), "line 1: SV102 of segment 23 is '6e1' [IK403 6: Invalid Ch"),
        (PROFESSIONAL, edit("*UN*1*", "*UN* 1*"), "line 1: SV104 of segment 23 is ' 1' [IK403 6: Invalid Ch"),
        (PROFESSIONAL, edit("*UN*1*", "*UN*\u0661*"), "line 1: SV104 of segment 23 is '\u0661' [IK403 6: Invalid Ch"),
        (PROFESSIONAL, edit("HI*ABK", "hi*ABK"), "segment 17 is 'hi' [IK304 1: Unrecognized segment ID]"),
        (PROFESSIONAL, edit("HL*3*2", "ZZZ*1~HL*3*2"), "segment 12 is 'ZZZ' [IK304 1: Unrecognized segment ID]"),
        (PROFESSIONAL, edit("NM1*QC*1*DOE", "NM1*QC*1*D\0OE"), "segment 14: NM103 is 'D\\x00OE' [IK403 6: "),
        (PROFESSIONAL, edit("REF*6R*L1", f"NTE*ADD*{'X' * 20_000}"), "a segment of 20008 characters [IK403 5: "),
        (PROFESSIONAL, edit("PAT*19", "PAT*19****D8*2026 101"), "PAT06 of segment 13 is '2026 101' [IK403 8: Inv"),
        (INSTITUTIONAL, edit("HI*ABF:E119", "HI*BBR:0DB:D8:2026 101"), "HI01-4 of segment 16 is '2026 101' [IK403 8"),
        (INSTITUTIONAL, edit("RD8*20260105", "RD8*20260135"), "DTP03 of segment 13 is '20260135-20260107' [IK403 8"),
        (INSTITUTIONAL, edit("*3000*DA", "*3_000*DA"), "line 1: SV203 of segment 19 is '3_000' [IK403 6: Invalid Ch"),
    ],
)
def test_a_fault_names_segment_and_element_as_a_999_does(text: str, change: Callable[[str], str], fault: str) -> None:
    assert_fault(text, change, fault)


def test_dates_in_all_their_formats() -> None:
    times = "DTP*435*DT*202601050930~DTP*096*TM*1130~DTP*439*D8*20260105~CL1*1"
    [claim] = claims_of(INSTITUTIONAL.replace("CL1*1", times))
    assert claim.faults == []


def test_a_fault_of_a_claim_is_not_its_neighbour_s() -> None:
    """Nor is one of a subscriber that of the next subscriber; one of the billing provider is everybody's."""
    head, hl, rest = INSTITUTIONAL.partition("HL*2*1*22*0~")
    second = "".join(rest.split("SE*20")[:1])
    two = head + hl + second + hl.replace("2*1", "3*1") + second.replace("C2*", "C3*") + "SE*0*0001~"

    def faults(old: str, new: str, count: int = -1) -> list[int]:
        assert old in two
        return [len(claim.faults) for claim in claims_of(two.replace(old, new, count))]

    assert faults("DTP*434", "DTP*434") == [0, 0]
    assert faults("20260105", "2026 105", 1) == [1, 0]
    assert faults("D8*19700203", "D8*1970 203", 1) == [1, 0]
    assert faults("CL1*1", "XX1*1", 1) == [2, 0]
    assert faults("NM1*85", "YYY*1~NM1*85") == [1, 1]
    assert faults("BHT*", "XXX*1~BHT*") == [1, 1]


def test_a_claim_with_more_reasons_than_a_table_takes(tmp_path: Path) -> None:
    lines = "".join(f"LX*{number}~SV1*HC:99213*1_0*UN*1***1~DTP*472*D8*2026 101~" for number in range(2, 3000))
    price_text(tmp_path, PROFESSIONAL.replace("LX*2~", f"{lines}LX*2~"))
    settle_text(tmp_path)
    [row] = csv.DictReader((tmp_path / "rejected.csv").open())
    assert row["reason"].startswith("SE01 says '29', ") and row["reason"].endswith("; and 5977 more")
    assert next(ledger.read(tmp_path / "ledger.csv")).status == ledger.REJECTED


def test_every_claim_of_a_broken_interchange_is_told() -> None:
    content = interchange(STYLES[0], 1, 3, IEA="7*000000001")
    assert [len(read_claims(one)[0].faults) > 0 for one in read_sets(content)] == [True] * 3
