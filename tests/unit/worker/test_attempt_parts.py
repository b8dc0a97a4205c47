"""What an attempt is made of: placeholders, environment, log, scratch directory."""

import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import parse_input
from services.engine.attempt import ClaimedTask, StageWork
from services.engine.spec import ProcessorSpec
from services.inputs.registry import suffix_of
from services.platform.settings import WorkerSettings
from services.platform.tracing import within
from services.worker.task.array_jobs import job_number
from services.worker.task.environment import base_environment, installing_environment, task_environment
from services.worker.task.masking import Mask
from services.worker.task.paths import Paths, Workspace
from services.worker.task.placeholders import command_arguments, fill_placeholders
from services.worker.task.scratch import ScratchUnusable, remove_tree, scratch_directory
from services.worker.task.share import Share
from services.worker.task.task_log import free_middle, put_live_log, shorten_log
from services.worker.task.user_files import UserFiles

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


@pytest.mark.parametrize(
    ("command", "params", "why"),
    [
        (["sort", "{params.x}"], {"x": "--compress-program=id"}, "may not begin with '-'"),
        (["sort", "--key={params.x}"], {"x": "/proc/self/environ"}, "does not describe"),
        (["{params.x}"], {"x": "sort"}, "a param can't be the program itself"),
    ],
)
def test_params_that_no_release_should_have_taken_do_not_reach_a_command(
    command: list[str], params: dict[str, object], why: str
) -> None:
    schema = {"properties": {"x": {"type": "string"}}} if "begin" in why else None
    spec = ProcessorSpec(command=command, params_schema=schema)

    with pytest.raises(TaskError, match=why) as refused:
        command_arguments(spec, paths=PATHS, index=7, params=params)
    assert not refused.value.retryable


def environment(array: dict[str, object] | None, attempt: int = 1, **own: str) -> dict[str, str]:
    stage = StageWork.model_validate(
        {
            "job_id": JOB,
            "stage": 2,
            "job_name": "month-end",
            "stage_name": "clean",
            "kind": "map",
            "processor": "p",
            "processor_version": 1,
            "spec": ProcessorSpec(command=["true"], environment=own),
            "params": {"year": 2013},
            "timeout_seconds": 60.0,
            "array": array,
        }
    )
    task = ClaimedTask(JOB, JOB, 2, 41, attempt, parse_input({"type": "item", "value": 1}))
    base = {"PATH": "/bin", "TZ": "UTC", "TMPDIR": "/w/tmp"}
    return task_environment(base, task, stage, PATHS, directory=Path("/w/work"), share=Share(4, 2**31, 2**33))


def test_a_task_knows_its_trace() -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with within(traceparent):
        assert environment(None)["TRACEPARENT"] == traceparent
    assert "TRACEPARENT" not in environment(None)


def test_a_task_knows_who_it_is() -> None:
    found = environment({"type": "range", "start": 1, "stop": 401, "step": 4}, 3, TZ="CET", PIECEWORK_STAGE="mine")
    job = str(job_number(JOB, 2))
    assert found == {
        "PATH": "/bin",
        "TMPDIR": "/w/tmp",
        "TZ": "CET",
        "PIECEWORK_JOB_ID": str(JOB),
        "PIECEWORK_JOB_NAME": "month-end",
        "PIECEWORK_STAGE": "mine",
        "PIECEWORK_STAGE_NAME": "clean",
        "PIECEWORK_TASK_INDEX": "41",
        "PIECEWORK_TASK_NUMBER": "165",
        "PIECEWORK_TASK_COUNT": "100",
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
        "SLURM_JOB_ID": str(int(job) + 41),
        "SLURM_JOBID": str(int(job) + 41),
        "SLURM_JOB_NAME": "month-end",
        "SLURM_ARRAY_JOB_ID": job,
        "SLURM_ARRAY_TASK_ID": "165",
        "SLURM_ARRAY_TASK_COUNT": "100",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "397",
        "SLURM_ARRAY_TASK_STEP": "4",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_CPUS_ON_NODE": "4",
        "SLURM_JOB_CPUS_PER_NODE": "4",
        "SLURM_MEM_PER_NODE": "2048",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_SUBMIT_DIR": "/w/work",
        "SLURM_TMPDIR": "/w/tmp",
        "PBS_JOBID": f"{job}[165].piecework",
        "PBS_JOBNAME": "month-end",
        "PBS_JOBDIR": "/w/work",
        "PBS_O_WORKDIR": "/w/work",
        "PBS_ARRAY_ID": f"{job}[].piecework",
        "PBS_ARRAY_INDEX": "165",
        "PBS_ARRAYID": "165",
        "NCPUS": "4",
        "JOB_ID": job,
        "JOB_NAME": "month-end",
        "SGE_TASK_ID": "165",
        "SGE_TASK_FIRST": "1",
        "SGE_TASK_LAST": "397",
        "SGE_TASK_STEPSIZE": "4",
        "SGE_O_WORKDIR": "/w/work",
        "NSLOTS": "4",
        "LSB_JOBID": job,
        "LSB_JOBNAME": "month-end",
        "LSB_JOBINDEX": "165",
        "LSB_JOBINDEX_END": "397",
        "LSB_JOBINDEX_STEP": "4",
        "LSB_DJOB_NUMPROC": "4",
        "LS_SUBCWD": "/w/work",
    }


def test_an_array_of_values_has_their_bounds_and_the_step_1() -> None:
    found = environment({"type": "range", "values": [*range(41, 0, -1), 900, 7000]})
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    assert [found[f"SLURM_ARRAY_TASK_{name}"] for name in names] == ["900", "43", "1", "7000", "1"]


def test_what_is_not_known_yet_is_not_set() -> None:
    found = environment(None)
    assert found["AWS_BATCH_JOB_ARRAY_INDEX"] == found["SLURM_ARRAY_TASK_ID"] == found["PIECEWORK_TASK_NUMBER"] == "41"
    bounds = {"PIECEWORK_TASK_COUNT", "AWS_BATCH_JOB_ARRAY_SIZE", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MAX"}
    assert not (bounds | {"SGE_TASK_LAST", "LSB_JOBINDEX_END", "SLURM_RESTART_COUNT"}) & found.keys()


def test_the_number_of_a_job_is_its_own_and_fits_into_31_bits() -> None:
    numbers = {job_number(UUID(int=job), stage) for job in range(1000) for stage in range(5)}
    assert len(numbers) == 5000
    assert min(numbers) >= 1_000_000
    assert max(numbers) + 10_000_000 < 2**31
    assert job_number(JOB, 0) == job_number(UUID(str(JOB)), 0) == 1_629_293_958


def test_tasks_inherit_what_is_listed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("PIECEWORK_DATABASE_URL", "PIECEWORK_SECRET_DB", "SENTRY_DSN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY")
    for name in (*ours, "AWS_SESSION_TOKEN", "CI_TOKEN", "LC_TIME", "OMP_NUM_THREADS", "https_proxy", "AWS_REGION"):
        monkeypatch.setenv(name, "postgresql://secret")
    usual = {"LC_TIME", "OMP_NUM_THREADS", "https_proxy", "AWS_REGION"}
    looked_for = {*ours, "AWS_SESSION_TOKEN", "CI_TOKEN", *usual}
    assert looked_for & base_environment(WorkerSettings()).keys() == usual
    listed = WorkerSettings(task_environment="CI_TOKEN, AWS_*,PIECEWORK_*")
    more = {"CI_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert looked_for & base_environment(listed).keys() == usual | more  # but never our settings


def test_only_the_installation_of_packages_has_the_settings_of_pip_and_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:password@packages.example/simple")
    base = base_environment(WorkerSettings())
    assert "PIP_INDEX_URL" not in base
    assert installing_environment(base).items() >= {*base.items(), ("PIP_INDEX_URL", os.environ["PIP_INDEX_URL"])}


def test_the_workers_secrets_stay_with_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIECEWORK_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("PYTHONPATH", "/inherited")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.chdir(tmp_path)
    found = base_environment(WorkerSettings(processor_path="code:/opt/more"))
    assert not [name for name in found if name.startswith("PIECEWORK_")]
    assert found["PYTHONPATH"] == f"{tmp_path}/code:/opt/more:/inherited"
    assert found["AWS_REGION"] == "eu-central-1"


def test_a_task_is_one_process_on_one_node_of_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_PARTITION", "where the worker itself runs")
    found = base_environment(WorkerSettings(pool="big"))
    assert found["SLURM_JOB_PARTITION"] == found["AWS_BATCH_JQ_NAME"] == found["PBS_QUEUE"] == "big"
    assert found["SLURM_NODELIST"] == found["SLURMD_NODENAME"] == found["SLURM_SUBMIT_HOST"]
    assert found["OMPI_MCA_ras"] == found["OMPI_MCA_plm"] == "^slurm,tm,lsf"  # mpirun asks no scheduler
    assert found["HYDRA_BOOTSTRAP"] == "fork"
    assert [found[f"SLURM_{name}"] for name in ("NTASKS", "NNODES", "PROCID", "LOCALID")] == ["1", "1", "0", "0"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("s3://b/a.csv", ".csv"), ("s3://b/2013.01.csv.gz", ".csv.gz"), ("s3://b.x/a", ""), ("a.gz", ".gz"), (".x", "")],
)
def test_the_suffix_tells_the_format(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


async def test_a_log_that_grows_shows_whole_lines(tmp_path: Path) -> None:
    """Half a secret at its end would not be found."""
    stored: list[bytes] = []

    class Store:
        async def put_object(self, *, Body: bytes, **_: Any) -> None:
            stored.append(Body)

    workspace = Workspace(tmp_path / "attempt")
    workspace.make()
    for text in ("one\ntoken sk-live-0123", "one\ntoken sk-live-0123456789\n12 %\r15"):
        workspace.log.write_text(text)
        await put_live_log(Store(), workspace, Location("b", "k"), 1000, Mask(["sk-live-0123456789"]))
    assert stored == [b"one\n", b"one\ntoken ***\n12 %\r"]


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    path, files = tmp_path / "log", UserFiles(tmp_path)
    assert shorten_log(files, path, 10) == b""
    path.write_bytes(b"0123456789")
    assert shorten_log(files, path, 10) == b"0123456789"
    path.write_bytes(b"0123456789" * 100)
    assert shorten_log(files, path, 10) == b"01234\n[piecework: 990 bytes left out here, log_bytes_max is 10]\n56789"
    files.close()


def test_a_log_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    path, files = tmp_path / "log", UserFiles(tmp_path)
    free_middle(files, path, 8192)
    path.write_bytes(b"first" + b"x" * 9_999_990 + b" last")
    cut = shorten_log(files, path, 8192)
    free_middle(files, path, 8192)
    assert path.stat().st_blocks * 512 < 50_000
    assert shorten_log(files, path, 8192) == cut
    files.close()


def test_no_hole_is_cut_into_the_file_behind_a_linked_log(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    path, files, victim = tmp_path / "workspace" / "log", UserFiles(tmp_path / "workspace"), tmp_path / "victim"
    victim.write_bytes(b"x" * 4_000_000)
    blocks = victim.stat().st_blocks
    path.symlink_to(victim)
    with pytest.raises(TaskError, match="symbolic link"):
        free_middle(files, path, 8192)
    path.unlink()
    path.hardlink_to(victim)
    with pytest.raises(TaskError, match="hard links"):
        free_middle(files, path, 8192)
    assert victim.stat().st_blocks == blocks
    files.close()


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


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_a_task_put_in_place_of_a_lock_holds_no_worker_up(tmp_path: Path, make: Callable[[Path], None]) -> None:
    left = tmp_path / "left"
    left.mkdir()
    make(left / "lock")
    make(tmp_path / "lock")
    (tmp_path / "link").symlink_to("/etc")
    with scratch_directory(tmp_path) as directory:
        assert directory.exists()
    assert not left.exists()
    assert (tmp_path / "lock").is_file()
    assert not (tmp_path / "lock").is_symlink()


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


def test_links_in_a_removed_tree_are_not_followed(tmp_path: Path) -> None:
    victim, tree = tmp_path / "victim", tmp_path / "tree"
    (victim / "kept").mkdir(parents=True)
    (victim / "file").touch(0o644)
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").symlink_to(victim / "file")
    (tree / "inner" / "directory").symlink_to(victim)
    (tree / "directory").symlink_to(victim)
    (tree / "inner").chmod(0o500)
    victim.chmod(0o555)
    remove_tree(tree)
    assert not tree.exists()
    assert victim.stat().st_mode & 0o777 == 0o555
    assert (victim / "file").stat().st_mode & 0o777 == 0o644
    assert (victim / "kept").is_dir()


def test_a_link_in_place_of_the_tree_is_removed_alone(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    (tmp_path / "tree").symlink_to(tmp_path / "victim")
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").is_symlink()
    assert (tmp_path / "victim" / "file").exists()


def test_a_tree_of_any_depth_and_shape_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "wide").mkdir(parents=True)
    for number in range(500):
        (tree / "wide" / f"{number}").mkdir()
        (tree / "wide" / f"{number}" / "file").touch()
    place = os.open(tree, os.O_RDONLY)
    for _ in range(3000):  # beyond the recursion that Python allows, and beyond PATH_MAX
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.fchmod(place, 0)
    os.close(place)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    remove_tree(tree)
    assert not tree.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_tree_without_permissions_is_removed_without_the_rights_of_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for directory in tmp_path.parents:
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)

    def as_user() -> None:
        os.setgid(20001)
        os.setuid(20001)
        tree = tmp_path / "tree"
        (tree / "a" / "b" / "c").mkdir(parents=True)
        (tree / "a" / "b" / "c" / "file").touch()
        for directory in (tree / "a" / "b" / "c", tree / "a" / "b", tree / "a", tree):
            directory.chmod(0)
        remove_tree(tree)

    process = multiprocessing.get_context("fork").Process(target=as_user)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not (tmp_path / "tree").exists()


def test_a_workspace_that_its_task_moved_away_is_emptied(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.make()
    (workspace.output / "file").touch()
    workspace.directory.rename(tmp_path / "moved")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    workspace.directory.symlink_to(tmp_path / "victim")
    workspace.remove()
    assert list((tmp_path / "moved").iterdir()) == []
    assert (tmp_path / "victim" / "file").exists()
