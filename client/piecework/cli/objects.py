"""Commands that move data: uploads and results."""

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import refs
from piecework.cli.options import All, CreatedBy, JobId, Limit, Mine, Since, UploadId
from piecework.cli.output import newer
from piecework.cli.partial import show_partial
from piecework.cli.session import Session, command, group
from piecework.errors import InputError
from piecework.shapes import CompletedUpload, Results, UploadState, UploadSummary

MANY_PARTS_BYTES = 65_536  # less than the manifest of a thousand parts, beyond which the API lists none

LEFT_OUT_SHOWN = 3


def upload(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Local file or directory.")],
    resume: Annotated[
        UUID | None,
        refs.UPLOAD.option(help="Go on with this upload: see `piecework uploads list`."),
        refs.UPLOAD,
    ] = None,
) -> None:
    """Upload a file, or all files of a directory, and print its S3 URI, for the input of a job."""
    session.show(upload_path(session, path, resume), lambda uploaded: print(uploaded["uri"]))


def upload_path(session: Session, path: Path, resume: UUID | None = None) -> CompletedUpload:
    """Upload a local file or directory, showing how far it is. Raises InputError if it is neither."""
    from piecework.meter import transfer_meter
    from piecework.transfer import files_in

    if path.is_dir():
        files, left_out = files_in(path)
        _tell_left_out(session, path, left_out)
        what, total = f"{path.resolve().name}/ ({len(files):,} files)", sum(file.stat().st_size for file in files)
    elif path.is_file():
        what, total = path.name, path.stat().st_size
    else:
        raise InputError(f"{path}: there is no such file or directory")
    try:
        with transfer_meter(session.err, "uploading", what, total) as progress:
            return session.client.upload(path, resume=resume, progress=progress)
    except KeyboardInterrupt:
        session.note(f"interrupted; to go on with it: piecework upload {path} --resume @last")
        raise


def _tell_left_out(session: Session, directory: Path, files: list[Path]) -> None:
    if files:
        shown = ", ".join(file.relative_to(directory).as_posix() for file in files[:LEFT_OUT_SHOWN])
        more = f" and {len(files) - LEFT_OUT_SHOWN:,} more" if len(files) > LEFT_OUT_SHOWN else ""
        session.note(f"{directory}: not uploaded, as your desktop made it: {shown}{more}")


def upload_inputs(session: Session, spec: dict[str, Any], directory: Path) -> None:
    """Upload the local files (seen from `directory`) that a JobSpec names, each once, and name the objects instead."""
    from piecework.jobfile import local_paths

    uris: dict[Path, str] = {}
    try:
        for local in local_paths(spec, directory):
            if local.path not in uris:
                uris[local.path] = upload_path(session, local.path)["uri"]
            local.holder[local.field] = uris[local.path]
    except KeyboardInterrupt:
        session.note("nothing was submitted")
        raise


def results(
    session: Session,
    job_id: JobId,
    download: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Download all into this directory instead.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="What the job's tasks have made, though it runs or has failed.")
    ] = False,
    stage: Annotated[
        int | None, refs.STAGE.option(help="With --partial: of this stage; default: that of the results."), refs.STAGE
    ] = None,
) -> None:
    """List the results of a job with their sizes and checksums, or download and verify them.

    A job has results when it has succeeded. With --partial, the parts that are there are listed one by one, and those
    that are missing with the reason.
    """
    if partial:
        show_partial(session, job_id, stage, download)
        return
    if stage is not None:
        raise InputError("--stage: results are those of the whole job; add --partial for the parts of one stage")
    found = session.client.get_results(job_id)
    if download is None:
        session.show(found, lambda found: _show_results(session, found))
    else:
        paths = _download(session, found, download)
        session.show({"files": [str(path) for path in paths]}, lambda _: [print(path) for path in paths])


def _show_results(session: Session, found: Results) -> None:
    from piecework.display import size, table

    files = [*found["files"], found["manifest"]]
    table(
        session.out,
        ["NAME", ">SIZE", "?URI", "?CRC-32"],
        ((file["name"], size(file["bytes"]), file["uri"], file.get("checksum_crc32")) for file in files),
    )
    if not found["files"]:
        few = found["manifest"]["bytes"] < MANY_PARTS_BYTES
        session.note("the job has left no files" if few else "there are too many parts to list: the manifest has them")


def _download(session: Session, found: Results, directory: Path) -> list[Path]:
    from piecework.meter import transfer_meter

    files = [*found["files"], found["manifest"]]
    what = f"{len(files)} files" if len(files) != 1 else files[0]["name"]
    with transfer_meter(session.err, "downloading", what, sum(file["bytes"] for file in files)) as progress:
        return session.client.download(files, directory, progress=progress)


def list_uploads(
    session: Session,
    state: Annotated[UploadState | None, typer.Option(help="Only uploads in this state.")] = None,
    created_by: CreatedBy = None,
    mine: Mine = False,
    since: Since = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List your uploads (as an operator: everybody's), newest first."""
    listing = session.client.list_uploads(state=state, created_by=created_by, mine=mine)
    session.show_list(newer(listing, since), everything, limit, lambda uploads: _show_uploads(session, uploads))


def _show_uploads(session: Session, uploads: list[UploadSummary]) -> None:
    from piecework.display import relative, size, table

    now = session.client.now()
    table(
        session.out,
        ["UPLOAD_ID", "~NAME", ">SIZE", "STATE", "~?OWNER", "?CREATED", "?URI"],
        (
            (
                upload["upload_id"],
                upload["uri"].rstrip("/").rpartition("/")[2],
                size(upload["bytes"]),
                upload["state"],
                upload["created_by"],
                relative(upload["created_at"], now),
                upload["uri"],
            )
            for upload in uploads
        ),
    )


def abort_upload(session: Session, upload_id: UploadId) -> None:
    """End an upload, or delete a completed one: nothing of it stays in S3."""
    session.client.abort_upload(upload_id)
    session.show_done(f"aborted {upload_id}")


def register(app: typer.Typer) -> None:
    command(app, "upload")(upload)
    uploads = group(app, "uploads", "What was uploaded.")
    command(uploads, "create")(upload)
    command(uploads, "list")(list_uploads)
    command(uploads, "abort")(abort_upload)
    command(app, "results")(results)
