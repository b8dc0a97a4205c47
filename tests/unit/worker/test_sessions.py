"""The parts of a session: who has a task, how many are on their way, and what a child is told of where it is."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from services.worker.child import log as child_log
from services.worker.child.environment import SessionEnvironment
from services.worker.child.frames import END, TOKEN
from services.worker.session.depth import slot_seconds, tasks_ahead
from services.worker.task.tokens import Tokens


def test_each_token_is_read_by_one_side_only() -> None:
    tokens, begun = Tokens(), []

    def begin() -> None:
        while len(begun) < 2_000:
            if (token := TOKEN.unpack(os.read(tokens.theirs, TOKEN.size))[0]) == END:
                return
            begun.append(token)

    child = threading.Thread(target=begin)
    child.start()
    taken: set[int] = set()
    for first in range(1, 8_001, 2_000):
        tokens.put(range(first, first + 2_000))
        taken |= tokens.take_back()
    tokens.put([END])
    child.join()
    taken |= tokens.take_back() - {END}
    assert sorted([*taken, *begun]) == list(range(1, 8_001))
    tokens.close()


def test_what_had_not_begun_is_known_after_the_end() -> None:
    tokens = Tokens()
    tokens.put([1, 2, 3])
    assert TOKEN.unpack(os.read(tokens.theirs, TOKEN.size)) == (1,)
    tokens.close()
    tokens.close()
    assert tokens.take_back() == {2, 3}
    assert tokens.take_back() == set()


@pytest.mark.parametrize(
    ("seconds", "waiting", "ahead"),
    [
        (None, 100, 2),  # nobody knows how long they take: one lies ready
        (None, 1, 1),
        (10.0, 100, 2),
        (0.001, 10_000, 51),
        (0.001, 40, 11),  # a fair share of what waits
        (0.001, 3, 1),
        (0.0, 10_000_000, 1001),
    ],
)
def test_as_many_are_on_their_way_as_take_50_ms(seconds: float | None, waiting: int, ahead: int) -> None:
    assert tasks_ahead(seconds, waiting, slots=2) == ahead


@pytest.mark.parametrize(
    ("run", "fetch", "put", "slot"), [(1.0, 8.0, 4.0, 1.0), (0.1, 8.0, 4.0, 0.5), (0.1, 0.0, 32.0, 2.0)]
)
def test_a_slot_is_as_slow_as_its_files_move(run: float, fetch: float, put: float, slot: float) -> None:
    """Else bundles that a worker takes ahead would be too large, and their tasks be given back."""
    assert slot_seconds(run, fetch, put) == slot


def test_nothing_that_user_code_does_to_its_end_makes_the_worker_wait() -> None:
    tokens = Tokens()
    os.set_blocking(tokens.theirs, True)
    tokens.put([1])
    assert tokens.take_back() == {1}
    assert tokens.take_back() == set()
    forged = os.open(f"/proc/self/fd/{tokens.theirs}", os.O_WRONLY)
    os.write(forged, b"x" * 4096)
    os.close(forged)
    tokens.put([2])
    assert len(tokens.take_back()) <= 1
    tokens.close()


def test_only_the_variables_that_differ_are_set() -> None:
    before = dict(os.environ)
    environment, base = SessionEnvironment(), {"PATH": "/bin", "KEPT": "yes"}
    try:
        environment.set(base, {"INDEX": 1})
        assert dict(os.environ) == {**base, "INDEX": "1"}
        os.environ["LEFT"] = "behind"
        del os.environ["KEPT"]
        environment.set(base, {"INDEX": 2})
        assert dict(os.environ) == {**base, "INDEX": "2"}
        environment.set(base, {"INDEX": 3, "AGAIN": 1})
        assert dict(os.environ) == {**base, "INDEX": "3", "AGAIN": "1"}
    finally:
        environment.set(before, {})


def test_programs_get_the_variables_of_their_own_task() -> None:
    """Whatever the task before has done with them, and however long they are."""
    before = dict(os.environ)
    environment, base = SessionEnvironment(), {"PATH": os.environ["PATH"]}

    def told() -> str:
        return subprocess.check_output(["sh", "-c", 'printf %s "$INDEX"'], text=True)

    def put_back_by_a_copy() -> None:
        copy = dict(os.environ)
        os.environ.clear()
        os.environ.update(copy)

    def unset_in_c() -> None:
        os.unsetenv("INDEX")

    def nothing() -> None:
        pass

    try:
        for number, (changes, value) in enumerate(
            [(nothing, "1"), (put_back_by_a_copy, "2"), (unset_in_c, "2"), (nothing, "x" * 5000), (nothing, "é" * 400)]
        ):
            environment.set(base, {"INDEX": value})
            assert told() == value == os.environ["INDEX"], number
            changes()
        environment.set(base, {"INDEX": "last"})
        assert told() == "last"
    finally:
        environment.set(before, {})


def test_a_log_ends_where_the_next_begins(tmp_path: Path) -> None:
    """Whatever user code does to the standard streams; in a process of its own, as it has but one standard output."""
    pid = os.fork()
    if pid == 0:
        path, told = tmp_path / "log.txt", tmp_path / "told"
        with child_log.logging_to(str(path)) as log:
            print("one")
            ends = [log.end_of_task()]
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            print("lost")
            ends.append(log.end_of_task())
            os.close(2)
            ends.append(log.end_of_task())
            print("two")
            os.write(2, b"three\n")
            ends.append(log.end_of_task())
        told.write_text(repr((ends, path.read_text())))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "told").read_text() == repr(([4, 4, 4, 14], "one\ntwo\nthree\n"))
