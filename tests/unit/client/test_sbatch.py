"""Batch scripts of Slurm: what their lines mean for a job, and what is refused by line."""

import ast
import io
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from piecework.errors import InputError
from piecework.slurm import srun, task
from piecework.slurm.job import BatchJob, batch_job
from piecework.slurm.script import parse_export, parse_memory, parse_minutes, read_script
from tests.unit.client.answers import JOB_ID, job
from tests.unit.client.conftest import Answer, Run, Service, answer


def read(*lines: str, pools: tuple[str, ...] = ("default",), **environment: str) -> BatchJob:
    script = read_script("job.sh", "\n".join(("#!/bin/bash", *lines, "echo done", "")))
    return batch_job(script, [], pools=pools, environment=environment)


def task_of(batch: BatchJob) -> Any:
    content = batch.files["job.json"]
    assert isinstance(content, bytes)
    return json.loads(content)


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("--time=10", {"timeout_seconds": 600.0}),
        ("-t 1-12:00", {"timeout_seconds": 129_600.0}),
        ("-t7-00:00:00", {"timeout_seconds": 604_800.0}),
        ("--time=UNLIMITED", {"timeout_seconds": 604_800}),
        ("--mem=110GB", {"memory_bytes": 110 << 30}),
        ("--mem 4000", {"memory_bytes": 4000 << 20}),
        ("--mem=0", {}),
        ("--mem-per-cpu=2G", {"memory_bytes": 2 << 30}),
        ("--mem-per-cpu=2G -c 4 --ntasks 3", {"memory_bytes": 24 << 30}),
        ("-p gpu,big", {"pool": "big"}),
        ("--array=1-100%5", {"running_max": 5}),
        ("--nodes=1-1 --tasks-per-node=2", {}),
    ],
)
def test_an_option_sets_a_field_of_the_stage(line: str, stage: dict[str, Any]) -> None:
    batch = read(f"#SBATCH {line}", pools=("default", "big"))
    assert batch.spec["stages"] == [{**stage, "retry": {"max_attempts": 1}}]


def test_an_array_is_the_jobs_input() -> None:
    assert read("#SBATCH --array=1-9:2%4").spec["input"] == {"type": "range", "start": 1, "stop": 10, "step": 2}
    assert read("#SBATCH -a 8,18,28").spec["input"] == {"type": "range", "values": [8, 18, 28]}
    assert read().spec["input"] == {"type": "range", "count": 1}
    assert [task_of(read(*lines))["array"] for lines in ([], ["#SBATCH -a 5"])] == [False, True]


def test_a_dependency_is_the_jobs_that_it_runs_after() -> None:
    assert read(f"#SBATCH --dependency=afterok:{JOB_ID}:7,afterany:8,aftercorr:9").spec["after"] == [
        {"job_id": JOB_ID, "condition": "succeeded"},
        {"job_id": "7", "condition": "succeeded"},
        {"job_id": "8", "condition": "any"},
        {"job_id": "9", "by_index": True},
    ]
    assert "after" not in read().spec


def test_the_name_is_one_that_a_job_may_have_and_the_script_finds_its_own() -> None:
    batch = read('#SBATCH --job-name="seed sweep/ä"')
    assert (batch.name, batch.spec["name"], batch.spec["merge"]["filename"]) == (
        "seed-sweep",
        "seed-sweep",
        "seed-sweep.tar",
    )
    assert task_of(batch)["environment"]["SLURM_JOB_NAME"] == "seed sweep/ä"
    assert read().name == "job.sh"


def test_output_goes_where_the_script_says_within_the_working_directory() -> None:
    def streams(*lines: str) -> tuple[Any, Any]:
        task = task_of(read(*lines))
        return task["output"], task["error"]

    assert streams() == ("slurm-%j.out", "slurm-%j.out")
    assert streams("#SBATCH -a 1-2") == ("slurm-%A_%a.out", "slurm-%A_%a.out")
    assert streams("#SBATCH -o logs/%x.log") == ("logs/%x.log", "logs/%x.log")
    assert streams("#SBATCH -o /dev/null -e e.txt") == (None, "e.txt")
    assert streams("#SBATCH --output=/scratch/me/%j.out") == ("%j.out", "%j.out")


def test_what_is_taken_otherwise_is_told_with_its_line() -> None:
    batch = read(
        "#SBATCH --partition=normal -c 16",
        "#SBATCH --account=grp --mail-type=END",
        "#SBATCH --array=1-3 --output=/scratch/all.out",
        "#SBATCH --export=ALL --exclusive --chdir=/home/me",
    )
    assert batch.remarks == [
        "job.sh:2: --partition=normal: not a pool of this grid (pools: default); --pool chooses one, default is taken",
        "job.sh:2: --cpus-per-task=16: cores are not reserved; take a --pool whose slots have as many",
        "job.sh:4: --output=/scratch/all.out: becomes all.out among the task's files",
        "job.sh:4: --output=/scratch/all.out: is one name for all tasks: unpacked, the last one's file stays; "
        "write %a into it",
        "job.sh:5: --chdir=/home/me: a task has a working directory of its own; --directory DIR puts files into it",
        "job.sh:5: --export=ALL: a task has its node's environment, not this shell's; NAME or NAME=VALUE adds to it",
        "job.sh: without --time a task may take an hour",
        "job.sh: without effect here: --account (line 3), --mail-type (line 3), --exclusive (line 5)",
    ]
    assert task_of(batch)["environment"]["SLURM_CPUS_PER_TASK"] == "16"
    assert read("#SBATCH --time=1").remarks == []


def test_files_that_the_script_names_and_that_stay_here_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools").mkdir()
    for name in ("job.sh", "list.txt", "tools/measure.py"):
        (tmp_path / name).write_text("")
    batch = read("#SBATCH -t 1", "sed -n 1p list.txt > out.txt; python3 ./tools/measure.py; bash job.sh")
    assert batch.remarks == [
        "job.sh: names ./tools/measure.py, list.txt, which stays here; "
        "--directory DIR takes the files of a directory along"
    ]


def test_lines_are_read_as_slurm_reads_them() -> None:
    batch = read(
        "##SBATCH --gres=gpu:1",
        "# SBATCH --nodes=2",
        "#BATCH --nodes=2",
        "#sbatch --nodes=2",
        "#SBATCH --time=5   # in minutes, --nodes=2",
        "",
        "  # a comment",
        "#SBATCH --job-name='a b' --mem=1G",
        "#SBATCH --time=7",
        "cd here",
        "#SBATCH --nodes=2",
    )
    assert batch.spec["stages"][0] | {"name": batch.name} == {
        "timeout_seconds": 420.0,
        "memory_bytes": 1 << 30,
        "retry": {"max_attempts": 1},
        "name": "a-b",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--gres=gpu:1", "job.sh:2: --gres can't be followed here; delete the line and name a pool whose nodes"),
        ("-d afternotok:123", "job.sh:2: --dependency=afternotok:123: write afterok:JOB_ID, afterany:JOB_ID or"),
        ("-d afterok:1?afterok:2", "job.sh:2: --dependency=afterok:1?afterok:2: write afterok:JOB_ID"),
        ("-d afterok", "job.sh:2: --dependency=afterok: write afterok:JOB_ID"),
        ("--licenses=matlab@db:1", "job.sh:2: --licenses can't be followed here"),
        ("--signal=B:USR1@60", "job.sh:2: --signal can't be followed here"),
        ("--begin=now+1hour", "job.sh:2: --begin can't be followed here; delete the line and give --run-at TIME"),
        ("--hold", "job.sh:2: --hold can't be followed here"),
        ("--nodes=2", "job.sh:2: --nodes=2: a task has one node"),
        ("-N 2-4", "job.sh:2: --nodes=2-4: a task has one node"),
        ("--ntasks=all", "job.sh:2: --ntasks=all: write a whole number from 1"),
        ("--time=8-00:00", "job.sh:2: --time=8-00:00: a task may take 7 days at most"),
        ("--time=1h", "job.sh:2: --time=1h: '1h' is not a time; write minutes, HH:MM:SS or D-HH:MM:SS"),
        ("--mem=lots", "job.sh:2: --mem=lots: 'lots' is not a size; write 4000"),
        ("--array=1-", "job.sh:2: --array=1-: '1-' is not an array"),
        ("--my-plugin=1", "job.sh:2: '--my-plugin=1' is not an option of sbatch that is known here; delete it"),
        ("--time", "job.sh:2: argument --time"),
        ("--time=5 minutes", "job.sh:2: 'minutes' is not an option of sbatch"),
        ('--job-name="x', "job.sh:2: no closing quotation in"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_line(line: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        read(f"#SBATCH {line}")
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo", "job.sh:1: a batch script begins with its interpreter, such as #!/bin/bash"),
        ("#!/bin/sh\r\necho\r\n", "job.sh: its lines end as in Windows; convert it, for example by dos2unix"),
    ],
)
def test_what_is_not_a_batch_script_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        read_script("job.sh", text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800.0),
        ("10:30", 630.0),
        ("01:59:30", 7170.0),
        ("100:00:00", 360_000.0),
        ("2-0", 172_800.0),
        ("0-0:30", 1800.0),
        ("1-02:03:04", 93_784.0),
        ("0", None),
        ("INFINITE", None),
    ],
)
def test_a_time_limit_is_in_minutes_unless_it_says_otherwise(text: str, seconds: float | None) -> None:
    assert parse_minutes(text) == seconds


def test_memory_is_in_mebibytes_unless_it_says_otherwise() -> None:
    texts = {"500": 500 << 20, "16G": 16 << 30, "32gb": 32 << 30, "512K": 512 << 10, "1T": 1 << 40}
    assert {text: parse_memory(text) for text in texts} == texts


def test_export_takes_what_it_names() -> None:
    environment = {"HOME": "/home/me", "KEY": "k", "none": "a variable of that name"}
    assert parse_export("none", environment) == parse_export("None", environment) == {}
    assert parse_export("ALL", environment) == parse_export("NONE", environment) == {}
    assert parse_export("NONE,A=1,KEY,MISSING", environment) == {"A": "1", "KEY": "k"}
    assert parse_export("LIST=1,2,3,MODE=fast", environment) == {"LIST": "1,2,3", "MODE": "fast"}


def test_patterns_of_file_names_are_filled() -> None:
    known = {"SLURM_JOB_ID": "107", "SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": "7"}
    known |= {"SLURM_JOB_NAME": "sweep", "SLURMD_NODENAME": "n1.example"}
    assert str(task._fill("logs/%x-%A_%3a-%j.%N%%.out", known)) == "logs/sweep-100_007-107.n1%.out"
    assert task._fill(None, known) is None


@pytest.mark.parametrize(
    ("arguments", "given", "command"),
    [
        ("python a.py -n 3", {}, ["python", "a.py", "-n", "3"]),
        ("-n 4 -l --mpi=pmix --cpu-bind cores ./a.out -x", {"--ntasks": "4"}, ["./a.out", "-x"]),
        ("-n2 --exclusive -N1 -- -odd", {"--ntasks": "2", "--nodes": "1"}, ["-odd"]),
        ("--ntasks=1 --unbuffered env", {"--ntasks": "1"}, ["env"]),
    ],
)
def test_srun_finds_its_command(arguments: str, given: dict[str, str], command: list[str]) -> None:
    found, rest = srun.read(arguments.split())
    assert ({name: found[name] for name in given}, rest) == (given, command)


@pytest.mark.parametrize(
    "arguments", ["-N 2 true", "--multi-prog conf", "-o out.txt true", "-n x true", "-n 2 true", "-l"]
)
def test_srun_refuses_what_it_cannot_do(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        srun.main(arguments.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("srun: ")


@pytest.mark.parametrize("module", [srun, task], ids=["srun", "task"])
def test_what_goes_to_the_node_needs_its_python_alone(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(), feature_version=(3, 9))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= sys.stdlib_module_names


SCRIPT = """#!/bin/bash
#SBATCH --array=1-3
#SBATCH --time=5
#SBATCH --account=grp
echo $SLURM_ARRAY_TASK_ID
"""


@pytest.fixture
def taking(service: Service) -> Service:
    """A grid that takes packages, processors and jobs."""
    service.on("GET", "/v1/pools", answer({"items": [{"name": "default"}], "next_cursor": None}))
    service.on(
        "POST", "/v1/packages", answer({"sha256": "f" * 64, "uri": "s3://b/p", "bytes": 1, "url": f"{service.url}/p"})
    )
    service.on("PUT", "/p", Answer(headers={"etag": "e"}))
    service.on("POST", "/v1/processors", answer({"name": "sbatch-job.sh", "version": 3}, 201))
    service.on("POST", "/v1/jobs", answer(job(), 201))
    Path("job.sh").write_text(SCRIPT)
    return service


def test_a_batch_script_is_pushed_registered_and_submitted(run: Run, taking: Service) -> None:
    Path("beside").mkdir()
    Path("beside/list.txt").write_text("a\n")
    result = run("submit", "--sbatch", "job.sh", "in.txt", "--directory", "beside", "--max-attempts", "2", "--", "-v")
    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID}\n")
    assert result.stderr == "job.sh: without effect here: --account (line 4)\n"
    [package] = taking.requests("PUT", "/p")
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        files = {name.removeprefix("package/"): archive.read(name) for name in archive.namelist()}
    assert files.keys() == {"job.json", "script", "srun.py", "task.py", "files/list.txt"}
    assert files["script"].decode() == SCRIPT
    assert json.loads(files["job.json"])["arguments"] == ["in.txt", "-v"]
    [processor] = taking.requests("POST", "/v1/processors")
    assert processor.body == {
        "name": "sbatch-job.sh",
        "description": "Slurm batch script",
        "command": ["python3", "{package}/task.py", "{output}"],
        "output": "files.tar",
        "package": "f" * 64,
    }
    [asked] = taking.requests("POST", "/v1/jobs")
    assert asked.body == {
        "name": "job.sh",
        "input": {"type": "range", "start": 1, "stop": 4},
        "stages": [{"processor": "sbatch-job.sh@3", "timeout_seconds": 300.0, "retry": {"max_attempts": 2}}],
        "merge": {"type": "concat", "filename": "job.sh.tar"},
    }


def test_options_override_the_script(run: Run, taking: Service) -> None:
    options = ["--array", "7,9%1", "--name", "again", "--pool", "big", "--timeout-seconds", "60"]
    assert run("submit", *options, "--export", "ALL,MODE=fast", "--sbatch", "job.sh").exit_code == 0
    [package] = taking.requests("PUT", "/p")
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        assert json.loads(archive.read("package/job.json"))["environment"]["MODE"] == "fast"
    [asked] = taking.requests("POST", "/v1/jobs")
    assert asked.body["input"] == {"type": "range", "values": [7, 9]}
    assert (asked.body["name"], asked.body["stages"][0]["pool"]) == ("again", "big")
    assert (asked.body["stages"][0]["timeout_seconds"], asked.body["stages"][0]["running_max"]) == (60, 1)


def test_a_script_goes_along_byte_for_byte(run: Run, taking: Service) -> None:
    body = SCRIPT.encode() + "# 10 simultáneos\n".encode("latin-1")
    Path("job.sh").write_bytes(body)
    assert run("submit", "--sbatch", "job.sh").exit_code == 0
    [package] = taking.requests("PUT", "/p")
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        assert archive.read("package/script") == body


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sbatch"], "error: --sbatch: there is no batch script; name its file"),
        (["--sbatch", "none.sh"], "error: none.sh: there is no such file"),
        (["job.sh", "--export", "A=1"], "error: --export: belongs to a batch script; give --sbatch too"),
        (["job.sh", "x"], "error: 'x': arguments belong to a batch script; give --sbatch too"),
        (["--sbatch", "job.sh", "--stage", "noop"], "error: --stage: the batch script is the job's only stage"),
    ],
)
def test_what_does_not_go_with_a_batch_script_is_refused(
    arguments: list[str], message: str, run: Run, taking: Service
) -> None:
    result = run("submit", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert not taking.requests("POST", "/v1/processors")
