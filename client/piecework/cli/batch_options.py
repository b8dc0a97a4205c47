"""The options that make a job of a batch script of Slurm."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piecework.cli.job_file import JobFile
from piecework.cli.session import Session
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.slurm.job import BatchJob


@dataclass(frozen=True)
class BatchOptions:
    """Whether the file is a batch script, and the script's own arguments."""

    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENT", help="With --sbatch: the script's; -- goes before those that begin with -."),
    ] = None
    sbatch: Annotated[
        bool,
        typer.Option("--sbatch", help="The file is a Slurm batch script; --directory DIR takes files along with it."),
    ] = False
    export: Annotated[
        str | None,
        typer.Option(metavar="NAME[=VALUE],…", help="With --sbatch: variables for the script, as in sbatch."),
    ] = None

    def read(self, session: Session, file: JobFile) -> "BatchJob | None":
        """The job that the batch script asks for; None if the file is a job file. Raises InputError."""
        from piecework.jobfile import read_text
        from piecework.slurm.job import batch_job
        from piecework.slurm.script import parse_export, read_script

        if not self.sbatch:
            if self.arguments:
                raise InputError(f"{self.arguments[0]!r}: arguments belong to a batch script; give --sbatch too")
            if self.export is not None:
                raise InputError("--export: belongs to a batch script; give --sbatch too")
            return None
        if file.file is None:
            raise InputError("--sbatch: there is no batch script; name its file")
        name = "sbatch" if file.file == Path("-") else str(file.file)
        script = read_script(name, read_text(file.file, errors="surrogateescape"))
        pools = [pool["name"] for pool in session.client.list_pools()]
        exported = parse_export(self.export or "", os.environ)
        return batch_job(
            script,
            self.arguments or [],
            pools=pools,
            environment=os.environ,
            exported=exported,
            directory=file.directory,
        )

    def register(self, session: Session, job: "BatchJob", spec: dict[str, Any]) -> None:
        """Ship the script, and make it the processor of the job's stage. Raises InputError."""
        for remark in job.remarks:
            session.note(remark)
        package = session.client.push_package(job.files)["sha256"]
        found = session.client.register_processor(
            f"sbatch-{job.name}", {**job.processor, "package": package}, description="Slurm batch script"
        )
        spec["stages"][0]["processor"] = f"{found['name']}@{found['version']}"
