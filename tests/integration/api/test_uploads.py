"""Uploads: links from the API, bytes straight to S3."""

from typing import Any

import httpx
import pytest

from services.api.shapes import uploads
from services.contract.location import Location
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.integration.api.conftest import Keys, ok

MEBIBYTE = 1_048_576


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of S3's least size, so that a test need not send gigabytes."""
    monkeypatch.setattr(uploads, "PART_BYTES", 5 * MEBIBYTE)


async def put(upload: dict[str, Any], content: bytes) -> list[dict[str, Any]]:
    """PUT the content to the upload's links; what `complete` wants to know."""
    parts, start = [], 0
    async with httpx.AsyncClient() as s3:
        for link in upload["parts"]:
            response = await s3.put(link["url"], content=content[start : start + link["bytes"]])
            assert response.status_code == 200, response.text
            parts.append({"number": link["number"], "etag": response.headers["etag"]})
            start += link["bytes"]
    return parts


async def read(aws: Aws, uri: str) -> bytes:
    location = Location.parse(uri)
    answer = await aws.s3.get_object(Bucket=location.bucket, Key=location.key)
    data: bytes = await answer["Body"].read()
    return data


@pytest.mark.both_emulators("HeadObject")
@pytest.mark.parametrize("content", [b"carrier,month\nAA,1\n", b""])
async def test_a_small_file_goes_in_one_put(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws, content: bytes
) -> None:
    spec = {"filename": "Flüge 2013 (1).csv", "bytes": len(content)}
    upload = await ok(submitter.post("/v1/uploads", json=spec))
    assert upload["uri"] == f"s3://{settings.bucket}/uploads/{upload['upload_id']}/Flüge 2013 (1).csv"
    assert upload["multipart_id"] is None and len(upload["parts"]) == 1
    await put(upload, content)

    completed = await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={}))

    assert completed == {"upload_id": upload["upload_id"], "uri": upload["uri"], "bytes": len(content)}
    assert await read(aws, upload["uri"]) == content


@pytest.mark.both_emulators("CompleteMultipartUpload", "CreateMultipartUpload", "HeadObject")
@pytest.mark.usefixtures("small_parts")
async def test_a_large_file_goes_in_parts_and_completing_twice_is_the_same(
    submitter: httpx.AsyncClient, aws: Aws, database: Database
) -> None:
    content = bytes(range(256)) * (12 * MEBIBYTE // 256) + b"end"
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": len(content)}))
    assert [part["bytes"] for part in upload["parts"]] == [5 * MEBIBYTE, 5 * MEBIBYTE, 2 * MEBIBYTE + 3]
    assert upload["part_bytes"] == 5 * MEBIBYTE and upload["multipart_id"]
    body = {"parts": (await put(upload, content))[::-1]}  # any order
    path = f"/v1/uploads/{upload['upload_id']}/complete"

    first = await ok(submitter.post(path, json=body))
    again = await ok(submitter.post(path, json=body))
    # The answer and the record of the first were lost: S3 has joined the parts, we don't know.
    await database.execute("UPDATE uploads SET completed_at = NULL")
    after_crash = await ok(submitter.post(path, json=body))

    assert first == again == after_crash
    assert await read(aws, upload["uri"]) == content
    assert await database.fetchval("SELECT completed_at IS NOT NULL FROM uploads")


@pytest.mark.both_emulators("CompleteMultipartUpload", moto="it answers 500, where S3 answers 404 (NoSuchUpload)")
@pytest.mark.usefixtures("small_parts")
async def test_completing_again_long_after_s3_has_forgotten_the_multipart_upload(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    content = bytes(6 * MEBIBYTE)
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": len(content)}))
    body = {"parts": await put(upload, content)}
    path = f"/v1/uploads/{upload['upload_id']}/complete"
    first = await ok(submitter.post(path, json=body))
    # The answer and the record of the first were lost, and the upload's id means nothing to S3 by now.
    await database.execute("UPDATE uploads SET completed_at = NULL, multipart_id = 'forgotten'")

    assert await ok(submitter.post(path, json=body)) == first


@pytest.mark.both_emulators("CompleteMultipartUpload", ministack="it joins parts of any size")
@pytest.mark.usefixtures("small_parts")
async def test_a_part_that_is_too_small_is_refused(submitter: httpx.AsyncClient) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": 6 * MEBIBYTE}))
    for link in upload["parts"]:
        link["bytes"] = MEBIBYTE
    parts = await put(upload, bytes(6 * MEBIBYTE))

    refused = await submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={"parts": parts})

    assert refused.status_code == 422 and "EntityTooSmall" in refused.json()["detail"]


@pytest.mark.both_emulators("ListObjectsV2", "CopyObject", "DeleteObjects")
async def test_a_directory_goes_by_one_form(submitter: httpx.AsyncClient, aws: Aws) -> None:
    files = {"a.txt": b"one\r\n", "deep/b ü.bin": bytes(range(256)), "empty": b""}
    total = sum(map(len, files.values()))
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": total}))
    assert upload["uri"].endswith(f"/uploads/{upload['upload_id']}/notes/") and upload["parts"] == []
    path = f"/v1/uploads/{upload['upload_id']}/complete"

    statuses = [(await submitter.post(path, json={})).status_code]
    for name in ("empty", "a.txt", "deep/b ü.bin"):
        await post(upload, name, files[name])
        statuses.append((await submitter.post(path, json={})).status_code)

    assert statuses == [409, 409, 409, 200]
    assert (await submitter.post(path, json={})).status_code == 200
    for name, content in files.items():
        assert await read(aws, upload["uri"] + name) == content


@pytest.mark.both_emulators(moto="it takes by a form whatever its policy says of the size")
async def test_a_form_takes_no_file_larger_than_the_directory(submitter: httpx.AsyncClient) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": 3}))

    assert "EntityTooLarge" not in await post(upload, "a.txt", b"one")
    assert "EntityTooLarge" in await post(upload, "more", b"four")


@pytest.mark.parametrize("name", ["", "deep/"])
async def test_a_file_of_a_directory_needs_a_name(submitter: httpx.AsyncClient, name: str) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": 3}))
    path = f"/v1/uploads/{upload['upload_id']}/complete"
    await post(upload, "deep/", b"")  # as tools that show folders make it
    await post(upload, "a.txt", b"one")
    assert (await submitter.post(path, json={})).status_code == 200

    upload = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": 3}))
    await post(upload, name, b"one")
    refused = await submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={})
    assert refused.status_code == 409
    assert f"/notes/{name}' has 3 bytes but no file name" in refused.json()["detail"]


async def post(upload: dict[str, Any], name: str, content: bytes) -> str:
    """POST a file of a directory by the upload's form; returns S3's answer."""
    fields = upload["form"]["fields"]
    data = {**fields, "key": fields["key"].replace("${filename}", name)}
    async with httpx.AsyncClient() as s3:
        return (await s3.post(upload["form"]["url"], data=data, files={"file": content})).text


@pytest.mark.both_emulators("CompleteMultipartUpload")
@pytest.mark.usefixtures("small_parts")
async def test_parts_that_are_missing_or_were_not_uploaded_are_refused(submitter: httpx.AsyncClient) -> None:
    content = b"x" * (6 * MEBIBYTE)
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": len(content)}))
    path = f"/v1/uploads/{upload['upload_id']}/complete"
    one, two = await put(upload, content)

    cases = {
        "missing: [2]": [one],
        "missing: [1, 2]": [],
        "given twice": [one, two, two],
        "InvalidPart": [one, two | {"etag": "0" * 32}],
    }
    for reason, parts in cases.items():
        response = await submitter.post(path, json={"parts": parts})
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "parts" and reason in response.json()["detail"]
    assert (await submitter.post(path, json={"parts": [one, two]})).status_code == 200


@pytest.mark.both_emulators("HeadObject")
async def test_an_object_that_is_missing_or_has_another_size_is_refused(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.txt", "bytes": 5}))
    path = f"/v1/uploads/{upload['upload_id']}/complete"

    missing = await submitter.post(path, json={})
    place = Location(settings.bucket, f"uploading/{upload['upload_id']}/a.txt")
    await aws.s3.put_object(Bucket=place.bucket, Key=place.key, Body=b"abc")
    short = await submitter.post(path, json={})
    await put(upload, b"abcde")

    assert missing.status_code == 409 and "does not exist yet" in missing.json()["detail"]
    assert short.status_code == 409 and "has 3 bytes, but 5 were announced" in short.json()["detail"]
    assert (await submitter.post(path, json={})).status_code == 200


async def test_bad_names_and_sizes_are_refused(submitter: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    names = ["", ".", "..", "a/b", "/etc/passwd", "..\\x", "/", "../", "a/b/", "a\nb", "a\x00b", "x" * 256, "ä" * 128]
    names += ["a//", "${filename}/"]
    cases = [("filename", name, 1) for name in names] + [("bytes", "a", -1), ("bytes", "a", 5 * 2**40 + 1)]
    for field, name, size in cases:
        with subtests.test(name=name, size=size):
            response = await submitter.post("/v1/uploads", json={"filename": name, "bytes": size})
            assert response.status_code == 422
            assert response.json()["errors"][0]["field"] == field


async def test_the_largest_object_gets_ten_thousand_links_at_most(submitter: httpx.AsyncClient) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a", "bytes": 5 * 2**40}))

    assert 9_000 < len(upload["parts"]) <= 10_000
    assert sum(part["bytes"] for part in upload["parts"]) == 5 * 2**40


async def test_an_unknown_upload(submitter: httpx.AsyncClient) -> None:
    response = await submitter.post("/v1/uploads/01970000-0000-7000-8000-000000000000/complete", json={})
    assert response.status_code == 404


@pytest.mark.both_emulators(moto="it checks no signature")
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [5, 6 * MEBIBYTE], ids=["one PUT", "parts"])
async def test_a_link_takes_exactly_the_announced_bytes(submitter: httpx.AsyncClient, size: int) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": size}))

    for link in upload["parts"]:
        assert "X-Amz-SignedHeaders=content-length" in link["url"]
        async with httpx.AsyncClient() as s3:
            assert (await s3.put(link["url"], content=bytes(link["bytes"] + 1))).status_code == 403
            assert (await s3.put(link["url"], content=bytes(link["bytes"]))).status_code == 200


@pytest.mark.both_emulators("CopyObject")
async def test_what_a_link_writes_after_the_completion_changes_no_file(submitter: httpx.AsyncClient, aws: Aws) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.txt", "bytes": 3}))
    await put(upload, b"old")
    path = f"/v1/uploads/{upload['upload_id']}/complete"
    first = await ok(submitter.post(path, json={}))

    await put(upload, b"new")

    assert await ok(submitter.post(path, json={})) == first
    assert await read(aws, first["uri"]) == b"old"


@pytest.mark.both_emulators(moto="it joins parts again, by the upload's id that S3 has forgotten")
@pytest.mark.usefixtures("small_parts")
async def test_links_to_parts_end_with_the_completion(submitter: httpx.AsyncClient, aws: Aws) -> None:
    content = bytes(6 * MEBIBYTE)
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": len(content)}))
    await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={"parts": await put(upload, content)}))

    link = upload["parts"][1]
    async with httpx.AsyncClient() as s3:
        assert (await s3.put(link["url"], content=b"x" * link["bytes"])).status_code == 404
    assert await read(aws, upload["uri"]) == content


@pytest.mark.both_emulators("CopyObject")
async def test_what_a_form_writes_after_the_completion_changes_no_directory(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": 6}))
    await post(upload, "a.txt", b"old")
    await post(upload, "b.txt", b"old")
    await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={}))

    await post(upload, "a.txt", b"new")
    await post(upload, "more.txt", b"new")
    await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={}))

    listing = await aws.s3.list_objects_v2(Bucket=settings.bucket, Prefix=f"uploads/{upload['upload_id']}/")
    files = {entry["Key"].rpartition("/")[2] for entry in listing["Contents"]}
    assert files == {"a.txt", "b.txt"}
    assert [await read(aws, upload["uri"] + name) for name in sorted(files)] == [b"old", b"old"]


async def test_a_directory_goes_on_where_a_completion_was_cut_off(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": 6}))
    for name in ("a.txt", "b.txt"):
        await post(upload, name, b"old")
    there = f"uploads/{upload['upload_id']}/notes/a.txt"
    await aws.s3.put_object(Bucket=settings.bucket, Key=there, Body=b"old")
    before = await aws.s3.head_object(Bucket=settings.bucket, Key=there)

    completed = await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json={}))

    assert await read(aws, completed["uri"] + "b.txt") == b"old"
    after = await aws.s3.head_object(Bucket=settings.bucket, Key=there)
    assert after["LastModified"] == before["LastModified"]


@pytest.mark.both_emulators("CompleteMultipartUpload", "ListParts")
@pytest.mark.usefixtures("small_parts")
async def test_renewed_links_are_for_the_parts_that_are_missing(submitter: httpx.AsyncClient, aws: Aws) -> None:
    content = bytes(range(256)) * (12 * MEBIBYTE // 256)
    upload = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": len(content)}))
    [first] = await put(upload | {"parts": upload["parts"][:1]}, content)

    renewed = await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/renew"))

    assert renewed["uploaded"] == [first]
    assert [part["number"] for part in renewed["parts"]] == [2, 3]
    assert renewed["uri"] == upload["uri"] and renewed["multipart_id"] == upload["multipart_id"]
    rest = await put(renewed, content[5 * MEBIBYTE :])
    body = {"parts": [*renewed["uploaded"], *rest]}
    await ok(submitter.post(f"/v1/uploads/{upload['upload_id']}/complete", json=body))
    assert await read(aws, upload["uri"]) == content
    again = await submitter.post(f"/v1/uploads/{upload['upload_id']}/renew")
    assert again.status_code == 409 and "completed" in again.json()["detail"]


@pytest.mark.both_emulators("AbortMultipartUpload", "DeleteObjects")
@pytest.mark.usefixtures("small_parts")
async def test_an_aborted_upload_leaves_nothing_in_s3(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    parts = await ok(submitter.post("/v1/uploads", json={"filename": "a.bin", "bytes": 6 * MEBIBYTE}))
    await put(parts | {"parts": parts["parts"][:1]}, bytes(5 * MEBIBYTE))
    running = await ok(submitter.post("/v1/uploads", json={"filename": "notes/", "bytes": 6}))
    await post(running, "a.txt", b"old")
    complete = await ok(submitter.post("/v1/uploads", json={"filename": "a.txt", "bytes": 3}))
    await put(complete, b"old")
    await ok(submitter.post(f"/v1/uploads/{complete['upload_id']}/complete", json={}))

    for upload in (parts, running, complete, complete):
        await ok(submitter.delete(f"/v1/uploads/{upload['upload_id']}"))

    assert "Contents" not in await aws.s3.list_objects_v2(Bucket=settings.bucket)
    assert not (await aws.s3.list_multipart_uploads(Bucket=settings.bucket)).get("Uploads")
    for order in ("complete", "renew"):
        refused = await submitter.post(f"/v1/uploads/{running['upload_id']}/{order}", json={})
        assert refused.status_code == 409 and "aborted" in refused.json()["detail"]


async def test_uploads_are_listed_with_their_states(keys: Keys) -> None:
    async with await keys.client("submitter", principal="anna") as anna:
        begun = [await ok(anna.post("/v1/uploads", json={"filename": f"{n}.txt", "bytes": 3})) for n in range(3)]
        await put(begun[1], b"old")
        await ok(anna.post(f"/v1/uploads/{begun[1]['upload_id']}/complete", json={}))
        await ok(anna.delete(f"/v1/uploads/{begun[2]['upload_id']}"))

        listed = (await ok(anna.get("/v1/uploads")))["items"]
        running = (await ok(anna.get("/v1/uploads?state=running")))["items"]
    async with await keys.client("submitter", principal="ben") as ben, await keys.client("operator") as operator:
        others = (await ok(ben.get("/v1/uploads")))["items"]
        everybodys = (await ok(operator.get("/v1/uploads?created_by=anna")))["items"]

    assert [each["state"] for each in listed] == ["aborted", "completed", "running"]
    assert [each["uri"] for each in listed] == [each["uri"] for each in reversed(begun)]
    assert [each["upload_id"] for each in running] == [begun[0]["upload_id"]]
    assert others == [] and everybodys == listed


SHA256 = "a" * 64


async def upload_all(client: httpx.AsyncClient, content: bytes, **spec: Any) -> Any:
    """Upload a file, unless it is there."""
    asked = {"filename": "a.csv", "bytes": len(content), "sha256": SHA256} | spec
    upload = await ok(client.post("/v1/uploads", json=asked))
    if not upload["completed"]:
        await put(upload, content)
        await ok(client.post(f"/v1/uploads/{upload['upload_id']}/complete", json={}))
    return upload


async def test_an_equal_upload_is_used_again(submitter: httpx.AsyncClient, database: Database) -> None:
    first = await upload_all(submitter, b"a,b\n")
    assert first["completed"] is False
    again = await upload_all(submitter, b"a,b\n")
    assert (again["completed"], again["uri"], again["parts"]) == (True, first["uri"], [])
    assert await database.fetchval("SELECT count(*) FROM uploads") == 1
    assert await database.fetchval("SELECT used_at IS NOT NULL FROM uploads")  # so it is kept as if it were new


@pytest.mark.parametrize("other", [{"filename": "b.csv"}, {"sha256": "b" * 64}, {"sha256": None}])
async def test_what_differs_is_uploaded(submitter: httpx.AsyncClient, other: dict[str, Any]) -> None:
    first = await upload_all(submitter, b"a,b\n")
    assert (await upload_all(submitter, b"a,b\n", **other))["upload_id"] != first["upload_id"]
    assert (await upload_all(submitter, b"a,b,c\n"))["upload_id"] != first["upload_id"]


async def test_an_upload_that_was_resumed_is_equal_to_none(submitter: httpx.AsyncClient) -> None:
    """Its file may have changed meanwhile."""
    begun = await ok(submitter.post("/v1/uploads", json={"filename": "a.csv", "bytes": 4, "sha256": SHA256}))
    await put(await ok(submitter.post(f"/v1/uploads/{begun['upload_id']}/renew")), b"new\n")
    await ok(submitter.post(f"/v1/uploads/{begun['upload_id']}/complete", json={}))
    assert (await upload_all(submitter, b"a,b\n"))["upload_id"] != begun["upload_id"]


async def test_nobody_gets_what_somebody_else_has_uploaded(keys: Keys, submitter: httpx.AsyncClient) -> None:
    first = await upload_all(submitter, b"a,b\n")
    async with await keys.client("submitter", principal="somebody") as other:
        assert (await upload_all(other, b"a,b\n"))["upload_id"] != first["upload_id"]


async def test_an_upload_that_is_gone_or_was_never_completed_is_not_used(
    submitter: httpx.AsyncClient, aws: Aws
) -> None:
    begun = await ok(submitter.post("/v1/uploads", json={"filename": "a.csv", "bytes": 4, "sha256": SHA256}))
    first = await upload_all(submitter, b"a,b\n")
    assert begun["upload_id"] != first["upload_id"]
    place = Location.parse(first["uri"])
    await aws.s3.delete_object(Bucket=place.bucket, Key=place.key)
    second = await upload_all(submitter, b"a,b\n")
    assert second["completed"] is False
    await ok(submitter.delete(f"/v1/uploads/{second['upload_id']}"))
    assert (await upload_all(submitter, b"a,b\n"))["completed"] is False
