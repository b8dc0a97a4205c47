"""The cache of declared inputs: what is fetched how often, what stays, what goes."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.contract.layout import Layout
from services.contract.location import Location
from services.contract.task_error import TaskError
from services.worker.task import declared_inputs
from services.worker.task.declared_inputs import DeclaredInputs
from services.worker.task.once import Once
from tests.until import until

JOB = uuid4()


class Store:
    """Objects by key, each of which has its key's length in bytes; fetches wait while `gate` is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

        async def pin(_: Any, key: tuple[Any, str]) -> str:
            return f"etag of {key[1]}"

        async def download(_s3: Any, source: Location, file: Any, *, etag: str) -> int:
            self.fetched.append(source.key)
            file.write(b"half")
            await self.gate.wait()
            if self.broken:
                raise TaskError("input_unavailable", "away")
            assert etag == f"etag of {source.uri}"
            return 100

        monkeypatch.setattr(DeclaredInputs, "_pin", pin)
        monkeypatch.setattr(declared_inputs, "download", download)


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


@pytest.fixture
def inputs(tmp_path: Path, store: Store) -> DeclaredInputs:
    return DeclaredInputs(None, Layout("b"), tmp_path, 250)


async def use(inputs: DeclaredInputs, *names: str) -> None:
    async with inputs.holding(JOB, {name: f"s3://b/{name}" for name in names}) as paths:
        assert [path.name for path in paths.values()] == list(names)
        assert all(path.exists() for path in paths.values())


def there(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


async def test_tasks_share_one_fetch_which_outlives_the_task_that_began_it(
    inputs: DeclaredInputs, store: Store, tmp_path: Path
) -> None:
    store.gate.clear()
    first, second = (asyncio.create_task(use(inputs, "a")) for _ in range(2))
    await until(lambda: store.fetched == ["a"])
    first.cancel()
    store.gate.set()
    await second
    await use(inputs, "a")
    assert (store.fetched, there(tmp_path)) == (["a"], ["a"])


async def test_the_one_unused_longest_goes_first_and_none_that_is_held(
    inputs: DeclaredInputs, store: Store, tmp_path: Path
) -> None:
    for names in (["a"], ["b"], ["a"], ["c"]):
        await use(inputs, *names)
    assert there(tmp_path) == ["a", "c"]
    async with inputs.holding(JOB, {name: f"s3://b/{name}" for name in "abcd"}):
        assert there(tmp_path) == ["a", "b", "c", "d"]
        await use(inputs, "e")
        assert there(tmp_path) == ["a", "b", "c", "d"]
    assert there(tmp_path) == ["c", "d"]
    assert store.fetched == ["a", "b", "c", "b", "d", "e"]


async def test_a_fetch_that_failed_leaves_nothing_and_is_tried_again(
    inputs: DeclaredInputs, store: Store, tmp_path: Path
) -> None:
    store.broken = True
    with pytest.raises(TaskError, match="away"):
        await use(inputs, "a")
    assert there(tmp_path) == []
    store.broken = False
    await use(inputs, "a")
    assert store.fetched == ["a", "a"]


async def test_a_file_that_a_task_changed_is_fetched_again(
    inputs: DeclaredInputs, store: Store, tmp_path: Path
) -> None:
    async with inputs.holding(JOB, {"a": "s3://b/a"}) as paths:
        poison(paths["a"])
        async with inputs.holding(JOB, {"a": "s3://b/a"}) as again:
            assert read(again["a"]) == b"half"
    assert (store.fetched, there(tmp_path)) == (["a", "a"], ["a"])
    await use(inputs, "a", "b")
    assert store.fetched == ["a", "a", "b"]


async def test_two_tasks_that_find_a_change_fetch_once(inputs: DeclaredInputs, store: Store) -> None:
    async with inputs.holding(JOB, {"a": "s3://b/a"}) as paths:
        poison(paths["a"])
    await asyncio.gather(*(use(inputs, "a") for _ in range(5)))
    assert store.fetched == ["a", "a"]


def poison(path: Path) -> None:
    """With the file's old times put back."""
    found = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"evil")
    path.chmod(0o444)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def read(path: Path) -> bytes:
    return path.read_bytes()


async def test_closing_ends_what_is_under_way(inputs: DeclaredInputs, store: Store, tmp_path: Path) -> None:
    store.gate.clear()
    task = asyncio.create_task(use(inputs, "a"))
    await until(lambda: store.fetched == ["a"])
    await inputs.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert there(tmp_path) == []


async def test_failures_are_told_to_all_that_wait_and_not_kept() -> None:
    results: Iterator[int | Exception] = iter([ValueError("no"), 7])

    async def work(_: str) -> int:
        await asyncio.sleep(0)
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    once = Once(work)
    failures = await asyncio.gather(once.get("k"), once.get("k"), return_exceptions=True)
    assert [str(failure) for failure in failures] == ["no", "no"]
    assert (await once.get("k"), await once.get("k")) == (7, 7)
