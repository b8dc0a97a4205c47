"""Manifests as other tools of AWS write them."""

from typing import Any

import pytest

from tests.cases.conftest import DATA, CaseGrid

CASE = DATA / "manifest-of-s3-batch-operations"
SEEN = ["PZ9ibn9D5lP6p298B7S9_ceqx1n5EJ0p", "YY_ouuAJByNW1LRBfFMfxMge7XQWxMBF", "jbo9_jhdPEyB4RrmOxWS0kU0EoNrU_oI"]
MANIFEST = {"type": "manifest", "format": "csv"}


@pytest.fixture
def versioned(grid: CaseGrid) -> str:
    """A bucket of which each object has a version that is not the newest."""
    bucket = f"versioned-{id(grid)}"
    grid.s3.create_bucket(Bucket=bucket)
    grid.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def test_manifest_of_s3_batch_operations(grid: CaseGrid, versioned: str) -> None:
    """The keys are decoded, and the objects are those of the versions that the manifest names."""
    text = (CASE / "keys.csv").read_text().replace('"B"', versioned).replace("B,", f"{versioned},")
    for seen, name in zip(SEEN, ("a.csv", "b c.csv", "d e.csv"), strict=True):
        body = (CASE / "objects" / name).read_bytes()
        put = grid.s3.put_object(Bucket=versioned, Key=f"in/{name}", Body=body)
        grid.s3.put_object(Bucket=versioned, Key=f"in/{name}", Body=b"replaced since\n")
        text = text.replace(seen, put["VersionId"])
    place = grid.put({"keys.csv": text})
    for input in (MANIFEST, MANIFEST | {"objects_per_task": 2}):
        ended = grid.run(input | {"uri": f"{place}keys.csv"}, "case-copy", merge={"type": "concat"})
        assert ended.state == "succeeded", ended.error
        assert sorted(ended.lines()) == sorted(
            line
            for name in ("a.csv", "b c.csv", "d e.csv")
            for line in (CASE / "objects" / name).read_text().splitlines()
        )


def test_a_version_that_is_not_there_is_told_once(grid: CaseGrid) -> None:
    """The case as it is: a bucket without versions cannot have those that the manifest names."""
    place = grid.put_case("manifest-of-s3-batch-operations")
    prefix = place.removeprefix(f"s3://{grid.bucket}/")
    text = (CASE / "keys.csv").read_text().replace('"B"', "B").replace("B,in/", f"{grid.bucket},{prefix}objects/")
    ended = grid.run(MANIFEST | {"uri": f"{grid.put({'k.csv': text})}k.csv"}, "case-copy")
    assert (ended.state, ended.error_code, ended.attempts) == ("failed", "input_missing", 1)
    assert ended.error == f"{place}objects/a.csv has no version '{SEEN[0]}', which the job's manifest names"


@pytest.mark.parametrize("keys", ["a.csv\nb%20c.csv\nd+e.csv\n", "a.csv\nb c.csv\nd e.csv\n"])
def test_keys_without_versions_may_be_encoded_or_not(grid: CaseGrid, keys: str) -> None:
    place = grid.put_case("manifest-of-s3-batch-operations")
    prefix = place.removeprefix(f"s3://{grid.bucket}/")
    text = "".join(f"{grid.bucket},{prefix}objects/{key}\n" for key in keys.split("\n") if key)
    input: dict[str, Any] = MANIFEST | {"uri": f"{grid.put({'keys.csv': text})}keys.csv"}
    ended = grid.run(input, "case-copy")
    assert ended.state == "succeeded", ended.error
    assert len(ended.tasks) == 3
