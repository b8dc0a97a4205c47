"""A format is a folder and a row: all of them have the same parts, and no process loads more of them than it needs."""

import inspect
import subprocess
import sys
from typing import Any, get_args

import pytest

from services.inputs import registry, spec
from services.inputs.registry import FOLDERS, FORMATS, INPUT_TYPES, format_of, load, part_suffix, suffix_of

LARGE = ("pyarrow", "duckdb", "fastavro", "zstandard", "numpy", "pydantic", "botocore", "asyncio")


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("type", INPUT_TYPES)
def test_every_type_of_input_can_be_split_and_looked_at(type: str) -> None:
    module = load(type, "split")
    assert parameters(module.split) == ["s3", "source", "cursor", "slots"]
    assert parameters(module.look) == ["s3", "source"]


def test_the_types_of_input_are_those_that_a_job_may_name() -> None:
    classes = get_args(get_args(spec.Input)[0])
    assert {get_args(each.model_fields["type"].annotation)[0] for each in classes} == set(INPUT_TYPES)


def test_every_type_that_may_need_a_task_to_split_it_has_a_cutter() -> None:
    classes = get_args(get_args(spec.Input)[0])
    types = [
        get_args(each.model_fields["type"].annotation)[0] for each in classes if issubclass(each, spec.StreamedObject)
    ]
    assert "lines" in types
    assert all(parameters(load(type, "cut").Cutter) == ["source", "part_bytes"] for type in types)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_format_can_be_fetched_read_and_shown_to_sql(folder: str) -> None:
    assert parameters(load(folder, "fetch").fetch) == ["s3", "part", "directory"]
    assert parameters(load(folder, "read").open_reader) == ["path", "format", "options"]
    assert all(parameters(step)[0] == "input" for step in load(folder, "read").STEPS.values())
    assert parameters(load(folder, "sql").show) == ["file", "format", "options", "view"]


def test_a_suffix_tells_one_format() -> None:
    suffixes = [suffix for row in FORMATS.values() for suffix in row.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)
    assert not set(suffixes) & set(registry.COMPRESSION_OF_SUFFIX)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.csv", "csv"),
        ("s3://b/dir.x/A.CSV.GZ", "csv"),
        ("a.jsonl.zst", "jsonl"),
        ("a.feather", "arrow"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),  # Parquet is compressed inside
        ("a.gz", None),
        ("a", None),
        ("dir.csv/a", None),
    ],
)
def test_a_name_tells_the_format(name: str, format: str | None) -> None:
    found = format_of(name)
    assert (found.name if found else None) == format


def test_a_part_is_called_by_its_objects_name_but_is_not_compressed() -> None:
    assert suffix_of("s3://b/2013.01.csv.gz") == ".csv.gz"
    assert suffix_of("A.CSV.GZ") == ".CSV.GZ"
    assert [part_suffix(name, "csv") for name in ("a.tab", "a.tab.gz", "a.gz", "a")] == [".tab", ".tab", ".csv", ".csv"]


def test_a_child_starts_without_the_formats_libraries() -> None:
    code = f"import sys, services.worker.child.program; print([m for m in {LARGE} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
