"""What a stage still waits for (services.common.progress)."""

from typing import Any

from services.api.shapes.jobs import sum_progress
from services.common.progress import COUNTS, count_progress


def stage(kind: str = "map", state: str = "running", chains: bool = False, **counts: int) -> dict[str, Any]:
    return {"kind": kind, "state": state, "chains": chains} | dict.fromkeys(COUNTS, 0) | counts


def test_a_chain_waits_for_all_that_may_still_come_from_the_stages_before() -> None:
    stages = [
        stage(chains=True, ready=10, running=5, succeeded=3, failed=2),
        stage(chains=True, queued=2, succeeded=1),
        stage(succeeded=1),
    ]

    progress = count_progress(stages)

    assert [each.waiting for each in progress] == [0, 15, 17]
    assert sum_progress(progress).model_dump() == {"tasks": 20 + 18 + 18, "succeeded": 5, "failed": 2}


def test_a_reduce_is_one_task_to_come_until_it_is_there_or_never_will_be() -> None:
    before = stage(state="succeeded", succeeded=4)

    def waiting(reduce: dict[str, Any]) -> int:
        return count_progress([before, reduce])[1].waiting

    assert waiting(stage("reduce", "waiting")) == 1
    assert waiting(stage("reduce", "running", ready=1)) == 0
    assert waiting(stage("reduce", "cancelled")) == 0
