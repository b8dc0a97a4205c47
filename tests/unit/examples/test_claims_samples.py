"""The claims example on X12's own published examples, which pyx12 and a plain reading of their text judge."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyx12 import x12n_document
from pyx12.params import params

from examples.claims import check, data, ledger
from examples.claims.intake import read_claims
from examples.claims.money import cents
from examples.claims.x12 import read_sets
from tests.unit.examples.test_claims import parts_of, price_all, reduce_tree

SAMPLES = Path(__file__).parent / "x12_samples"
CLAIMS = sorted((SAMPLES / "837p").iterdir())
REMITTANCES = sorted((SAMPLES / "835").iterdir())
# Most billing providers have a made-up NPI, whose check digit is wrong. That is their only fault.
VALID_NPI = {"drug-administered-in-the-physician-office", "home-infusion-hcpcs", "home-infusion-ndc"} | {
    "out-of-network-repriced-claim",
    "wheelchair",
}
REFUSED_BY_PYX12 = {"oxygen", "wheelchair"}  # for a CR3 and a MEA that the implementation guide has otherwise


def segments(text: str) -> list[list[str]]:
    """All samples have `*` and `~`, and no line ends but at the end."""
    return [segment.split("*") for segment in text.rstrip().removesuffix("~").split("~")]


def claim_number(path: Path) -> str:
    return next(segment[1] for segment in segments(path.read_text()) if segment[0] == "CLM")


def is_valid(text: str) -> bool:
    return bool(x12n_document.x12n_document(params(), io.StringIO(text), None, None))


def redelimited(sample: str, number: int) -> bytes:
    """The sample with delimiters and line ends that differ from one number to the next."""
    element, component, terminator, line_end = [
        ("*", ":", "~", ""),
        ("|", ">", "~", "\r\n"),
        ("|", "<", "!", ""),
        ("*", ":", "\n", ""),
    ][number % 4]
    changed = {"*": element, sample[104]: component, "~": terminator + line_end}
    return "".join(changed.get(letter, letter) for letter in sample.rstrip()).encode()


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_claim_is_read_as_it_is_written(path: Path) -> None:
    said = segments(path.read_text())
    tags = [segment[0] for segment in said]
    clm = said[tags.index("CLM")]
    billing = next(segment for segment in said if segment[:2] == ["NM1", "85"])
    subscriber = next(segment for segment in said if segment[:2] == ["NM1", "IL"])

    (one,) = read_sets(path.read_bytes())
    (claim,) = read_claims(one)

    assert one.control == said[tags.index("ST")][2]
    assert one.faults == []
    assert (claim.kind, claim.number, claim.charge) == ("P", clm[1], cents(clm[2]))
    assert (claim.payee.npi, claim.subscriber.id) == (billing[9], subscriber[9])
    assert len(claim.lines) == tags.count("LX")
    services = [segment for segment in said if segment[0] == "SV1"]
    component = path.read_text()[104]
    assert [(line.procedure, line.charge) for line in claim.lines] == [
        (service[1].split(component)[1], cents(service[2])) for service in services
    ]
    assert claim.charge == sum(line.charge or 0 for line in claim.lines)
    wrong_npi = f"NM109 of the billing provider (loop 2010AA) is {billing[9]!r}: no valid NPI"
    assert claim.faults == ([] if path.stem in VALID_NPI else [wrong_npi])


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
    judged = [path.stem for path, part in zip(paths, parts, strict=True) if not is_valid(part.decode())]
    assert set(judged) == {path.stem for path in paths} & REFUSED_BY_PYX12


def test_samples_of_one_sender_become_one_interchange_and_are_cut_again(tmp_path: Path) -> None:
    """Twelve transaction sets in one group: parts of one to all of them are valid interchanges."""
    like = [path for path in CLAIMS if path.stem not in REFUSED_BY_PYX12 and path.read_text()[104] == ":"][:12]
    texts = [path.read_text() for path in like]
    envelope = segments(texts[0])
    sets = [
        "~".join("*".join(segment) for segment in _numbered(text, n)) + "~" for n, text in enumerate(texts, start=1)
    ]
    ends = f"GE*{len(sets)}*{envelope[1][6]}~IEA*1*{envelope[0][13]}~"
    whole = "".join(["~".join("*".join(segment) for segment in envelope[:2]) + "~", *sets, ends])
    assert is_valid(whole)

    for part_bytes, least in ((1, len(sets)), (4000, 3), (1 << 20, 1)):
        parts = parts_of(tmp_path / str(part_bytes), whole.encode(), part_bytes)
        assert len(parts) >= least and all(is_valid(part.decode()) for part in parts)
        assert [one.segments for part in parts for one in read_sets(part)] == [
            one.segments for one in read_sets(whole.encode())
        ]


def _numbered(text: str, number: int) -> Iterator[list[str]]:
    """The transaction set under another control number, as no two of a group have the same."""
    for segment in segments(text)[2:-2]:
        if segment[0] in ("ST", "SE"):
            segment[2] = f"{number:04d}"
        yield segment


def test_samples_among_other_claims_are_settled_to_the_cent(tmp_path: Path) -> None:
    """Nobody in them is a member, so that nothing is paid; all the same each cent of them is accounted for."""
    data.write(tmp_path / "raw", 200, seed=8)
    samples = {
        claim_number(path): path for path in CLAIMS
    }  # by which the check, unlike the example, tells claims apart
    for path in samples.values():
        shutil.copyfile(path, tmp_path / "raw" / "claims" / path.name)
    (tmp_path / "work").mkdir()

    results = reduce_tree(tmp_path / "raw", tmp_path / "work", price_all(tmp_path / "raw", tmp_path / "work", 4000), 3)

    assert check.main(tmp_path / "raw", results) == 0
    with (results / "rejected.csv").open(errors="surrogateescape", newline="") as file:
        rejected = {row["claim"] for row in csv.DictReader(file)}
    charged = {row.claim for row in ledger.read(results / "ledger.csv")}
    assert len(samples) == 12
    for number, path in samples.items():
        assert number in (charged if path.stem in VALID_NPI else rejected)
