"""Names of outputs are made of the source's, and results lie in its folders."""

import pytest

from services.contract.output_name import (
    NoName,
    check_template,
    common_folder,
    fill_template,
    has_suffix,
    result_folders,
)
from services.contract.source import TaskSource

CAT = TaskSource("s3://photos/2026/01/my cat.tar.gz", part=3)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{input.stem}.jpg", "my cat.tar.jpg"),
        ("{input.filename}", "my cat.tar.gz"),
        ("{input.stem}-{input.part}-{index}.csv", "my cat.tar-3-7.csv"),
        ("part-{index}", "part-7"),
    ],
)
def test_a_template_is_filled(template: str, name: str) -> None:
    assert fill_template(check_template(template), CAT, 7) == name


@pytest.mark.parametrize(
    "template", ["{stem}.jpg", "{input}.jpg", "a/{index}", "{input.stem} x", "{index", "{params.x}"]
)
def test_other_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"\{input.stem\}"):
        check_template(template)


@pytest.mark.parametrize(
    ("template", "source"),
    [
        ("{input.stem}.jpg", None),
        ("{input.filename}", TaskSource("s3://b/folder/")),
        ("{input.filename}", TaskSource("s3://b/a/..")),
        ("{input.filename}", TaskSource("s3://b/" + "x" * 256)),
        ("{input.stem}.json", TaskSource("s3://b/manifest.png")),
    ],
)
def test_what_can_not_be_a_name_is_refused(template: str, source: TaskSource | None) -> None:
    with pytest.raises(NoName, match="the output is named"):
        fill_template(template, source, 0)


@pytest.mark.parametrize(
    ("key", "suffix"), [("rejects.csv", ".jsonl"), ("manifest.csv", ".json"), ("x" * 250, ".jsonl"), ("a/", ".csv")]
)
def test_the_finished_name_is_checked_with_its_suffix(key: str, suffix: str) -> None:
    with pytest.raises(NoName, match="can't be the name of a result"):
        fill_template("{input.stem}", TaskSource(f"s3://b/{key}"), 0, suffix)


def test_a_suffix_makes_a_name_of_its_own() -> None:
    assert fill_template("{input.stem}", TaskSource("s3://b/manifest.json.gz"), 0, ".jsonl") == "manifest.json.jsonl"


def test_a_template_without_a_suffix_gets_one() -> None:
    assert [has_suffix(name) for name in ("{input.stem}", "{input.filename}", "{input.stem}.csv")] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("inputs", "common"),
    [
        ([{"prefix": "s3://photos/2026/"}], "photos/2026/"),
        ([{"prefix": "s3://photos/2026/c"}], "photos/2026/"),
        ([{"uri": "s3://photos/2026/a.csv"}, {"uri": "s3://photos/2025/a.csv"}], "photos/"),
        ([{"prefix": "s3://photos/a/"}, {"prefix": "s3://photos/ab/"}], "photos/"),
        ([{"prefix": "s3://photos/"}, {"prefix": "s3://films/"}], ""),
        ([{"prefix": "s3://photos/"}, {"type": "manifest", "uri": "s3://photos/list.csv"}], ""),
        ([], ""),
    ],
)
def test_the_common_folder_of_a_jobs_inputs(inputs: list[dict[str, str]], common: str) -> None:
    assert common_folder(inputs) == common


def test_results_are_named_below_the_common_folder() -> None:
    assert result_folders(CAT, "photos/2026/") == "01/"
    assert result_folders(CAT, "") == "photos/2026/01/"
    assert result_folders(TaskSource("s3://b/../a//x"), "b/") == "%2E%2E/a/%2F/"
    assert result_folders(None, "") == ""
