"""Tasks that ask for what they need of a node, on a real grid."""

import pytest

from piecework.errors import ApiError
from tests.cases.conftest import CaseGrid


def test_tasks_get_what_they_ask_for_or_are_refused(grid: CaseGrid) -> None:
    command = ["sh", "-c", 'echo "$SLURM_CPUS_PER_TASK $SLURM_MEM_PER_NODE [$CUDA_VISIBLE_DEVICES]" > {output}']
    grid.client.register_processor("case-needs", {"command": command})
    asking = {"processor": "case-needs", "cpus": 1, "memory": "100MiB", "disk": "16MiB"}
    merge = {"type": "concat", "filename": "all.txt"}

    ended = grid.run({"type": "range", "count": 4}, asking, merge=merge)
    assert ended.files["all.txt"].decode().splitlines() == ["1 100 []"] * 4

    after = grid.run({"type": "range", "count": 2}, "case-needs", {"processor": "case-needs", "cpus": 0.5})
    assert after.state == "succeeded"

    with pytest.raises(ApiError, match="64 gpus, 16 MiB of disk; the largest has"):
        grid.submit({"type": "range", "count": 1}, {**asking, "gpus": 64})
