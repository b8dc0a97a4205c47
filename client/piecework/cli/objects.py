"""Commands that move data: uploads and results."""

from pathlib import Path
from typing import Annotated, Any

import typer

from piecework.cli.options import JobId
from piecework.cli.session import Session, command
from piecework.errors import InputError
from piecework.shapes import Results, Uploaded


def upload(session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", help="Local file.")]) -> None:
    """Upload a file and print its S3 URI, for the input of a job."""
    session.show(upload_file(session, file), lambda uploaded: print(uploaded["uri"]))


def upload_file(session: Session, path: Path) -> Uploaded:
    """Upload a local file, showing how far it is. Raises InputError if it is no file."""
    from piecework.meter import transfer_meter

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    with transfer_meter(session.err, "uploading", path.name, path.stat().st_size) as progress:
        return session.client.upload(path, progress=progress)


def upload_input(session: Session, spec: dict[str, Any], directory: Path) -> None:
    """Upload the local file (seen from `directory`) that a JobSpec names as its input, and name the object instead."""
    from piecework.jobfile import local_input

    path = local_input(spec, directory)
    if path is not None:
        spec["input"]["uri"] = upload_file(session, path)["uri"]


def results(
    session: Session,
    job_id: JobId,
    download: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Download all into this directory instead.")
    ] = None,
) -> None:
    """List the results of a job with their sizes, or download them."""
    found = session.client.get_results(job_id)
    if download is None:
        session.show(found, lambda found: _show_results(session, found))
    else:
        paths = _download(session, found, download)
        session.show({"files": [str(path) for path in paths]}, lambda _: [print(path) for path in paths])


def _show_results(session: Session, found: Results) -> None:
    from piecework.display import size, table

    files = [*found["files"], *([found["manifest"]] if found["manifest"] else [])]
    table(session.out, ["NAME", ">SIZE", "?URI"], ((file["name"], size(file["bytes"]), file["uri"]) for file in files))
    if not found["files"]:
        session.note("there are too many parts to list here: the manifest lists them all")


def _download(session: Session, found: Results, directory: Path) -> list[Path]:
    from piecework.meter import transfer_meter

    files = [*found["files"], *([found["manifest"]] if found["manifest"] else [])]
    what = f"{len(files)} files" if len(files) != 1 else files[0]["name"]
    with transfer_meter(session.err, "downloading", what, sum(file["bytes"] for file in files)) as progress:
        return session.client.download(files, directory, progress=progress)


def register(app: typer.Typer) -> None:
    command(app, "upload")(upload)
    command(app, "results")(results)
