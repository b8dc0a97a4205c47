"""Plain scalars in job files and options: a number only where JSON would print it as it was typed."""

import json
from pathlib import Path
from typing import Any

import pytest

from piecework.errors import InputError
from piecework.jobfile import parse_value, read_mapping

TEXTS = [
    *("02142", "08901", "010", "0x1F", "0o17", "0b1", "1_000", "+1", "-0", "1.50", "1.10", ".5", "5.", "1e3", "1e400"),
    *("12:30:00", "1:30", "2026-10-31", "2026-10-31T12:00:00Z", "NO", "no", "on", "Off", "y", "yes", ".nan", "-.inf"),
    "3.14159265358979323846",
]
NUMBERS = ["0", "1", "-5", "12345678901234567890123", "1.5", "-0.5", "1.0", "0.00001"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_json_would_print_differently_stays_text(text: str) -> None:
    assert parse_value(text) == text


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_numbers(text: str) -> None:
    value = parse_value(text)
    assert isinstance(value, int | float) and value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("[1, a, 007]", [1, "a", "007"])],
)
def test_the_rest_is_yaml_1_2(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_a_job_file_means_what_the_same_json_would(tmp_path: Path) -> None:
    lines = "\n".join(f"    - {text}" for text in TEXTS)
    path = tmp_path / "job.yaml"
    path.write_text(f"base: &base {{zip: 02142}}\nlabels: {{<<: *base, country: NO, on: 12:30}}\nitems:\n{lines}\n")

    content = read_mapping(path)

    assert content["labels"] == {"zip": "02142", "country": "NO", "on": "12:30"}
    assert json.loads(json.dumps(content["items"])) == TEXTS


@pytest.mark.parametrize("value", ["!!binary aGk=", "!!timestamp 2026-10-31", "!!set {a}", "!!python/name:os.system"])
def test_a_tag_that_json_lacks_is_an_error_with_its_place(tmp_path: Path, value: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"name: a\nvalue: {value}\n")

    with pytest.raises(InputError, match=r"job.yaml:2:8: .*tag"):
        read_mapping(path)
