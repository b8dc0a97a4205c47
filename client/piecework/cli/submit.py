"""`piecework submit`: a job from a file, from options, or from a file changed by options."""

from typing import Annotated

import typer

from piecework.cli.again import AgainOptions
from piecework.cli.batch_options import BatchOptions
from piecework.cli.input_options import InputOptions
from piecework.cli.job_file import JobFile, name_after
from piecework.cli.job_options import JobOptions, MergeOptions, StageOptions, WhenOptions
from piecework.cli.jobs import watch_to_end
from piecework.cli.objects import upload_inputs
from piecework.cli.schedules import read_job
from piecework.cli.session import Session, command
from piecework.cli.validate import check_before_upload
from piecework.errors import InputError


def submit(
    session: Session,
    file: JobFile,
    again: AgainOptions,
    batch: BatchOptions,
    job: JobOptions,
    input: InputOptions,
    stages: StageOptions,
    merge: MergeOptions,
    when: WhenOptions,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the job until it ends.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Submitting again with this key gives the first job.")
    ] = None,
) -> None:
    """Submit a job and print its id.

    From a job file, from options, or from both: options override the file. With --sbatch the file is a batch script of
    Slurm, whose #SBATCH lines are read.

    Local paths, in the file or in options, are uploaded once the job has been checked; a directory becomes a prefix. A
    schedule can't have any.

    --again JOB takes the specification of an earlier job, with the newest versions of processors that it names without
    one; --set changes single fields.

    An option with [STAGE=] is for all stages (--pool big), or for one by its name or number (--pool clean=big).

    With --cron it makes a schedule and prints the schedule's id.
    """
    when.check(watch)
    script = batch.read(session, file)
    if script and stages.stage:
        raise InputError("--stage: the batch script is the job's only stage; leave it out")
    spec = script.spec if script else again.read(session, file)
    for options in (job, input, stages, merge, when, again):
        options.change(spec)
    input.limit(spec)
    spec = name_after(spec, file.file)
    if script:
        batch.register(session, script, spec)
    if when.cron is not None:
        schedule = session.client.create_schedule(
            str(spec.get("name", "job")),
            when.cron,
            read_job(spec, file.local_root),
            time_zone=when.time_zone or "UTC",
            misfire=when.misfire or "run_once",
            idempotency_key=idempotency_key,
        )
        session.show(schedule, lambda schedule: print(schedule["schedule_id"]))
        return
    check_before_upload(session, spec, file.local_root)
    upload_inputs(session, spec, file.local_root)
    submitted = session.client.submit_job(spec, idempotency_key=idempotency_key)
    if watch:
        if not session.as_json:
            print(submitted["job_id"], flush=True)
        watch_to_end(session, submitted)
    else:
        session.show(submitted, lambda job: print(job["job_id"]))


def register(app: typer.Typer) -> None:
    command(app, "submit")(submit)
