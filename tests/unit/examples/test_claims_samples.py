"""The claims example on X12's own published examples, which pyx12 and what was read in them by hand judge."""

import csv
import re
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from examples.claims import check, data, ledger
from examples.claims.intake import Claim, Line, read_claims
from examples.claims.x12 import read_sets
from tests.unit.examples.test_claims import parts_of, price_all, reduce_tree
from tests.unit.examples.x12_judge import is_valid

SAMPLES = Path(__file__).parent / "x12_samples"
CLAIMS = sorted((SAMPLES / "837p").iterdir())
REMITTANCES = sorted((SAMPLES / "835").iterdir())
INVALID_CODE = "[IK403 7: Invalid Code Value]"
REFUSED_BY_PYX12 = {"oxygen", "wheelchair"}  # for a CR3 and a MEA that the implementation guide has otherwise


class Sample(NamedTuple):
    """What is in a file, as its text says."""

    controls: str  # of interchange, group and transaction set
    number: str
    charge: str
    payee: str
    subscriber: str
    patient: str
    rendering: str | None
    diagnoses: int
    lines: list[str]  # procedure and modifiers, charge, units
    npi_is_wrong: bool = True  # most of them are made up


ROUTINE = "000010216 20213"
READ_BY_HAND = {
    "ambulance": Sample(
        *(f"{ROUTINE} 000017712", "051068", "766.50", "2366554859 376985369 AAA AMBULANCE SERVICE"),
        *("012345678A JONES SARAH", "JONES SARAH 1963-07-29", None, 4),
        ["A0427:RH 700 1", "A0425:RH 8.20 21", "A0422:RH 46 1", "A0382:RH 12.30 1"],
    ),
    "anesthesia": Sample(
        *(f"{ROUTINE} 0001", "153829140", "827", "2366554859 756473826 PROVIDER MEDICAL GROUP"),
        *("123456789A JONES MARGARET", "JONES MARGARET 1974-03-03", "5678912345", 1),
        ["00142:QK:QS:P1 827 61"],
    ),
    "chiropractic": Sample(
        *(f"{ROUTINE} 3701", "125WILL", "145.5", "1234567890 987654321 GREENE DAVID"),
        *("123456789A WILLIAMSON MATTHEW", "WILLIAMSON MATTHEW 1925-01-10", None, 1),
        ["98940 145.5 1"],
    ),
    "cob-claim-from-billing-provider-to-payer-a": Sample(
        *("000000001 3001 0021", "26407789", "79.04", "1999996666 123456789 KILDARE BEN"),
        *("111223333 SMITH JANE", "SMITH TED 1973-05-01", "1999996666", 4),
        ["99213 43 1", "90782 15 1", "J3301 21.04 1"],
    ),
    "cob-claim-from-billing-provider-to-payer-b": Sample(
        *("000000001 3001 1234", "26407789", "79.04", "1999996666 123456789 KILDARE BEN"),
        *("222334444 SMITH JACK", "SMITH TED 1973-05-01", "1999996666", 4),
        ["99213 43 1", "90782 15 1", "J3301 21.04 1"],
    ),
    "cob-claim-from-payer-a-to-payer-b-in-payer-to-payer": Sample(
        *("000000001 3001 0024", "26407789", "79.04", "1999996666 123456789 KILDARE BEN"),
        *("22233444 SmITH JACK", "SMITH TED 1973-05-01", "1999996666", 4),
        ["99213 43 1", "90782 15 1", "J3301 21.04 1"],
    ),
    "commercial-health-insurance": Sample(
        *(f"{ROUTINE} 0021", "26463774", "100", "9876543210 587654321 BEN KILDARE SERVICE"),
        *("JS00111223333 SMITH JANE", "SMITH TED 1973-05-01", None, 2),
        ["99213 40 1", "87070 15 1", "99214 35 1", "86663 10 1"],
    ),
    "drug-administered-in-the-physician-office": Sample(
        *(f"{ROUTINE} 0711", "CLMNO12345", "103.37", "1234567893 587654321 Associates in Medicine"),
        *("MBRID12345 Vaughn Steve", "Vaughn Steve 1943-05-01", "1122333341", 1),
        ["90782 50 1", "J1550 53.37 1"],
        npi_is_wrong=False,
    ),
    "encounter": Sample(
        *(f"{ROUTINE} 0021", "26462967", "100", "9876543210 587654321 BEN KILDARE SERVICE"),
        *("00221111 SMITH TED", "SMITH TED 1943-05-01", None, 2),
        ["99213 40 1", "87072 15 1", "99214 35 1", "86663 10 1"],
    ),
    "home-infusion-hcpcs": Sample(
        *(f"{ROUTINE} 0711", "CLMNO12345", "2232.93", "1234567893 10-1234567 Professional Home IV, LLC"),
        *("MBRID01234 Smith Steve", "Smith Steve 1943-05-01", None, 1),
        ["S9500 1400.00 7", "J0696 682.50 56", "J7051 15.12 28", "J3490 67.69 7", "J3490 57.12 14", "J3490 10.50 7"],
        npi_is_wrong=False,
    ),
    "home-infusion-ndc": Sample(
        *(f"{ROUTINE} 0711", "CLMNO12345", "2232.93", "1234567893 10-1234567 Professional Home IV, LLC"),
        *("MBRID01234 Smith Steve", "Smith Steve 1943-05-01", None, 1),
        ["S9500 1400.00 7", "S5001 682.50 7", "S5000 15.12 14", "S5000 67.69 7", "S5000 57.12 14", "S5000 10.50 7"],
        npi_is_wrong=False,
    ),
    "medicare-secondary-payer-cob": Sample(
        *(f"{ROUTINE} 0002", "101KEN6055", "120", "0100000009 890123456 SPECIALISTS"),
        *("102200221B1 MEDYUM WAYNE", "MEDYUM WAYNE 1956-01-10", "9090909090", 2),
        ["99203:25 120 1"],
    ),
    "out-of-network-repriced-claim": Sample(
        *(f"{ROUTINE} 1024", "TS234H3", "252.71", "1122334455 111002222 EMERGENCY PHYSICIANS GROUP"),
        *("57976235C SMITH MATTHEW", "SMITH TOM 1996-08-07", "1112223336", 1),
        ["99284 252.71 1"],
        npi_is_wrong=False,
    ),
    "oxygen": Sample(
        *(f"{ROUTINE} 0001", "R03996273 #01", "520.24", "9992233334 389999999 OXYGEN SUPPLY COMPANY"),
        *("111222333A SMITH TERRY", "SMITH TERRY 1938-01-05", None, 3),
        ["E1390:RR 461.1 1", "E0431:RR 59.14 1"],
    ),
    "ppo-repriced-claim": Sample(
        *(f"{ROUTINE} 1002", "ABC123-RI", "28.75", "1234567890 555512345 HAPPY DOCTORS GROUP PRACTICE"),
        *("00124A089 RING DIAMOND", "RING DIAMOND 1940-12-29", "1122334455", 2),
        ["E0570:RR 25 1", "A7003:NU 3.75 1"],
    ),
    "wheelchair": Sample(
        *(f"{ROUTINE} 112233", "SMI123", "75", "7778889999 123567989 XYZ WHEELCHAIR INC"),
        *("987654321A SMITH JAMES", "SMITH JAMES 1920-10-23", None, 2),
        ["K0001:RR:KH:BR 75 1"],
        npi_is_wrong=False,
    ),
}
DAYS = {  # of service, from the first to the last; one for each line, or one for all
    "ambulance": ["2005-02-08 2005-02-08"],
    "anesthesia": ["2005-01-12 2005-01-12"],
    "chiropractic": ["2005-02-15 2005-02-15"],
    "cob-claim-from-billing-provider-to-payer-a": ["2005-10-03 2005-10-03"],
    "cob-claim-from-billing-provider-to-payer-b": ["2005-10-03 2005-10-03"],
    "cob-claim-from-payer-a-to-payer-b-in-payer-to-payer": ["2005-10-03 2005-10-03"],
    "commercial-health-insurance": ["2006-10-03 2006-10-03"] * 2 + ["2006-10-10 2006-10-10"] * 2,
    "drug-administered-in-the-physician-office": ["2004-07-11 2004-07-11"],
    "encounter": ["2006-10-03 2006-10-03"] * 2 + ["2006-10-10 2006-10-10"] * 2,
    "home-infusion-hcpcs": ["2004-02-01 2004-02-07"],
    "home-infusion-ndc": ["2004-02-01 2004-02-07"],
    "medicare-secondary-payer-cob": ["2005-01-19 2005-01-19"],
    "out-of-network-repriced-claim": ["2005-05-06 2005-05-06"],
    "oxygen": ["2005-03-21 2005-03-21"],
    "ppo-repriced-claim": ["2005-05-14 2005-05-14"],
    "wheelchair": ["2005-03-21 2005-03-21"],
}


def dollars(cents: int | None) -> Decimal:
    assert cents is not None
    return Decimal(cents) / 100


def is_line(line: Line, text: str) -> bool:
    procedure, charge, units = text.split()
    shown = ":".join((line.procedure, *line.modifiers))
    return (shown, dollars(line.charge), line.units) == (procedure, Decimal(charge), Decimal(units))


def read(path: Path) -> tuple[str, Claim]:
    """The control numbers around the one claim of a sample, and the claim."""
    [one] = read_sets(path.read_bytes())
    [claim] = read_claims(one)
    assert one.faults == []
    return f"{one.interchange} {one.group} {one.control}", claim


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_claim_is_read_as_it_is_written(path: Path) -> None:
    said = READ_BY_HAND[path.stem]
    controls, claim = read(path)
    payee, subscriber, patient = claim.payee, claim.subscriber, claim.patient

    assert controls == said.controls
    assert (claim.kind, claim.number, dollars(claim.charge)) == ("P", said.number, Decimal(said.charge))
    assert f"{payee.npi} {payee.tax} {payee.name}" == said.payee
    assert f"{subscriber.id} {subscriber.last} {subscriber.first}" == said.subscriber
    assert f"{patient.last} {patient.first} {patient.birth}" == said.patient
    assert (claim.rendering, claim.diagnoses) == (said.rendering, said.diagnoses)
    assert len(claim.lines) == len(said.lines) and all(map(is_line, claim.lines, said.lines))
    days = [f"{line.date} {line.until}" for line in claim.lines]
    assert days == (DAYS[path.stem] if len(DAYS[path.stem]) > 1 else DAYS[path.stem] * len(days))
    assert dollars(claim.charge) == sum(dollars(line.charge) for line in claim.lines)


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_only_a_made_up_npi_and_a_report_are_rejected(path: Path) -> None:
    said = READ_BY_HAND[path.stem]
    npi = said.payee.split()[0]
    report = "BHT06 is 'RP': only claims that ask for payment (CH) are taken"
    expected = [f"{report} [IK403 I6: Code Value Not Used in Implementation]"] if path.stem == "encounter" else []
    if said.npi_is_wrong:
        expected.append(f"NM109 of the billing provider (loop 2010AA) is '{npi}': no valid NPI {INVALID_CODE}")
    _, claim = read(path)
    assert claim.faults == expected
    assert said.npi_is_wrong == (data.npi(npi[:9]) != npi)


# Splitting.


def segments(text: str) -> list[list[str]]:
    """All samples have `*` and `~`, and no line ends but at the end."""
    return [segment.split("*") for segment in text.rstrip().removesuffix("~").split("~")]


def joined(some: list[list[str]]) -> str:
    return "".join("*".join(segment) + "~" for segment in some)


def redelimited(sample: str, number: int) -> bytes:
    """The sample with delimiters and line ends that differ from one number to the next."""
    element, repetition, component, terminator, line_end = [
        ("*", "^", ":", "~", ""),
        ("|", "!", ">", "~", "\r\n"),
        ("|", "^", "<", "!", ""),
        ("*", "}", ":", "\n", ""),
    ][number % 4]
    sample = sample[:82] + repetition + sample[83:]
    changed = {"*": element, sample[104]: component, "~": terminator + line_end}
    return "".join(changed.get(letter, letter) for letter in sample.rstrip()).encode()


@pytest.mark.parametrize("paths", [CLAIMS, REMITTANCES], ids=["837p", "835"])
def test_one_file_of_all_samples_is_cut_into_valid_interchanges(tmp_path: Path, paths: list[Path]) -> None:
    """Each with delimiters of its own; every transaction set is in one part, as it was."""
    texts = [path.read_text() for path in paths]
    content = b"".join(redelimited(text, number) for number, text in enumerate(texts))

    parts = parts_of(tmp_path, content, 1)

    assert b"".join(parts) == content
    assert len(parts) == len(paths)
    sets = [one for part in parts for one in read_sets(part)]
    assert [one.faults for one in sets] == [[]] * len(paths)
    for one, text in zip(sets, texts, strict=True):
        component = one.delimiters.component.decode()
        assert one.segments == [
            [element.replace(text[104], component) for element in segment] for segment in segments(text)[2:-2]
        ]
    judged = {path.stem for path, part in zip(paths, parts, strict=True) if not is_valid(part.decode())}
    assert judged == {path.stem for path in paths} & REFUSED_BY_PYX12


def grouped(texts: list[str]) -> str:
    """Transaction sets of several samples in two groups of one interchange, under control numbers of their own."""
    isa = segments(texts[0])[0]
    interchange = [isa]
    for group, some in enumerate((texts[::2], texts[1::2]), start=1):
        interchange.append([*segments(texts[0])[1][:6], str(group), *segments(texts[0])[1][7:]])
        for number, text in enumerate(some, start=1):
            for segment in segments(text)[2:-2]:
                interchange.append([*segment[:2], f"{number:04d}", *segment[3:]] if segment[0] in "ST SE" else segment)
        interchange.append(["GE", str(len(some)), str(group)])
    return joined([*interchange, ["IEA", "2", isa[13]]])


def transaction_sets(text: str) -> list[str]:
    return re.findall(r"(?<=~)ST\*.*?~SE\*[^~]*~", text)


@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"], ids=["none", "LF", "CRLF"])
def test_samples_of_one_interchange_are_cut_at_transaction_sets(tmp_path: Path, line_end: str) -> None:
    like = [path for path in CLAIMS if path.stem not in REFUSED_BY_PYX12]
    whole = grouped([path.read_text() for path in like])
    assert is_valid(whole)
    for part_bytes, least, most in ((1, 14, 14), (4000, 4, 7), (1 << 20, 1, 1)):
        cut = parts_of(tmp_path / str(part_bytes), whole.replace("~", "~" + line_end).encode(), part_bytes)
        parts = [part.decode().replace(line_end, "") if line_end else part.decode() for part in cut]
        assert least <= len(parts) <= most
        assert all(is_valid(part.decode()) for part in cut)
        assert [one for part in parts for one in transaction_sets(part)] == transaction_sets(whole)


# The whole, on what a payer would know of some patients; the rest are not members.

FEES = """qualifier,code,modifier,start,end,allowed
HC,A0427,RH,2005-01-01,,350.00
HC,A0425,,2005-01-01,,7.00
HC,A0382,,2005-01-01,,15.00
HC,00142,QK,2005-01-01,,5.13
HC,99213,,2005-01-01,,40.00
HC,90782,,2005-01-01,,15.00
HC,J3301,,2005-01-01,,25.00
HC,S9500,,2004-01-01,,180.00
HC,J0696,,2004-01-01,,10.00
HC,J7051,,2004-01-01,,0.50
"""
MEMBERS = """subscriber,person,last,first,birth,sex,start,end,deductible,coinsurance_percent
012345678A,00,JONES,SARAH,1963-07-29,F,2005-01-01,,100.00,20
123456789A,00,JONES,MARGARET,1974-03-03,F,2005-01-01,,0.00,20
111223333,01,SMITH,TED,1973-05-01,M,2005-01-01,,30.00,10
222334444,01,SMITH,TED,1973-05-01,M,2005-01-01,,0.00,0
MBRID01234,00,Smith,Steve,1943-05-01,M,2004-01-01,,500.00,10
MBRID12345,00,Vaughn,Steve,1943-05-01,M,2004-08-01,,0.00,0
"""
BY_HAND = {  # codes, allowed, deductible, coinsurance, paid
    "ambulance": [
        "CO-45 PR-1 PR-2 350.00 100.00 50.00 200.00",
        "PR-2 8.20 0.00 1.64 6.56",  # 21 miles at 7.00 are more than was charged
        "CO-96 0.00 0.00 0.00 0.00",
        "PR-2 12.30 0.00 2.46 9.84",
    ],
    "anesthesia": ["CO-45 PR-2 312.93 0.00 62.59 250.34"],  # 61 minutes at 5.13
    "cob-claim-from-billing-provider-to-payer-a": [
        "CO-45 PR-1 PR-2 40.00 30.00 1.00 9.00",
        "PR-2 15.00 0.00 1.50 13.50",
        "PR-2 21.04 0.00 2.10 18.94",
    ],
    "cob-claim-from-billing-provider-to-payer-b": ["OA-22 0.00 0.00 0.00 0.00"] * 3,
    "drug-administered-in-the-physician-office": ["PR-26 0.00 0.00 0.00 0.00"] * 2,
    "home-infusion-hcpcs": [
        "CO-45 PR-1 PR-2 1260.00 500.00 76.00 684.00",
        "CO-45 PR-2 560.00 0.00 56.00 504.00",
        "CO-45 PR-2 14.00 0.00 1.40 12.60",
        *["CO-96 0.00 0.00 0.00 0.00"] * 3,
    ],
    "home-infusion-ndc": ["OA-18 0.00 0.00 0.00 0.00", *["CO-96 0.00 0.00 0.00 0.00"] * 5],
    "wheelchair": ["PR-31 0.00 0.00 0.00 0.00"],
}
PAID = {"2366554859": "466.74", "1999996666": "41.44", "1234567893": "1200.60"}  # by the payee's NPI in the samples
KEPT = Decimal("100.00")


def corrected(npi: str) -> str:
    return data.npi(npi[:9])


def number_of(path: Path) -> str:
    return f"S{CLAIMS.index(path):02d}"


def submitted(path: Path) -> str:
    """The sample with right check digits, and with a claim number of its own, which three and three do not have."""
    text = re.sub(r"(?<=\*XX\*)\d{10}", lambda found: corrected(found[0]), path.read_text())
    return re.sub(r"(?<=~CLM\*)[^*]*", number_of(path), text)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw" / "claims").mkdir(parents=True)
    for path in CLAIMS:
        (tmp_path / "raw" / "claims" / path.name).write_text(submitted(path))
    (tmp_path / "raw" / "fees.csv").write_text(FEES)
    (tmp_path / "raw" / "members.csv").write_text(MEMBERS)
    (tmp_path / "raw" / "recoveries.csv").write_text(f"payee,reference,amount\n{corrected('2366554859')},R1,{KEPT}\n")
    (tmp_path / "raw" / "planted.csv").write_text("claim,defect,outcome\n")
    return tmp_path / "raw"


def test_samples_are_adjudicated_and_paid_to_the_cent(raw: Path, tmp_path: Path) -> None:
    """With corrected NPIs all but the report of an encounter pass; the ledger, the 835 and the bill by hand agree."""
    work = tmp_path / "work"
    work.mkdir()
    ledgers = price_all(raw, work, 1)
    results = reduce_tree(raw, work, ledgers[::-1], fan_in=3)  # some have the same control numbers, too

    assert check.main(raw, results) == 0
    names = {number_of(path): path.stem for path in CLAIMS}
    rows: dict[str, list[str]] = defaultdict(list)
    for row in ledger.read(results / "ledger.csv"):
        amounts = (f"{dollars(cents):.2f}" for cents in (row.allowed, row.deductible, row.coinsurance, row.paid))
        rows[names[row.claim]].append(" ".join((row.codes, *amounts)))
    assert {name: rows[name] for name in BY_HAND} == BY_HAND
    assert rows.keys() == READ_BY_HAND.keys()
    with (results / "rejected.csv").open(newline="") as file:
        assert [names[row["claim"]] for row in csv.DictReader(file)] == ["encounter"]

    text = (results / "remittance.x12").read_text()
    assert is_valid(text)
    found = re.findall(r"BPR\*[IH]\*([0-9.]+)\*.*?N1\*PE\*[^~]*\*XX\*(\d{10})~", text, re.DOTALL)
    payments = {npi: Decimal(amount) for amount, npi in found if amount != "0"}
    expected = {corrected(npi): Decimal(amount) for npi, amount in PAID.items()}
    expected[corrected("2366554859")] -= KEPT
    assert payments == expected
    charged = sum(Decimal(said.charge) for name, said in READ_BY_HAND.items() if name != "encounter")
    assert sum(Decimal(clp[3]) for clp in segments(text.replace("\n", "")) if clp[0] == "CLP") == charged
