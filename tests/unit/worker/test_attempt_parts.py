"""What an attempt is made of: placeholders, environment, log, scratch directory."""

import multiprocessing
import os
import re
from pathlib import Path
from uuid import UUID

import pytest

from services.contract.task_error import TaskError
from services.contract.task_input import parse_input
from services.engine.attempt import ClaimedTask, StageWork
from services.engine.spec import ProcessorSpec
from services.inputs.registry import suffix_of
from services.platform.settings import WorkerSettings
from services.worker.task.environment import base_environment, task_environment
from services.worker.task.paths import Paths
from services.worker.task.placeholders import fill_placeholders
from services.worker.task.scratch import ScratchUnusable, remove_tree, scratch_directory
from services.worker.task.task_log import free_middle, shorten_log

JOB = UUID("01890000-0000-7000-8000-000000000001")


PATHS = Paths(
    Path("/w/in.csv"),
    Path("/w/out"),
    Path("/w/records"),
    inputs={"fees": Path("/cache/fees.csv")},
    outputs={"audit": Path("/w/audit.csv")},
    package=Path("/cache/code"),
)


def fill(*command: str, **params: object) -> list[str]:
    return fill_placeholders(command, paths=PATHS, index=7, params=params)


def test_placeholders_are_filled_anywhere_in_an_argument() -> None:
    assert fill("ffmpeg", "-i", "{input}", "--to={output}.{index}", "{input}{input}") == [
        "ffmpeg",
        "-i",
        "/w/in.csv",
        "--to=/w/out.7",
        "/w/in.csv/w/in.csv",
    ]
    assert fill(
        "{params.text}", "{params.n}", "{params.odd name}", text="a b", n=1.5, **{"odd name": [True, None]}
    ) == [
        "a b",
        "1.5",
        "[true,null]",
    ]
    assert fill("{inputs.fees}:{outputs.audit}", "{package}/bin") == ["/cache/fees.csv:/w/audit.csv", "/cache/code/bin"]


def test_other_braces_stay_and_values_are_not_filled_again() -> None:
    literal = ['{"a": {"b": 1}}', "${HOME}", "{print $1}", "{inputs}", "{}", "{{", "{params}", "a{1,2}"]
    assert fill(*literal) == literal
    assert fill("{params.text}", text="{input} {params.text}") == ["{input} {params.text}"]
    assert fill("{{input}}") == ["{/w/in.csv}"]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("{params.speed}", "the stage's params have no 'speed'"),
        ("{inputs.speed}", "the processor declares no input 'speed'"),
        ("{outputs.speed}", "the processor declares no output 'speed'"),
    ],
)
def test_what_is_not_given_fails_for_good(argument: str, reason: str) -> None:
    with pytest.raises(TaskError, match=f"{re.escape(argument)}, but {reason}") as missing:
        fill("x", argument, sped=1)
    assert not missing.value.retryable


def environment(task_input: dict[str, object], **own: str) -> dict[str, str]:
    spec = ProcessorSpec(command=["true"], environment=own)
    stage = StageWork(
        job_id=JOB,
        stage=2,
        job_name="month-end",
        stage_name="clean",
        kind="map",
        processor="p",
        processor_version=1,
        spec=spec,
        params={"year": 2013},
        timeout_seconds=60.0,
    )
    task = ClaimedTask(JOB, JOB, 2, 41, 3, parse_input(task_input))
    return task_environment({"PATH": "/bin", "TZ": "UTC"}, task, stage, PATHS)


def test_a_task_knows_who_it_is() -> None:
    assert environment({"type": "index", "count": 100}, TZ="CET", PIECEWORK_STAGE="mine") == {
        "PATH": "/bin",
        "TZ": "CET",
        "PIECEWORK_JOB_ID": str(JOB),
        "PIECEWORK_JOB_NAME": "month-end",
        "PIECEWORK_STAGE": "mine",
        "PIECEWORK_STAGE_NAME": "clean",
        "PIECEWORK_TASK_INDEX": "41",
        "PIECEWORK_ATTEMPT": "3",
        "PIECEWORK_INPUT": "/w/in.csv",
        "PIECEWORK_OUTPUT": "/w/out",
        "PIECEWORK_INPUT_FEES": "/cache/fees.csv",
        "PIECEWORK_OUTPUT_AUDIT": "/w/audit.csv",
        "PIECEWORK_RECORDS": "/w/records",
        "PIECEWORK_PACKAGE": "/cache/code",
        "PIECEWORK_PARAMS": '{"year":2013}',
        "AWS_BATCH_JOB_ID": f"{JOB}:41",
        "AWS_BATCH_JOB_ATTEMPT": "3",
        "AWS_BATCH_JOB_ARRAY_INDEX": "41",
        "AWS_BATCH_JOB_ARRAY_SIZE": "100",
        "SLURM_ARRAY_JOB_ID": str(JOB),
        "SLURM_ARRAY_TASK_ID": "41",
        "SLURM_ARRAY_TASK_COUNT": "100",
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_MAX": "99",
        "PBS_ARRAY_INDEX": "41",
    }
    assert "AWS_BATCH_JOB_ARRAY_SIZE" not in environment({"type": "item", "value": 1})


def test_the_workers_secrets_stay_with_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIECEWORK_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("PYTHONPATH", "/inherited")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.chdir(tmp_path)
    found = base_environment(WorkerSettings(processor_path="code:/opt/more"))
    assert not [name for name in found if name.startswith("PIECEWORK_")]
    assert found["PYTHONPATH"] == f"{tmp_path}/code:/opt/more:/inherited"
    assert found["AWS_REGION"] == "eu-central-1"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("s3://b/a.csv", ".csv"), ("s3://b/2013.01.csv.gz", ".csv.gz"), ("s3://b.x/a", ""), ("a.gz", ".gz"), (".x", "")],
)
def test_the_suffix_tells_the_format(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert shorten_log(path, 10) == b""
    path.write_bytes(b"0123456789")
    assert shorten_log(path, 10) == b"0123456789"
    path.write_bytes(b"0123456789" * 100)
    assert shorten_log(path, 10) == b"01234\n[piecework: 990 bytes left out here, log_bytes_max is 10]\n56789"


def test_a_log_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "log"
    free_middle(path, 8192)
    path.write_bytes(b"first" + b"x" * 9_999_990 + b" last")
    cut = shorten_log(path, 8192)
    free_middle(path, 8192)
    assert path.stat().st_blocks * 512 < 50_000
    assert shorten_log(path, 8192) == cut


def test_a_scratch_directory_is_private_and_removed(tmp_path: Path) -> None:
    with scratch_directory(tmp_path / "a" / "b") as one, scratch_directory(tmp_path / "a" / "b") as other:
        assert one != other
        assert one.stat().st_mode & 0o777 == 0o700
        (one / "file").touch()
    assert not one.exists()
    assert not other.exists()


def _crash_in(root: Path) -> None:
    with scratch_directory(root) as directory:
        (directory / "leftover").touch()
        os._exit(1)


def test_leftovers_of_dead_processes_are_removed_those_of_the_living_are_not(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as living:
        (living / "file").touch()
        process = multiprocessing.get_context("spawn").Process(target=_crash_in, args=(tmp_path,))
        process.start()
        process.join()
        leftovers = [path for path in tmp_path.iterdir() if path.is_dir() and path != living]
        assert len(leftovers) == 1
        with scratch_directory(tmp_path):
            assert not leftovers[0].exists()
            assert (living / "file").exists()


def test_a_scratch_directory_that_can_not_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ScratchUnusable, match=f"PIECEWORK_SCRATCH: .*{tmp_path}/file"),
        scratch_directory(tmp_path / "file"),
    ):
        pass


def test_a_tree_without_permissions_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").touch()
    (tree / "inner").chmod(0)
    remove_tree(tree)
    assert not tree.exists()
