"""Where objects live."""

from uuid import UUID

import pytest

from services.contract.layout import ALL_STAGES, SCHEDULER, Layout, Maker
from services.contract.location import Location

JOB = UUID(int=1)


@pytest.mark.parametrize("key", ["a", "a/b c/ü?#%.csv", "a//b", "/leading", "trailing/", "s3://nested/uri", ""])
def test_a_location_is_what_its_uri_says(key: str) -> None:
    assert Location.parse(Location("bucket", key).uri) == Location("bucket", key)


@pytest.mark.parametrize("uri", ["", "bucket/key", "s3:/bucket/key", "s3:///key", "s3://bucket", "https://bucket/key"])
def test_what_is_not_an_s3_uri_is_named_with_its_fix(uri: str) -> None:
    with pytest.raises(ValueError, match=r"is not an S3 URI; write s3://bucket/key") as error:
        Location.parse(uri)
    assert repr(uri) in str(error.value)


def test_everything_is_under_the_prefix_and_all_of_a_job_is_under_two_of_its_own() -> None:
    layout = Layout("b", "team/grid")

    job = layout.job(JOB).uri
    assert job == f"s3://b/team/grid/jobs/{JOB}/"
    assert layout.upload(JOB, "in.csv").uri == f"s3://b/team/grid/uploads/{JOB}/in.csv"
    assert layout.attempt(JOB, 1, 23, 4, "out.csv").uri == f"{job}1/23-4/out.csv"
    assert layout.log(JOB, 1, 23, 4).uri == f"{job}1/23-4/log.txt"
    interim = layout.interim(JOB).uri
    assert interim == f"s3://b/team/grid/interim/{JOB}/"
    assert layout.attempt(JOB, 1, 23, 4, "out.csv", interim=True).uri == f"{interim}1/23-4/out.csv"
    assert layout.outputs(JOB, 1, 7, JOB).uri == f"{interim}1/inputs/7-{JOB}.jsonl"
    assert layout.joined(JOB, 1).uri == f"{interim}1/joined"
    assert layout.sections(JOB, 1, "r").uri == f"{interim}1/sections/r/"
    assert layout.result(JOB, "r").uri == f"{job}results/r"
    assert Layout("b").job(JOB).uri == f"s3://b/jobs/{JOB}/"


@pytest.mark.parametrize("place", ["s3://theirs/a/b", "s3://theirs/a/b/"])
def test_results_in_a_place_of_the_users_are_under_the_jobs_id(place: str) -> None:
    assert Layout("b", "grid").result(JOB, "r", place).uri == f"s3://theirs/a/b/{JOB}/r"
    assert Layout("b", "grid").result(JOB, "r", "s3://theirs/").uri == f"s3://theirs/{JOB}/r"


def test_interim_objects_tell_who_made_them() -> None:
    layout = Layout("b", "team/grid")

    assert layout.maker(JOB, layout.attempt(JOB, 1, 23, 4, "d/out.csv")) == Maker(1, 23, 4)
    assert layout.maker(JOB, layout.attempt(JOB, 1, 23, 4, "out.csv", interim=True)) == Maker(1, 23, 4)
    assert layout.filename(JOB, layout.attempt(JOB, 1, 23, 4, "d/out.csv", interim=True)) == "d/out.csv"
    assert layout.filename(JOB, layout.joined(JOB, 1)) is None
    assert layout.maker(JOB, layout.joined(JOB, 1)) == Maker(1, SCHEDULER, 0)
    assert layout.maker(JOB, layout.outputs(JOB, 1, 7, JOB)) == Maker(1, SCHEDULER, 0)
    others = [
        layout.attempt(UUID(int=2), 1, 23, 4, "out.csv"),
        Layout("b").attempt(JOB, 1, 23, 4, "out.csv"),
        Layout("c", "team/grid").attempt(JOB, 1, 23, 4, "out.csv"),
        layout.upload(JOB, "jobs/1/23-4/out.csv"),
        layout.pin(JOB, "1"),
        layout.result(JOB, "1/23-4/out.csv"),
        Location("b", f"{layout.sections(JOB, 1, 'r').key}00001"),
    ]
    assert [layout.maker(JOB, other) for other in others] == [None] * len(others)


def test_each_object_of_a_job_is_interim_a_result_or_a_record_of_it_wherever_a_release_has_put_it() -> None:
    layout = Layout("b", "team/grid")
    old = layout.job(JOB).key

    def parts(*places: Location | str, results_stage: int | None = None) -> list[str]:
        keys = [place.key if isinstance(place, Location) else old + place for place in places]
        return [layout.part_of(JOB, key, results_stage) for key in keys]

    assert parts(layout.log(JOB, 1, 2, 3), layout.pin(JOB, "ab")) == ["records", "records"]
    assert parts(layout.result(JOB, "all.csv"), layout.result(JOB, "1/2-3/log.txt")) == ["results", "results"]
    assert parts(layout.joined(JOB, 0), layout.outputs(JOB, 1, 7, JOB)) == ["interim", "interim"]
    assert parts(layout.attempt(JOB, 0, 1, 1, "log.txt", interim=True), results_stage=0) == ["interim"]
    assert parts("0/1-1/out.csv", "1/1-1/d/out.csv", results_stage=1) == ["interim", "results"]
    assert parts("0/1-1/out.csv", "1/1-1/d/out.csv") == ["interim", "interim"]
    assert parts("0/1-1/out.csv", "1/1-1/out.csv", results_stage=ALL_STAGES) == ["results", "results"]
    scheduler_made = ("0/joined", f"0/inputs/1-{JOB}.jsonl", "0/sections/r/00001")
    assert parts(*scheduler_made, results_stage=0) == ["interim"] * 3
