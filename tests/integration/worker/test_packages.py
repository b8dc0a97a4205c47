"""Code that was pushed as a package: fetched, verified, installed once a node; if it is broken, its tasks say why."""

import base64
import fcntl
import hashlib
import io
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from services.contract.layout import Layout
from services.contract.task_error import TaskError
from services.worker.isolation.cells import Cells
from services.worker.task import packages
from services.worker.task.packages import PackageChanged, Packages, _unpack, cache_directory
from tests.integration.worker.conftest import InProcessGrid

ITEM = {"type": "item", "value": 1}


def wheel(name: str, version: str, body: str) -> bytes:
    """A wheel with one module."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": body,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {file: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for file, text in files.items()}
    record = "".join(f"{file},sha256={digest.rstrip(b'=').decode()},\n" for file, digest in digests.items())
    return archive({**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"})


def archive(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, content in files.items():
            package.writestr(name, content)
    return buffer.getvalue()


def package(files: dict[str, str | bytes], *, pin: str | None = None) -> bytes:
    """The files, and a requirements.txt that pins a wheel beside it by its hash, or by `pin` instead."""
    built = wheel("feetable", "1.0", "RATE = 7\n")
    name = "wheels/feetable-1.0-py3-none-any.whl"
    requirement = f"./{name} --hash=sha256:{pin or hashlib.sha256(built).hexdigest()}\n"
    files = {**files, name: built, "requirements.txt": requirement}
    return archive({f"fees/{name}": content for name, content in files.items()})


async def push(grid: InProcessGrid, content: bytes, name: str | None = None) -> str:
    sha256 = name or hashlib.sha256(content).hexdigest()
    await grid.put(f"packages/{sha256}.zip", content)
    return sha256


@contextmanager
def another_worker_makes(cache: str, sha256: str) -> Iterator[None]:
    Path(cache).mkdir(mode=0o700, exist_ok=True)
    with Path(cache, f"{sha256}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ready_in(cache: str) -> list[Path]:
    return list(Path(cache).glob("*/ready"))


def worker_of(grid: InProcessGrid, count_max: int) -> Packages:
    """A worker of the node, as far as packages go."""
    cache = cache_directory(Path(grid.settings.cache))
    key = hashlib.sha256(grid.settings.database_url.encode()).digest()
    cells = Cells("process", cache.parent)
    return Packages(grid.aws.s3, Layout(grid.settings.bucket), cache, count_max, {}, cells, seal_key=key)


MODULE = """
import json, os, sys, feetable, orjson
def price(record):
    return {"n": record * feetable.RATE}
def where(input, output, **further):
    return {
        "package": os.environ["PIECEWORK_PACKAGE"], "venv": os.environ["VIRTUAL_ENV"], "prefix": sys.prefix,
        "file": __file__, "path": os.environ["PATH"].split(":")[0],
    }
"""


async def test_a_package_brings_its_code_and_what_that_requires(grid: InProcessGrid) -> None:
    sha256 = await push(grid, package({"pricing.py": MODULE, "bin/tool": "#!/bin/sh\necho tool\n"}))
    command = ["python", "-c", "import feetable, sys; open(sys.argv[1], 'w').write(str(feetable.RATE))", "{output}"]
    jobs = [
        await grid.submit(
            {"records": "pricing:price", "package": sha256}, [{"type": "item", "value": n} for n in (1, 2)]
        ),
        await grid.submit({"callable": "fees.pricing:where", "package": sha256}, [ITEM]),
        await grid.submit({"command": command, "package": sha256}, [ITEM]),
        await grid.submit({"command": ["cat", "{package}/bin/tool"], "package": sha256}, [ITEM]),
    ]
    tasks = await grid.run(*jobs)
    assert [task["error"] for task in tasks] == [None] * 5
    one, two, where, command_task, _ = tasks
    assert await grid.lines(one["output"]["uri"]) + await grid.lines(two["output"]["uri"]) == [{"n": 7}, {"n": 14}]
    home = Path(grid.settings.cache, sha256)
    assert where["output"]["value"] == {
        "package": f"{home}/code/fees",
        "venv": f"{home}/venv",
        "prefix": f"{home}/venv",
        "file": f"{home}/code/fees/pricing.py",
        "path": f"{home}/venv/bin",
    }
    assert await grid.get(command_task["output"]["uri"]) == b"7"
    await grid.aws.s3.delete_object(Bucket=grid.settings.bucket, Key=f"packages/{sha256}.zip")
    async with worker_of(grid, 1).holding(sha256) as runtime:
        assert runtime.python == f"{home}/venv/bin/python", "a second worker of the node finds it ready"


async def test_of_too_many_packages_those_used_longest_ago_go_but_none_in_use(grid: InProcessGrid) -> None:
    a, b, c = [await push(grid, archive({"code.py": f"N = {n}\n"})) for n in range(3)]
    cache = cache_directory(Path(grid.settings.cache))
    one, two = worker_of(grid, 1), worker_of(grid, 1)

    async def use(worker: Packages, sha256: str) -> None:
        async with worker.holding(sha256) as runtime:
            assert runtime.package and (runtime.package / "code.py").exists()

    async with one.holding(a), two.holding(a):
        await use(two, b)
        assert {ready.parent.name for ready in cache.glob("*/ready")} == {a, b}, "a is in use, b the newest"
        await use(two, c)
        assert {ready.parent.name for ready in cache.glob("*/ready")} == {a, c}
    await use(one, b)
    assert [home.name for home in cache.iterdir() if home.is_dir()] == [b]
    await use(one, a)  # made again
    await use(worker_of(grid, 2), b)
    await use(worker_of(grid, 2), a)
    await use(worker_of(grid, 2), c)
    assert {ready.parent.name for ready in cache.glob("*/ready")} == {a, c}, "b was used before a"


def one_of(home: Path, pattern: str) -> Path:
    (found,) = home.glob(pattern)
    return found


def modes(tree: Path) -> dict[str, int]:
    """The permissions of all that is in a tree, and of itself, but links."""
    return {str(path): path.stat().st_mode & 0o777 for path in [tree, *tree.rglob("*")] if not path.is_symlink()}


def change(path: Path, text: str) -> None:
    """As a task that runs as the worker's user could, with the file's old times put back."""
    found = path.stat()
    path.parent.chmod(0o755)
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("file", ["code/fees/pricing.py", "venv/lib/python3.*/site-packages/feetable.py"])
async def test_a_package_that_a_task_changed_is_made_again_before_it_is_used(
    grid: InProcessGrid, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Mock()
    monkeypatch.setattr(packages, "log", told)
    body = "import feetable\ndef run(input, output):\n    return {'rate': feetable.RATE, 'by': 'me'}\n"
    sha256 = await push(grid, package({"pricing.py": body}))
    home = Path(grid.settings.cache, sha256)
    processor = {"callable": "pricing:run", "package": sha256}
    first, second = await grid.submit(processor, [ITEM]), await grid.submit(processor, [ITEM] * 3)
    async with grid.node():
        await grid.dispatch(first)
        await grid.ended(first)
    change(one_of(home, file), "RATE = 'poisoned'\ndef run(input, output):\n    return {'by': 'poison'}\n")
    async with grid.node():
        await grid.dispatch(second)
        await grid.ended(second)
    values = [task["output"]["value"] for job_id in (first, second) for task in await grid.tasks(job_id)]
    assert values == [{"rate": 7, "by": "me"}] * 4
    assert {call.args for call in told.error.call_args_list} == {("package changed: it is made again",)}


async def test_a_package_that_is_changed_while_a_worker_knows_it_is_made_again(grid: InProcessGrid) -> None:
    sha256 = await push(grid, archive({"code.py": "N = 1\n"}))
    worker, other = worker_of(grid, 2), worker_of(grid, 2)
    async with worker.holding(sha256) as runtime, other.holding(sha256):
        assert runtime.package and runtime.check
        await runtime.check()
        code = runtime.package / "code.py"
        change(code, "N = 2\n")
        with pytest.raises(PackageChanged, match="its files were changed since they were unpacked"):
            await runtime.check()
    async with worker.holding(sha256) as runtime:
        assert code.read_text() == "N = 1\n"
    async with other.holding(sha256) as runtime:
        assert runtime.check
        await runtime.check()  # made again by another worker of the node: whole, though its facts are new


def replace_by_copy(home: Path, text: str) -> None:
    """Put a link to a changed copy in a package's place, and a pipe in that of its lock and its seal."""
    copy = home.with_name("copy")
    shutil.copytree(home, copy, symlinks=True)
    change(copy / "code" / "code.py", text)
    (copy / "seal").unlink()
    os.mkfifo(copy / "seal")
    home.rename(home.with_name("moved"))
    home.symlink_to(copy)
    lock = home.with_name(f"{home.name}.lock")
    lock.unlink()
    os.mkfifo(lock)


async def test_a_link_in_place_of_a_package_is_not_used_and_a_pipe_in_place_of_its_lock_holds_nobody_up(
    grid: InProcessGrid,
) -> None:
    sha256 = await push(grid, archive({"code.py": "N = 1\n"}))
    async with worker_of(grid, 2).holding(sha256):
        pass
    replace_by_copy(Path(grid.settings.cache, sha256), "N = 2\n")
    async with worker_of(grid, 2).holding(sha256) as runtime:
        assert runtime.package
        assert one_of(runtime.package, "code.py").read_text() == "N = 1\n"


async def test_a_package_whose_tasks_keep_changing_it_says_so(grid: InProcessGrid) -> None:
    sha256 = await push(grid, archive({"code.py": "N = 1\n"}))
    worker = worker_of(grid, 2)
    for _ in range(2):
        with suppress(PackageChanged):
            async with worker.holding(sha256) as runtime:
                assert runtime.package and runtime.check
                change(runtime.package / "code.py", "N = 2\n")
                await runtime.check()
    with pytest.raises(TaskError, match="its files change while tasks use it"):
        async with worker.holding(sha256):
            pass


async def test_another_user_can_read_a_package_and_nobody_is_meant_to_write_to_it(grid: InProcessGrid) -> None:
    sha256 = await push(grid, package({"pricing.py": MODULE, "bin/tool": "#!/bin/sh\n"}))
    async with worker_of(grid, 2).holding(sha256):
        pass
    found = modes(Path(grid.settings.cache))
    home = f"{grid.settings.cache}/{sha256}"
    assert (found[grid.settings.cache], found[home]) == (0o711, 0o755)
    inside = {path: mode for path, mode in found.items() if path.startswith((f"{home}/code", f"{home}/venv"))}
    assert set(inside.values()) == {0o555, 0o444}
    assert [path for path in inside if "/code/fees/__pycache__/pricing." in path], "compiled in advance"


async def test_a_package_that_is_too_large_is_not_fetched(grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_BYTES_MAX", 1000)
    sha256 = await push(grid, b"x" * 1001)
    with pytest.raises(TaskError, match="it has 1001 bytes, at most 1000 are allowed"):
        async with worker_of(grid, 2).holding(sha256):
            pass
    assert not [path for path in modes(Path(grid.settings.cache)) if path.endswith("package.zip")]


@pytest.mark.parametrize("lies", [False, True])
def test_the_entries_of_an_archive_are_counted_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: bool
) -> None:
    data = bytearray(archive({f"{number}.py": "" for number in range(100)}))
    monkeypatch.setattr(packages, "_FILES_MAX", 99)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    if lies:
        data[-22 + 8 : -22 + 12] = (1).to_bytes(2, "little") * 2
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(TaskError, match="more than 99 files are in it"):
        _unpack(tmp_path / "p.zip", hashlib.sha256(data).hexdigest(), tmp_path / "code")


def test_the_entries_of_a_large_archive_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of more than 65,535 entries is a ZIP64."""
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for number in range(65_600):
            file.writestr(zipfile.ZipInfo(f"{number}"), b"")
    packages._check_directory(tmp_path / "p.zip")
    monkeypatch.setattr(packages, "_FILES_MAX", 65_599)
    with pytest.raises(TaskError, match="more than 65599 files are in it"):
        packages._check_directory(tmp_path / "p.zip")


@pytest.mark.parametrize("alone", [False, True])
async def test_a_task_that_waits_too_long_for_its_package_leaves_it_to_the_next(
    grid: InProcessGrid, alone: bool
) -> None:
    sha256 = await push(grid, package({"pricing.py": MODULE}))
    processor: dict[str, Any] = {"callable": "pricing:where", "package": sha256}
    if alone:  # and in no session
        processor["outputs"] = {"more": "more.txt"}
    impatient = await grid.submit(processor, [ITEM], timeout_seconds=0.2)
    patient = await grid.submit(processor, [ITEM])
    async with grid.node():
        with another_worker_makes(grid.settings.cache, sha256):
            await grid.dispatch(impatient)
            await grid.ended(impatient)
            await grid.dispatch(patient)
        await grid.ended(patient)
    errors = [task["error"] for job_id in (impatient, patient) for task in await grid.tasks(job_id)]
    assert errors == [{"type": "timeout", "message": "did not end within timeout_seconds = 0.2"}, None]


async def test_a_broken_package_fails_its_tasks_with_what_is_wrong(grid: InProcessGrid) -> None:
    whole = package({"pricing.py": MODULE})
    other = hashlib.sha256(b"other").hexdigest()
    broken = {
        "Hash mismatch for `feetable": await push(grid, package({"pricing.py": MODULE}, pin=other)),
        "all requirements must have a hash": await push(grid, archive({"requirements.txt": "feetable==1.0\n"})),
        f"the object's SHA-256 is {hashlib.sha256(whole).hexdigest()}": await push(grid, whole, other),
        f"s3://{grid.settings.bucket}/packages/{'0' * 64}.zip does not exist": "0" * 64,
        "can't be unpacked: File is not a zip file": await push(grid, b"no zip"),
    }
    jobs = [
        await grid.submit({"callable": "pricing:where", "package": sha256}, [ITEM, ITEM]) for sha256 in broken.values()
    ]
    tasks = await grid.run(*jobs)
    for number, message in enumerate(broken):
        for task in tasks[2 * number : 2 * number + 2]:
            assert task["error"]["type"] == "processor_load"
            assert message in task["error"]["message"]
    assert ready_in(grid.settings.cache) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_that_is_damaged_inside_is_told_of(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", compression) as file:
        file.writestr("a.py", MODULE * 1000)
    data = bytearray((tmp_path / "p.zip").read_bytes())
    begin = data.index(b"a.py") + len("a.py") + 9  # behind LZMA's own header
    data[begin : begin + 20] = b"\xff" * 20
    (tmp_path / "p.zip").write_bytes(data)

    with pytest.raises(TaskError, match="can't be unpacked"):
        _unpack(tmp_path / "p.zip", hashlib.sha256(data).hexdigest(), tmp_path / "code")


def test_an_archive_with_a_file_that_is_a_directory_too_is_told_of(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        file.writestr("a", "1")
        file.writestr("a/b", "2")

    with pytest.raises(TaskError, match="can't be unpacked"):
        _unpack(tmp_path / "p.zip", hashlib.sha256((tmp_path / "p.zip").read_bytes()).hexdigest(), tmp_path / "code")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("../out.py", 0, "leads out of the archive"),
        ("a/../../out.py", 0, "leads out of the archive"),
        ("/etc/out.py", 0, "leads out of the archive"),
        ("link", stat.S_IFLNK | 0o777, "not a regular file"),
    ],
)
def test_an_archive_writes_nowhere_else(tmp_path: Path, name: str, mode: int, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        file.writestr(entry, "../out.py")
    sha256 = hashlib.sha256((tmp_path / "p.zip").read_bytes()).hexdigest()
    with pytest.raises(TaskError, match=message):
        _unpack(tmp_path / "p.zip", sha256, tmp_path / "code")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["code", "p.zip"]
