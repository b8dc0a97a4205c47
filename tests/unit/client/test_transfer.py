"""Uploads and downloads over presigned links that break."""

import base64
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from piecework import Client, InputError, TransferError
from piecework.transfer import Content
from tests.unit.client.conftest import HANG_UP, Answer, Asked, Run, Service, answer, problem

PART = 1_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "claims.csv"
    path.write_bytes(os.urandom(2 * PART + 123_456))
    return path


def expect_upload(service: Service, size: int) -> None:
    """An upload in parts of PART; each part answers its own number as the ETag."""
    sizes = [min(PART, size - start) for start in range(0, max(size, 1), PART)]
    parts = [
        {"number": number, "bytes": part, "url": f"{service.url}/part/{number}"}
        for number, part in enumerate(sizes, start=1)
    ]
    upload = {"upload_id": "u", "uri": "s3://b/u/claims.csv", "part_bytes": PART, "parts": parts}
    service.on("POST", "/v1/uploads", answer(upload, 201))
    service.on("POST", "/v1/uploads/u/complete", answer({"upload_id": "u", "uri": upload["uri"], "bytes": size}))
    for part in parts:
        service.on("PUT", f"/part/{part['number']}", Answer(headers={"etag": f'"{part["number"]}"'}))


def received(service: Service, parts: int) -> bytes:
    return b"".join(service.requests("PUT", f"/part/{number}")[-1].content for number in range(1, parts + 1))


def test_a_file_arrives_in_parts(client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    moved: list[int] = []
    assert client.upload(file, progress=moved.append)["uri"] == "s3://b/u/claims.csv"
    assert received(service, 3) == file.read_bytes()
    assert sum(moved) == file.stat().st_size
    assert service.requests("POST", "/v1/uploads")[0].body == {
        "filename": "claims.csv",
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    parts = [{"number": number, "etag": f'"{number}"'} for number in (1, 2, 3)]
    assert service.requests("POST", "/v1/uploads/u/complete")[0].body == {"parts": parts}


def test_what_was_uploaded_before_is_not_sent_again(client: Client, service: Service, file: Path) -> None:
    before = {"upload_id": "u", "uri": "s3://b/u/claims.csv", "part_bytes": PART, "parts": [], "completed": True}
    service.on("POST", "/v1/uploads", answer(before, 201))
    moved: list[int] = []
    size = file.stat().st_size
    assert client.upload(file, progress=moved.append) == {"upload_id": "u", "uri": before["uri"], "bytes": size}
    assert (sum(moved), len(service.asked)) == (size, 1)


def test_a_service_that_knows_no_hashes_gets_the_file(client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    [accepted] = service.scripts("POST", "/v1/uploads")
    unknown = [{"field": "sha256", "value": "00", "message": "there is no such field"}]
    service.on("POST", "/v1/uploads", problem(422, "sha256: there is no such field", errors=unknown), accepted)
    client.upload(file)
    assert received(service, 3) == file.read_bytes()
    assert "sha256" not in service.requests("POST", "/v1/uploads")[-1].body


def test_what_changes_after_its_hash_was_told_is_not_completed(
    client: Client, service: Service, file: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "notes"
    directory.mkdir()
    (directory / "a.txt").write_text("first")
    form = {"url": f"{service.url}/form", "fields": {"key": "${filename}"}}
    upload = {"upload_id": "d", "uri": "s3://b/d/", "part_bytes": PART, "parts": [], "form": form}
    service.on("POST", "/v1/uploads", answer(upload, 201))

    def change(asked: Asked) -> Answer:
        (directory / "a.txt").write_text("later")
        os.utime(directory / "a.txt", (1, 1))
        return Answer(204)

    service.on("POST", "/form", change)
    with pytest.raises(InputError, match="changed while it was uploaded"):
        client.upload(directory)
    assert service.requests("POST", "/v1/uploads/d/complete") == []


def test_the_hash_of_a_directory_is_of_its_names_and_files(tmp_path: Path) -> None:
    def made(name: str, **files: str) -> str:
        (tmp_path / name).mkdir()
        for each, text in files.items():
            (tmp_path / name / each).write_text(text)
        return Content(tmp_path / name).sha256()

    assert made("one", a="x", b="y") == made("two", b="y", a="x")
    assert len({made("three", a="x", b="y"), made("four", a="y", b="x"), made("five", a="xb", c="y")}) == 3


def renew(service: Service, file: Path, *uploaded: int) -> None:
    """An upload of the file goes on; S3 has these parts, with their MD5s as ETags."""
    expect_upload(service, file.stat().st_size)
    parts = [
        {"number": number, "bytes": min(PART, file.stat().st_size - start), "url": f"{service.url}/part/{number}"}
        for number, start in enumerate(range(0, file.stat().st_size, PART), start=1)
        if number not in uploaded
    ]
    content = file.read_bytes()
    there = [
        {"number": number, "etag": f'"{hashlib.md5(content[(number - 1) * PART : number * PART]).hexdigest()}"'}
        for number in uploaded
    ]
    upload = {"upload_id": "u", "uri": "s3://b/u/claims.csv", "part_bytes": PART, "parts": parts, "uploaded": there}
    service.on("POST", "/v1/uploads/u/renew", answer(upload))


@pytest.mark.parametrize("uploaded", [(), (1,), (2, 3), (1, 2, 3)])
def test_a_resumed_upload_sends_what_is_missing(
    uploaded: tuple[int, ...], client: Client, service: Service, file: Path
) -> None:
    renew(service, file, *uploaded)
    moved: list[int] = []

    client.upload(file, resume="u", progress=moved.append)

    assert [bool(service.requests("PUT", f"/part/{n}")) for n in (1, 2, 3)] == [n not in uploaded for n in (1, 2, 3)]
    sent = service.requests("POST", "/v1/uploads/u/complete")[0].body["parts"]
    assert sorted(part["number"] for part in sent) == [1, 2, 3]
    assert sum(moved) == file.stat().st_size


@pytest.mark.parametrize("uploaded", [(), (1,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("change", [-1, 1, 5 * PART], ids=["shorter", "longer", "much longer"])
def test_a_file_of_another_size_does_not_resume_an_upload(
    uploaded: tuple[int, ...], change: int, client: Client, service: Service, file: Path
) -> None:
    renew(service, file, *uploaded)
    os.truncate(file, file.stat().st_size + change)

    with pytest.raises(InputError, match="without resuming"):
        client.upload(file, resume="u")
    assert not service.requests("POST", "/v1/uploads/u/complete")


def test_a_part_that_the_file_no_longer_has_ends_a_resumed_upload(client: Client, service: Service, file: Path) -> None:
    renew(service, file, 1)
    with file.open("r+b") as content:
        content.write(b"changed")

    with pytest.raises(InputError, match="part 1 is not what was uploaded"):
        client.upload(file, resume="u")


def test_an_empty_file_arrives(client: Client, service: Service, tmp_path: Path) -> None:
    (tmp_path / "claims.csv").touch()
    expect_upload(service, 0)
    client.upload(tmp_path / "claims.csv")
    assert service.requests("PUT", "/part/1")[0].content == b""


def test_s3_sees_no_key_and_no_chunked_body(client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    client.upload(file)
    headers = service.requests("PUT", "/part/1")[0].headers
    assert "authorization" not in headers
    assert "transfer-encoding" not in headers
    assert headers["content-length"] == str(PART)


@pytest.mark.parametrize("failure", [HANG_UP, Answer(503, b"<Code>SlowDown</Code><Message>wait</Message>")])
def test_a_broken_part_is_sent_again(failure: Answer, client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    service.on("PUT", "/part/2", failure, failure, Answer(headers={"etag": '"2"'}))
    moved: list[int] = []
    client.upload(file, progress=moved.append)
    assert received(service, 3) == file.read_bytes()
    assert sum(moved) == file.stat().st_size


def test_a_lost_completion_is_sent_again(client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    service.on("POST", "/v1/uploads/u/complete", HANG_UP, answer({"upload_id": "u", "uri": "s3://b/u", "bytes": 1}))
    assert client.upload(file)["uri"] == "s3://b/u"


def test_a_refused_part_ends_the_upload(client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    refusal = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    service.on("PUT", "/part/2", Answer(403, refusal))
    with pytest.raises(
        TransferError, match=r"claims.csv: S3 answered 403 AccessDenied: Request has expired; .*new one"
    ):
        client.upload(file)
    assert len(service.requests("PUT", "/part/2")) == 1
    assert not service.requests("POST", "/v1/uploads/u/complete")


def test_patience_with_a_part_ends(client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)
    service.on("PUT", "/part/1", HANG_UP)
    with pytest.raises(TransferError, match=r"claims\.csv: the transfer broke 4 times"):
        client.upload(file)


@pytest.mark.parametrize("size", [PART, 5 * PART])
def test_a_file_that_changes_meanwhile_is_not_used(size: int, client: Client, service: Service, file: Path) -> None:
    expect_upload(service, file.stat().st_size)

    def change(asked: Asked) -> Answer:
        os.truncate(file, size)
        return Answer(headers={"etag": '"1"'})

    service.on("PUT", "/part/1", change)
    with pytest.raises(InputError, match=r"claims\.csv: changed while it was uploaded"):
        client.upload(file)
    assert not service.requests("POST", "/v1/uploads/u/complete")


def expect_directory(service: Service, files: dict[str, bytes]) -> Path:
    """A directory `notes` of such files in the working directory, and the form that takes them."""
    for name, content in files.items():
        path = Path("notes") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    form = {"url": f"{service.url}/bucket", "fields": {"key": "u/notes/${filename}", "policy": "signed"}}
    upload = {"upload_id": "u", "uri": "s3://b/u/notes/", "part_bytes": 1, "parts": [], "form": form}
    service.on("POST", "/v1/uploads", answer(upload, 201))
    service.on("POST", "/bucket", Answer(204))
    service.on("POST", "/v1/uploads/u/complete", answer({"upload_id": "u", "uri": upload["uri"], "bytes": 1}))
    return Path("notes")


def test_a_directory_is_sent_file_by_file(client: Client, service: Service) -> None:
    files = {"a.txt": b"one\n", "deep/b ü.bin": bytes(range(256)), "empty": b""}
    directory = expect_directory(service, files)
    service.on("POST", "/bucket", HANG_UP, Answer(503), Answer(204))
    moved: list[int] = []
    assert client.upload(directory, progress=moved.append)["uri"] == "s3://b/u/notes/"
    announced = {"filename": "notes/", "bytes": 260, "sha256": Content(directory).sha256()}
    assert service.requests("POST", "/v1/uploads")[0].body == announced
    forms = service.requests("POST", "/bucket")
    assert len(forms) == 5, "two were sent again"
    for name, content in files.items():
        assert any(f"\r\n\r\nu/notes/{name}\r\n".encode() in form.content for form in forms)
        assert any(b"\r\n\r\n" + content + b"\r\n--" in form.content.partition(b'name="file"')[2] for form in forms)
    assert all(b'name="policy"\r\n\r\nsigned\r\n' in form.content for form in forms)
    assert sum(moved) == 260


def test_what_desktops_put_into_a_directory_is_left_out_and_told(client: Client, service: Service, run: Run) -> None:
    files = {"a.txt": b"one\n", ".hidden": b"two\n", "deep/Thumbs.db": b"\0", ".DS_Store": b"\0", "deep/._a.txt": b"\0"}
    directory = expect_directory(service, files)
    uploaded = run("upload", str(directory))
    sent = [form.content.partition(b"u/notes/")[2].split(b"\r\n")[0] for form in service.requests("POST", "/bucket")]
    assert sorted(sent) == [b".hidden", b"a.txt"]
    assert uploaded.stdout == "s3://b/u/notes/\n"
    left_out = ".DS_Store, deep/._a.txt, deep/Thumbs.db"
    assert f"notes: not uploaded, as your desktop made it: {left_out}\n" in uploaded.stderr
    for name in ("a.txt", ".hidden"):
        (directory / name).unlink()
    with pytest.raises(InputError, match="there is no file in it"):
        client.upload(directory)


def test_a_refused_file_ends_the_upload_of_its_directory(client: Client, service: Service) -> None:
    directory = expect_directory(service, {"a.txt": b"one\n"})
    service.on("POST", "/bucket", Answer(403, b"<Code>AccessDenied</Code><Message>Policy expired</Message>"))
    with pytest.raises(TransferError, match=r"a\.txt: S3 answered 403 AccessDenied: Policy expired"):
        client.upload(directory)
    assert not service.requests("POST", "/v1/uploads/u/complete")


CONTENT = bytes(range(256)) * 4096


def result(service: Service, name: str = "result.csv", size: int = len(CONTENT), content: bytes | None = None) -> Any:
    checksum = None if content is None else base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    uri, url = f"s3://b/{name}", f"{service.url}/object"
    return {"name": name, "uri": uri, "bytes": size, "checksum_crc32": checksum, "url": url}


def serve_ranges(*, etag: str = '"1"', content: bytes = CONTENT, hang_up_after: int | None = None) -> Any:
    """An object as S3 serves it: a range only if it is still the same object."""

    def serve(asked: Asked) -> Answer:
        start = 0
        if asked.headers.get("if-range") == etag:
            start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
        return Answer(206 if start else 200, content[start:], {"etag": etag}, hang_up_after)

    return serve


def test_results_are_downloaded_whole(client: Client, service: Service, tmp_path: Path) -> None:
    service.on("GET", "/object", serve_ranges())
    moved: list[int] = []
    paths = client.download(
        [result(service), result(service, "nested/more.csv")], tmp_path / "out", progress=moved.append
    )
    assert paths == [tmp_path / "out" / "result.csv", tmp_path / "out" / "nested" / "more.csv"]
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert sum(moved) == 2 * len(CONTENT)


def test_a_broken_download_goes_on_where_it_broke(client: Client, service: Service, tmp_path: Path) -> None:
    service.on("GET", "/object", serve_ranges(hang_up_after=600_000), serve_ranges())
    moved: list[int] = []
    [path] = client.download([result(service, content=CONTENT)], tmp_path, progress=moved.append)
    assert path.read_bytes() == CONTENT
    assert sum(moved) == len(CONTENT)
    first, second = service.asked
    assert "range" not in first.headers
    assert 0 < int(second.headers["range"].removeprefix("bytes=").removesuffix("-")) <= 600_000


def test_a_download_starts_over_if_the_object_changed(client: Client, service: Service, tmp_path: Path) -> None:
    other = CONTENT[::-1]
    service.on("GET", "/object", serve_ranges(hang_up_after=600_000), serve_ranges(etag='"2"', content=other))
    moved: list[int] = []
    [path] = client.download([result(service, content=other)], tmp_path, progress=moved.append)
    assert path.read_bytes() == other
    assert sum(moved) == len(CONTENT)


@pytest.mark.parametrize("failure", [HANG_UP, Answer(404), serve_ranges(content=CONTENT[:-1])])
def test_a_failed_download_leaves_the_old_file(
    failure: Answer, client: Client, service: Service, tmp_path: Path
) -> None:
    service.on("GET", "/object", failure)
    (tmp_path / "result.csv").write_text("old")
    with pytest.raises(TransferError, match=r"result\.csv: "):
        client.download([result(service)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.csv"]
    assert (tmp_path / "result.csv").read_text() == "old"


def test_damaged_bytes_are_not_kept(client: Client, service: Service, tmp_path: Path) -> None:
    service.on("GET", "/object", serve_ranges(content=CONTENT[:-1] + b"!"))
    with pytest.raises(TransferError, match=r"result\.csv: its CRC-32 is .*: damaged bytes were not kept"):
        client.download([result(service, content=CONTENT)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "", "."])
def test_a_result_never_leaves_the_directory(name: str, client: Client, service: Service, tmp_path: Path) -> None:
    service.on("GET", "/object", serve_ranges())
    with pytest.raises(TransferError, match="is not a name inside"):
        client.download([result(service, name)], tmp_path / "out")
    assert not service.asked


def test_without_an_upload_there_are_no_bytes(client: Client, service: Service, file: Path) -> None:
    service.on("POST", "/v1/uploads", problem(403, "this needs the role submitter"))
    with pytest.raises(Exception, match="role submitter"):
        client.upload(file)
    assert len(service.asked) == 1
