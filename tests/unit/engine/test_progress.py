"""What a stage still waits for (services.engine.progress)."""

from typing import Any

from services.api.shapes.jobs import sum_progress
from services.contract.states import TASK_STATES
from services.engine.progress import Progress, count_progress, reduce_levels, seconds_left, tasks_known


def stage(
    tasks_from: str, state: str = "running", planned: bool = False, tasks_expected: int | None = None, **counts: int
) -> dict[str, Any]:
    facts = {
        "tasks_from": tasks_from,
        "state": state,
        "planned": planned,
        "tasks_expected": tasks_expected,
        "fan_in": 3,
    }
    return facts | dict.fromkeys(TASK_STATES, 0) | counts


def test_a_chain_waits_for_all_that_may_still_come_from_the_stages_before() -> None:
    stages = [
        stage("input", planned=True, ready=10, running=5, succeeded=3, failed=2),
        stage("successes", queued=2, succeeded=1),
        stage("successes", succeeded=1),
        stage("outputs", "waiting"),
    ]

    progress = count_progress(stages)

    assert [each.waiting for each in progress] == [0, 15, 17, 18]
    assert sum_progress(progress).model_dump() == {"tasks": 20 + 18 + 18 + 18, "succeeded": 5, "failed": 2}
    assert tasks_known(stages) == [True] * 4


def test_the_tasks_of_a_reduce_are_those_of_all_its_levels() -> None:
    before = stage("input", "succeeded", planned=True, succeeded=10)

    def waiting(reduce: dict[str, Any]) -> int:
        return count_progress([before, reduce])[1].waiting

    assert list(reduce_levels(10, 3)) == [4, 2, 1]
    assert list(reduce_levels(0, 3)) == [1]
    assert waiting(stage("reduce", "waiting")) == 7
    assert waiting(stage("reduce", "running", succeeded=4, ready=1)) == 2
    assert waiting(stage("reduce", "running", planned=True, succeeded=6, ready=1)) == 0
    assert waiting(stage("reduce", "cancelled", succeeded=4)) == 0


def test_what_comes_of_a_fan_out_is_not_known_before_its_end() -> None:
    stages = [
        stage("input", planned=True, running=1),
        stage("items", ready=4),
        stage("reduce", "waiting"),
    ]

    assert tasks_known(stages) == [True, False, False]
    assert tasks_known([stages[0], stage("items", planned=True), stages[2]]) == [True, True, True]


def test_tasks_that_are_not_planned_yet_wait_where_their_number_is_known() -> None:
    stages = [stage("input", tasks_expected=1000, ready=100, succeeded=50), stage("successes", ready=50)]

    assert [each.waiting for each in count_progress(stages)] == [850, 950]
    assert tasks_known(stages) == [True, True]
    later = [stage("input", "waiting", tasks_expected=1000), stage("reduce", "waiting")]
    assert [each.waiting for each in count_progress(later)] == [1000, sum(reduce_levels(1000, 3))]
    assert count_progress([stage("input", "cancelled", tasks_expected=1000)])[0].waiting == 0
    assert count_progress([stage("input", planned=True, tasks_expected=11, ready=10)])[0].waiting == 0


def left(*, mean: float | None = 2.0, oldest: float | None = None, state: str = "running", **tasks: int) -> Any:
    progress = Progress(**dict.fromkeys(("waiting", *TASK_STATES), 0) | tasks)
    stage = {"state": state, "task_seconds": mean, "oldest_seconds": oldest}
    return seconds_left(stage, progress, known=True)


def test_what_waits_takes_its_turns_after_what_runs() -> None:
    assert left(running=4) == 2.0
    assert left(running=4, ready=6, queued=2, waiting=4) == 8.0


def test_a_straggler_is_expected_to_take_as_long_again() -> None:
    assert left(running=1, oldest=3.0) == 2.0
    assert left(running=1, oldest=30.0) == 30.0


def test_nothing_is_told_while_nothing_runs_or_has_ended() -> None:
    assert left(ready=4) is None
    assert left(running=4, mean=None) is None
    assert left(running=4, state="merging") is None
