"""Sizes and durations with units: one truth, wherever a number of bytes or seconds may be given."""

from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import piecework.units
import services.contract.units
from services.contract.fields import DURATION, SIZE
from services.contract.units import parse_duration, parse_size
from services.engine.errors import explain
from services.engine.spec import JobSpec
from services.inputs.spec import Input
from services.platform.settings import ApiSettings, WorkerSettings, read_settings
from tests.unit.client.openapi import schemas

Size = TypeAdapter(Annotated[int, SIZE])
Duration = TypeAdapter(Annotated[float, DURATION])


def test_client_and_services_read_the_same() -> None:
    ours, theirs = (Path(str(module.__file__)).read_text() for module in (services.contract.units, piecework.units))
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("10 B", 10),
        ("16MiB", 16 << 20),
        ("8M", 8 << 20),
        ("8mib", 8 << 20),
        ("1.5GB", 1_500_000_000),
        ("500KB", 500_000),
        ("1TiB", 1 << 40),
        ("4.35MB", 4_350_000),  # as a float it would be a byte less
    ],
)
def test_a_size_is_a_number_of_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("30s", 30),
        ("15 m", 900),
        ("2h", 7200),
        ("1.5h", 5400),
        ("7d", 604_800),
        ("1h30m", 5400),
        (" 1d 2h ", 93_600),
        ("500ms", 0.5),
        ("0.1s", 0.1),
    ],
)
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "1h2", "-5s", "1:30", "5M", "2 hours later", "1..5s", "٣s"])
def test_what_is_not_a_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write for example 30s, 15m, 2h"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "MiB", "1Q", "-1MB", "1 000", "2MiB1", "1MiBs", "٣MB"])
def test_what_is_not_a_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example 8MiB"):
        parse_size(text)


@given(st.integers(0, 2**50), st.sampled_from(["", "B", "K", "KiB", "KB", "MiB", "MB", "GiB", "TiB"]))
def test_the_schema_of_a_size_matches_what_is_read(number: int, unit: str) -> None:
    jsonschema.validate(f"{number}{unit}", Size.json_schema())
    assert Size.validate_python(f"{number}{unit}") == parse_size(f"{number}{unit}")


@given(st.text("0123456789. smhdwinc", max_size=12))
def test_the_schema_of_a_duration_matches_what_is_read(text: str) -> None:
    try:
        read = parse_duration(text)
    except ValueError:
        return
    jsonschema.validate(text, Duration.json_schema())
    assert Duration.validate_python(text) == read


STAGE = {"processor": "p", "timeout_seconds": "2h", "memory_bytes": "2GiB"}
STAGE |= {"retry": {"backoff_seconds": "500ms", "backoff_max_seconds": "1m"}}


def test_a_job_may_say_units_and_is_stored_in_plain_numbers() -> None:
    source = {"type": "lines", "uri": "s3://b/a", "format": "fixed", "record_bytes": "1KiB", "part_bytes": "16MiB"}
    resplit = {"type": "lines", "part_bytes": "1.5MB"}
    job = JobSpec.model_validate({"input": source, "stages": [STAGE, {"processor": "p", "resplit": resplit}]})
    stored: Any = job.model_dump(mode="json")
    assert (stored["input"]["record_bytes"], stored["input"]["part_bytes"]) == (1024, 16 << 20)
    first, second = stored["stages"]
    assert (first["timeout_seconds"], first["memory_bytes"]) == (7200.0, 2 << 30)
    assert (first["retry"]["backoff_seconds"], first["retry"]["backoff_max_seconds"]) == (0.5, 60.0)
    assert second["resplit"]["part_bytes"] == 1_500_000
    assert {type(value) for value in (first["memory_bytes"], stored["input"]["part_bytes"])} == {int}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"timeout_seconds": "2 hours"},
            "stages.0.timeout_seconds: '2 hours' is not a duration; write for example 30s",
        ),
        ({"timeout_seconds": "8d"}, "stages.0.timeout_seconds: Input should be less than or equal to 604800"),
        ({"memory_bytes": "much"}, "stages.0.memory_bytes: 'much' is not a size; write for example 8MiB"),
        ({"memory_bytes": "1KiB"}, "stages.0.memory_bytes: Input should be greater than or equal to 16777216"),
        ({"retry": {"backoff_seconds": "x"}}, "stages.0.retry.backoff_seconds: 'x' is not a duration"),
    ],
)
def test_a_bad_unit_is_refused_with_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate({"input": {"type": "range", "count": 1}, "stages": [STAGE | change]})
    assert explain(refused.value).startswith(message)


def test_objects_are_grouped_by_a_size_with_a_unit() -> None:
    source = {"type": "objects", "prefix": "s3://b/", "part_bytes": "64MiB"}
    assert TypeAdapter(Input).validate_python(source).part_bytes == 64 << 20


def test_every_size_and_duration_of_a_job_may_have_a_unit() -> None:
    fields = {
        f"{name}.{field}": described
        for name in ("StageSpec", "Retry", *(name for name in schemas() if name.endswith(("Input", "Resplit"))))
        for field, described in schemas()[name]["properties"].items()
        if field.endswith(("_bytes", "_seconds"))
    }
    assert len(fields) >= 14
    for name, described in fields.items():
        kinds = [choice.get("type") for choice in described.get("anyOf", [described])]
        assert "string" in kinds, name
        assert {"integer", "number"} & set(kinds), name


def test_settings_may_have_units(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"LEASE_SECONDS": "1m", "LINK_SECONDS": "2h", "BODY_BYTES_MAX": "2MiB", "INPUTS_BYTES_MAX": "1.5GB"}
    given |= {"HEARTBEAT_SECONDS": "1e1", "LOG_BYTES_MAX": "4096", "RECEIVE_WAIT_SECONDS": "5s"}
    for name, value in given.items():
        monkeypatch.setenv(f"PIECEWORK_{name}", value)
    api, found = read_settings(ApiSettings), read_settings(WorkerSettings)
    assert (found.lease_seconds, api.link_seconds, found.heartbeat_seconds) == (60.0, 7200, 10.0)
    assert (api.body_bytes_max, found.inputs_bytes_max, found.log_bytes_max) == (2 << 20, 1_500_000_000, 4096)
    assert found.receive_wait_seconds == 5


def test_every_setting_in_bytes_or_seconds_may_have_a_unit() -> None:
    fields = WorkerSettings.model_fields | ApiSettings.model_fields
    measured = [name for name in fields if name.endswith(("_seconds", "_bytes_max"))]
    assert len(measured) > 15
    for name in measured:
        metadata = fields[name].metadata
        assert (SIZE if name.endswith("_bytes_max") else DURATION) in metadata, name


def test_a_bad_setting_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIECEWORK_LEASE_SECONDS", "soon")
    with pytest.raises(SystemExit):
        read_settings(WorkerSettings)
    assert "PIECEWORK_LEASE_SECONDS: 'soon' is not a duration; write for" in capsys.readouterr().err
