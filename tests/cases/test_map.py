"""Functions of a Python program on a real grid: the page about them, and what only a real worker shows."""

import asyncio
import re
import subprocess
import sys
from concurrent.futures import CancelledError
from pathlib import Path
from types import ModuleType

import pytest

from piecework import CallFailed, RemoteTraceback
from tests.cases.conftest import CaseGrid
from tests.until import until

PAGE = Path(__file__).parents[2] / "docs" / "map.md"

MODULE = """
import os
import time


class TooDear(Exception):
    def __init__(self, price, limit):
        super().__init__(f"{price} is more than {limit}")


def square(number):
    return number * number


def add(left, right=0):
    return left + right


def buy(price):
    print("buying for", price)
    if price > 100:
        raise TooDear(price, 100)
    return price


def large(characters):
    return "x" * characters


def linger(seconds):
    time.sleep(seconds)


def crash(_):
    os.kill(os.getpid(), 11)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A module of the program's own."""
    directory = tmp_path_factory.mktemp("program")
    (directory / "shop.py").write_text(MODULE)
    sys.path.insert(0, str(directory))
    import shop  # type: ignore[import-not-found]

    sys.path.remove(str(directory))
    return shop


def test_the_page_says_what_happens(grid: CaseGrid, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, source in blocks:
        (tmp_path / name).write_text(source)
    said = {}
    for name, source in blocks:
        if "import" in source:
            run = [sys.executable, name]
            done = subprocess.run(run, cwd=tmp_path, env=grid.environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
            said[name] = done.stdout + done.stderr
    assert said["main.py"] == "11362.50\n"
    assert sorted(said["later.py"].splitlines()) == ["0 {'id': 1, 'price': 1.0}", "1 row 2 costs -1"]
    assert 'raise ValueError(f"row' in said["errors.py"] and "piecework logs" in said["errors.py"]
    assert said["decorated.py"] == "9\n[0, 1, 4, 9, 16]\n49\n"
    assert said["asynchronous.py"] == "".join(f"{number}\n" for number in range(10)) + "{'id': 3, 'price': 3.0}\n"
    assert said["parallel.py"] == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]\n"


def test_calls_of_a_module_of_the_programs_own(grid: CaseGrid, shop: ModuleType) -> None:
    with grid.client.executor(retries=0) as executor:
        assert list(executor.map(shop.square, range(500))) == [number * number for number in range(500)]
        assert list(executor.map(shop.add, [1, 2], [10, 20])) == [11, 22]
        assert executor.submit(shop.add, 1, right=2).result() == 3
        assert len(executor.submit(shop.large, 100_000).result()) == 100_000
        assert executor.submit(shop.buy, 7).result() == 7
        with pytest.raises(shop.TooDear, match="101 is more than 100") as raised:
            executor.submit(shop.buy, 101).result()
        crashed = executor.submit(shop.crash, 1)
        with pytest.raises(CallFailed, match="signal"):
            crashed.result()

    error = raised.value
    assert (error.attempts, isinstance(error.__cause__, RemoteTraceback)) == (1, True)
    assert "raise TooDear(price, 100)" in str(error.__cause__)
    assert grid.client.read_object(error.log_url).decode().startswith("buying for 101")


def test_calls_that_are_cancelled_are_killed_or_never_run_and_the_others_go_on(
    grid: CaseGrid, shop: ModuleType
) -> None:
    slots = sum(worker["slots"] for worker in grid.client.list_workers() if worker["state"] == "active")

    def progress() -> dict[str, int]:
        [stage] = grid.client.get_job(job["job_id"])["stages"]
        return dict(stage["progress"])

    with grid.client.executor(retries=0, name="lingers") as executor:
        futures = [executor.submit(shop.linger, 600) for _ in range(slots + 3)]
        [job] = grid.client.list_jobs(name="lingers").page(1)["items"]
        asyncio.run(until(lambda: progress()["running"] >= slots))
        assert all(future.cancel() for future in futures)
        with pytest.raises(CancelledError):
            futures[0].result()
        assert executor.submit(shop.linger, 0).result(60) is None  # a slot is free
    assert (progress()["cancelled"], progress()["succeeded"]) == (slots + 3, 1)
    values = grid.client.follow_values(job["job_id"])["values"]
    assert [value["state"] for value in values] == ["cancelled"] * (slots + 3) + ["succeeded"]
    assert {value["error"]["type"] for value in values[:-1]} == {"cancelled"}


def test_calls_of_functions_that_are_in_no_module(grid: CaseGrid) -> None:
    factor = 3
    with grid.client.executor(ship="pickle", retries=0) as executor:
        assert list(executor.map(lambda number: {number * factor}, range(3))) == [{0}, {3}, {6}]


def test_pickles_that_somebody_else_has_made_are_not_run(grid: CaseGrid) -> None:
    with grid.client.executor(ship="pickle", retries=0) as executor:
        assert executor.submit(len, "ab").result() == 2
    [job] = grid.client.list_jobs().page(1)["items"]
    [stage] = grid.client.get_job(job["job_id"])["stages"]
    with grid.client.executor(retries=0) as executor:
        forged = executor.submit(stage["processor"], {"pickle": "gASVBQAAAAAAAABLAUsChpQu", "signature": "0" * 64})
        with pytest.raises(PermissionError, match="was not signed"):
            forged.result()
