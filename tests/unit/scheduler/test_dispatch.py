"""Who gets the next bundle, and how large it is."""

from collections import deque
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.platform.settings import Settings
from services.scheduler.loops.dispatch import Candidate, grant, window_bundles
from services.scheduler.turns import Turns

SETTINGS = Settings(bundle_seconds=1.0, bundle_tasks_max=500)
SLOTS = 4


def candidate(
    number: int = 0,
    *,
    ready: int = 1000,
    priority: int = 0,
    share: str = "default",
    in_flight_seconds: float = 0.0,
    task_seconds: float | None = 1.0,
) -> Candidate:
    return Candidate(UUID(int=number), 0, priority, share, ready, in_flight_seconds, task_seconds)


@pytest.mark.parametrize(
    ("ready", "task_seconds", "tasks"),
    [
        (100_000, 0.01, 100),  # a second of work
        (100_000, 0.0001, 500),  # no more than bundle_tasks_max
        (100_000, 0.0, 500),
        (100_000, 0.7, 1),
        (100_000, 3600.0, 1),
        (100_000, None, 1),  # nothing is known yet
        (80, 0.01, 10),  # towards the end half a fair part: 80 tasks / (2 * 4 slots)
        (17, 0.01, 3),
        (8, 0.01, 1),
        (1, 0.01, 1),
    ],
)
def test_a_bundle_is_a_second_of_work_and_shrinks_towards_the_end(
    ready: int, task_seconds: float | None, tasks: int
) -> None:
    assert candidate(ready=ready, task_seconds=task_seconds).bundle_tasks(SETTINGS, SLOTS) == tasks


@pytest.mark.parametrize(("rivals", "tasks"), [(1, 10), (2, 20), (8, 80), (100, 80)])
def test_the_fewer_slots_are_a_stages_part_the_larger_are_its_last_bundles(rivals: int, tasks: int) -> None:
    stage = replace(candidate(ready=80, task_seconds=0.01), rivals=rivals)
    assert min(stage.ready, stage.bundle_tasks(SETTINGS, SLOTS)) == tasks


@pytest.mark.parametrize(("rivals", "tasks"), [(1, 2), (4, 2), (8, 4), (40, 20), (1000, 20)])
def test_turns_are_longer_where_more_stages_than_slots_take_them(rivals: int, tasks: int) -> None:
    """Else slots do little but turn: each other job's task needs another child. Ten times as long is the longest."""
    assert replace(candidate(task_seconds=0.5), rivals=rivals).bundle_tasks(SETTINGS, SLOTS) == tasks


@pytest.mark.parametrize(
    ("task_seconds", "running", "bundles"),
    [
        (None, 0, 8),  # two a slot
        (0.01, 4, 8),
        (2.5, 4, 8),
        (5.0, 4, 4),  # five seconds of work a slot
        (60.0, 4, 1),
        (3600.0, 4, 1),
        (3600.0, 1, 3),  # and one for each idle slot
        (3600.0, 0, 4),
    ],
)
def test_a_queue_holds_what_idle_slots_need_and_a_few_seconds_more(
    task_seconds: float | None, running: int, bundles: int
) -> None:
    assert window_bundles([candidate(task_seconds=task_seconds)], running, SLOTS, SETTINGS) == bundles


def test_the_shortest_bundles_decide_how_many_a_queue_holds() -> None:
    done = candidate(3, task_seconds=0.001, ready=0)
    assert window_bundles([candidate(1, task_seconds=60.0), candidate(2), done], 4, SLOTS, SETTINGS) == 8
    assert window_bundles([candidate(1, task_seconds=60.0), done], 4, SLOTS, SETTINGS) == 1


def granted(candidates: list[Candidate], bundles: int) -> list[int]:
    grant(candidates, bundles, SLOTS, SETTINGS, Turns())
    return [c.granted for c in candidates]


def test_the_higher_priority_gets_all_it_can_take() -> None:
    assert granted([candidate(1, priority=0), candidate(2, priority=5), candidate(3, priority=-5)], 8) == [0, 8, 0]
    assert granted([candidate(1), candidate(2, priority=5, ready=3), candidate(3)], 8) == [3, 3, 2]


def test_shares_divide_equally_however_many_jobs_they_have() -> None:
    crowd = [candidate(n, share="crowd") for n in range(1, 8)]

    amounts = granted([candidate(0, share="lone"), *crowd], 14)

    assert amounts == [7, 1, 1, 1, 1, 1, 1, 1]


def test_work_in_flight_counts_towards_a_share_and_a_job() -> None:
    assert granted([candidate(1, share="a", in_flight_seconds=4), candidate(2, share="b")], 10) == [3, 7]
    assert granted([candidate(1, in_flight_seconds=4), candidate(2)], 10) == [3, 7]


def test_fairness_is_in_seconds_not_in_tasks() -> None:
    assert granted([candidate(1, task_seconds=10), candidate(2, task_seconds=1)], 11) == [1, 10]


def test_one_priority_owes_nothing_for_what_another_has_in_flight() -> None:
    busy = candidate(1, share="a", priority=9, ready=0, in_flight_seconds=1000)

    assert granted([busy, candidate(2, share="a"), candidate(3, share="b")], 4) == [0, 2, 2]


def test_a_full_window_gives_nothing() -> None:
    assert granted([candidate()], 0) == granted([candidate()], -3) == [0]


@given(
    st.lists(
        st.builds(
            candidate,
            st.integers(0, 5),
            ready=st.integers(0, 300),
            priority=st.integers(-1, 1),
            share=st.sampled_from("abc"),
            in_flight_seconds=st.floats(0, 100),
            task_seconds=st.none() | st.floats(0, 100),
        ),
        max_size=8,
    ),
    st.integers(-2, 60),
)
def test_nobody_is_granted_more_than_it_has_and_no_bundle_is_wasted(candidates: list[Candidate], bundles: int) -> None:
    had = [c.ready for c in candidates]

    grant(candidates, bundles, SLOTS, SETTINGS, Turns())

    assert [c.granted + c.ready for c in candidates] == had
    assert sum(c.granted for c in candidates) >= min(max(bundles, 0), sum(had))
    if any(c.granted for c in candidates):
        lowest = min(c.priority for c in candidates if c.granted)
        assert not any(c.ready for c in candidates if c.priority > lowest)


def test_a_task_beside_huge_jobs_of_tasks_that_take_no_time_is_granted_next() -> None:
    huge = [candidate(n, share=f"s{n}", ready=10_000_000, task_seconds=0.0) for n in range(3)]
    turns = Turns()
    for _ in range(10):  # the workers empty the queue between any two looks
        grant(huge, 4, SLOTS, SETTINGS, turns)
        for each in huge:
            each.in_flight_seconds = 0.0
    small = candidate(9, share="small", ready=1, task_seconds=None)

    grant([*huge, small], 1, SLOTS, SETTINGS, turns)

    assert small.granted == 1


def test_a_job_gets_no_more_for_its_many_stages() -> None:
    chain = [Candidate(UUID(int=0), n, 0, "default", 1000, 0.0, 1.0) for n in range(20)]

    amounts = granted([*chain, candidate(1)], 10)

    assert (sum(amounts[:20]), amounts[20]) == (5, 5)
    assert amounts[15:20] == [1] * 5, "what is nearest to the job's end goes first"


def test_thousands_of_jobs_are_granted_a_full_window_at_once() -> None:
    crowd = [candidate(n, share="crowd") for n in range(5000)]

    amounts = granted([*crowd, candidate(9999, share="lone", ready=10_000)], 5000)

    assert amounts[-1] == 2500
    assert set(amounts[:-1]) == {0, 1}


@settings(max_examples=50)
@given(
    st.integers(2, 6),
    st.sampled_from(["shares", "jobs", "stages"]),
    st.none() | st.sampled_from([0.0, 0.0004, 0.001, 0.3]),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=15, max_size=25),
)
def test_equals_get_equal_parts_of_any_stretch_of_grants(
    parties: int, kind: str, task_seconds: float | None, steps: list[tuple[int, int]]
) -> None:
    """However small the window is, and however much of it the workers take between any two looks."""
    candidates = [
        Candidate(
            UUID(int=n if kind != "stages" else 0),
            n if kind == "stages" else 0,
            0,
            f"s{n}" if kind == "shares" else "default",
            10**9,
            0.0,
            task_seconds,
        )
        for n in range(parties)
    ]
    turns, queue, order = Turns(), deque[tuple[Candidate, float]](), list[int]()
    for window, taken in steps:
        for _ in range(max(0, window - len(queue))):
            before = [c.in_flight_seconds for c in candidates]
            grant(candidates, 1, SLOTS, SETTINGS, turns)
            [served] = [n for n, c in enumerate(candidates) if c.in_flight_seconds > before[n]]
            queue.append((candidates[served], candidates[served].in_flight_seconds - before[served]))
            order.append(served)
        for _ in range(min(taken, len(queue))):
            done, seconds = queue.popleft()
            done.in_flight_seconds -= seconds
            if not any(done is waiting for waiting, _ in queue):
                done.in_flight_seconds = 0.0
    stretch = 6 * parties
    for start in range(len(order) - stretch):
        counts = [order[start : start + stretch].count(n) for n in range(parties)]
        assert 3 <= min(counts) <= max(counts) <= 12, counts
