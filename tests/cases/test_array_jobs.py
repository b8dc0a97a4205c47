"""Programs written for array jobs of other schedulers find what they look for, in every stage."""

import io
import json
import re
import tarfile
from itertools import pairwise
from typing import Any

import pytest

from tests.cases.conftest import DATA, CaseGrid, Ended


def test_array_size_in_later_stages(grid: CaseGrid) -> None:
    grid.push("array-size-in-later-stages")
    ended = grid.run_file("array-size-in-later-stages/job.yaml")
    assert ended.lines() == [f'{index} of 5: {index} of 5: {{"index":{index},"count":5}}' for index in range(5)], (
        ended.error
    )


def test_slurm_script_as_it_is(grid: CaseGrid) -> None:
    grid.push("slurm-script-as-it-is")
    ended = grid.run_file("slurm-script-as-it-is/job.yaml")
    found = [re.fullmatch(r"task (\d+) next (\d+) of 5 seed (\d+) job (\d+)_(\d+)", line) for line in ended.lines()]
    assert all(found), (ended.error, ended.lines())
    numbers = [[int(number) for number in one.groups()] for one in found if one]
    job = numbers[0][3]
    assert numbers == [[index, index + 1, job + index, job, index] for index in range(5)]


# What a task knows of its array, as two words a line: the variable and its value.
SHOW = """
import os, sys

NAMES = ["AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"]
NAMES += [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP")]
NAMES += ["PBS_ARRAY_INDEX", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE", "LSB_JOBINDEX_END"]
open(sys.argv[1], "w").write(" ".join(os.environ.get(name, "-") for name in NAMES) + "\\n")
"""


@pytest.fixture(scope="module")
def array_grid(grid: CaseGrid, tmp_path_factory: pytest.TempPathFactory) -> CaseGrid:
    """The grid, and processors that show the variables of each of their tasks."""
    directory = tmp_path_factory.mktemp("arrays")
    (directory / "show.py").write_text(SHOW)
    (directory / "processors").mkdir()
    commands = {
        "array-show": ["python3", "{package}/show.py", "{output}"],
        "array-items": ["bash", "-c", "seq 3 > {output}"],
    }
    for name, command in commands.items():
        text = json.dumps({"command": command, "output": "out.txt"})
        (directory / "processors" / f"{name}.yaml").write_text(text)
    grid.command("processors", "push", str(directory))
    return grid


def shown(index: int, number: int, size: int, first: int, last: int, step: int) -> str:
    slurm = [number, size, first, last, step]
    return " ".join(map(str, [index, size, *slurm, number, number, first, last, step, last]))


@pytest.mark.parametrize(
    ("input", "numbers", "step"),
    [
        ({"type": "range", "start": 1, "stop": 101, "step": 33}, [1, 34, 67, 100], 33),
        ({"type": "range", "values": [9, 3, 7]}, [9, 3, 7], 1),
        ({"type": "items", "items": ["a", "b"]}, [0, 1], 1),
    ],
)
def test_every_stage_of_a_chain_has_the_numbers_of_the_array(
    array_grid: CaseGrid, input: dict[str, Any], numbers: list[int], step: int
) -> None:
    lines = [
        shown(index, number, len(numbers), min(numbers), max(numbers), step) for index, number in enumerate(numbers)
    ]
    for stages in (["array-show"], ["array-show", "array-show", {"processor": "array-show", "barrier": True}]):
        assert array_grid.run(input, *stages, merge={"type": "concat", "filename": "o.txt"}).lines() == lines


def test_a_fan_out_a_split_and_a_reduce_are_arrays_of_their_own(array_grid: CaseGrid) -> None:
    fan_out = {"processor": "array-items", "fan_out": True}
    merge = {"type": "concat", "filename": "o.txt"}
    ended = array_grid.run({"type": "range", "count": 1}, fan_out, "array-show", merge=merge)
    assert ended.lines() == [shown(index, index, 3, 0, 2, 1) for index in range(3)]

    behind = {"processor": "array-show", "barrier": True}
    ended = array_grid.run({"type": "range", "count": 3}, fan_out, behind, "array-show", merge=merge)
    assert ended.lines() == [shown(index, index, 9, 0, 8, 1) for index in range(9)]

    lines = {"type": "lines", "uri": array_grid.put({"in.txt": "a\nb\nc\nd\n"}) + "in.txt", "part_bytes": 2}
    ended = array_grid.run(lines, "array-show", merge=merge)
    assert ended.lines() == [shown(index, index, 4, 0, 3, 1) for index in range(4)]

    ended = array_grid.run(lines, "array-show", merge={"type": "reduce", "processor": "array-show"})
    assert ended.lines() == [shown(0, 0, 1, 0, 0, 1)]


def test_no_more_tasks_run_at_a_time_than_the_array_says(array_grid: CaseGrid) -> None:
    job = json.loads(array_grid.command("submit", "--array", "1-9:2%1", "--stage", "array-show", "--json"))
    ended = array_grid.ended(job["job_id"])
    assert [line.split()[2] for line in ended.lines()] == ["1", "3", "5", "7", "9"]
    times = sorted((task["started_at"], task["finished_at"]) for task in ended.tasks)
    assert all(finished <= started for (_, finished), (started, _) in pairwise(times))


# Batch scripts, as their labs write them.


def unpacked(ended: Ended) -> dict[str, str]:
    """The files of a batch script's result, by name."""
    [archive] = [body for name, body in ended.files.items() if name.endswith(".tar")]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read().decode() for entry in tar if entry.isfile()}  # type: ignore[union-attr]


def run_script(grid: CaseGrid, *arguments: str) -> Ended:
    job = json.loads(grid.command("submit", "--json", "--sbatch", *arguments, directory=DATA / "sbatch"))
    return grid.ended(job["job_id"])


def test_a_batch_script_runs_as_it_is(grid: CaseGrid) -> None:
    ended = run_script(grid, "sweep.sh", "--", "--scale", "two words")
    assert (ended.state, ended.error) == ("succeeded", "")
    files, numbers = unpacked(ended), range(1, 10, 2)
    assert {name: text for name, text in files.items() if name.startswith("results/")} == {
        f"results/seed_{number}.txt": f"seed {42 + number} threads 2 --scale two words\n" for number in numbers
    }
    job = re.search(r"of (\d+) on", next(text for name, text in files.items() if name.endswith(".out")))
    assert job
    for index, number in enumerate(numbers):
        log = f"logs/seed sweep-{job[1]}_{number:02}"
        assert f"Job {int(job[1]) + index} is task {number} of {job[1]} on " in files[f"{log}.out"]
        assert files[f"{log}.err"].splitlines()[-1] == "warned"
        assert "warned" in grid.log(ended, 0, index)
        assert f"is task {number} of" in grid.log(ended, 0, index)
    [stage] = ended.job["spec"]["stages"]
    assert (stage["timeout_seconds"], stage["memory_bytes"], stage["running_max"]) == (300.0, 512 << 20, 4)
    assert (ended.job["name"], stage["pool"]) == ("seed-sweep", "default")


def test_a_batch_script_finds_the_files_beside_it(grid: CaseGrid) -> None:
    ended = run_script(grid, "study/lines.sbatch", "--directory", "study")
    assert (ended.state, ended.error) == ("succeeded", "")
    files = unpacked(ended)
    assert files.pop("STATUS.txt") == "done gamma of 3\n"  # one name for all: the last stays, as with any tar
    assert {name: json.loads(text) for name, text in files.items() if text} == {
        f"{sample}.json": {"sample": sample, "length": len(sample), "task": number}
        for number, sample in enumerate(("alpha", "beta", "gamma"), start=1)
    }
    assert [name for name, text in files.items() if not text] == [f"lines_{number}.log" for number in (1, 2, 3)]


def test_a_batch_script_in_another_language_without_an_array(grid: CaseGrid) -> None:
    ended = run_script(grid, "single.py", "x")
    assert (ended.state, ended.error) == ("succeeded", "")
    files = unpacked(ended)
    [(name, text)] = [(name, text) for name, text in files.items() if name.startswith("slurm-")]
    assert re.fullmatch(r"slurm-\d+\.out", name)
    assert text.splitlines() == [
        "mode fast arguments ['x']",
        *["step", "srun 0"] * 2,
        "srun: 3 tasks: start the processes by mpirun -n 3, or make them tasks of an array",
        "srun 2",
    ]


def test_a_batch_script_that_fails_is_not_run_again(grid: CaseGrid) -> None:
    ended = run_script(grid, "study/lines.sbatch")  # without its list
    assert (ended.state, ended.attempts) == ("failed", 1)
    assert "exit code 1: no line" in ended.error
