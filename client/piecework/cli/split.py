"""`piecework split`: what an input would be split into."""

from typing import Annotated, Any

import typer

from piecework.cli.input_options import InputOptions
from piecework.cli.job_file import JobFile
from piecework.cli.objects import upload_inputs
from piecework.cli.session import Session, command, describe_columns
from piecework.errors import InputError
from piecework.shapes import Split, SplitPart


def split(
    session: Session,
    file: JobFile,
    input: InputOptions,
    pool: Annotated[
        str | None, typer.Option(help="Pool whose slots suggest the size of parts; default: that of the first stage.")
    ] = None,
    show: Annotated[int, typer.Option(metavar="N", min=0, max=1000, help="Parts to show.")] = 20,
) -> None:
    """Show what a job's input would be split into, without running anything.

    The input is that of a job file, or of options, or of both: options override the file. Local paths are uploaded.
    """
    spec = file.read()
    input.change(spec)
    if "input" not in spec:
        raise InputError("input: nothing to split; give a job file or --input")
    upload_inputs(session, {"input": spec["input"]}, file.local_root)
    found = session.client.preview_split(spec["input"], pool=pool or _pool(spec), parts_max=show)
    session.show(found, lambda found: _show(session, found))


def _pool(spec: dict[str, Any]) -> str:
    stages = spec.get("stages")
    first = stages[0] if isinstance(stages, list) and stages else None
    return str(first.get("pool", "default")) if isinstance(first, dict) else "default"


def _show(session: Session, found: Split) -> None:
    from piecework.display import number, size, table

    if found["parts"]:
        rows = ((str(part["index"]), size(part["bytes"]), _place(part)) for part in found["parts"])
        table(session.out, [">PART", ">SIZE", "INPUT"], rows)
    about = "" if found["exact"] else "about "
    aimed = f", aiming at {size(found['part_bytes'])} each" if found["part_bytes"] else ""
    of = f" of {size(found['bytes'])}" if found["bytes"] is not None else ""
    parts = "part" if found["count"] == 1 else "parts"
    session.note(f"{about}{number(found['count'])} {parts}{of}{aimed}")
    if columns := found.get("columns"):
        session.note(f"columns: {describe_columns(columns)}")
    for note in found["notes"]:
        session.note(note)


def _place(part: SplitPart) -> str:
    """Where a part is, in short; told by its fields, so that a new format's parts are, too."""
    match part["input"]:
        case {"uri": uri, "start": int(start), "end": int(end)}:
            return f"{uri} bytes {start}-{end - 1}"
        case {"type": blocks, "uri": uri, "first": first, "count": count}:
            return f"{uri} {blocks.replace('_', ' ')} {first}-{first + count - 1}"
        case {"objects": [first, *others]}:
            return f"{first['uri']}" + (f" and {len(others)} more" if others else "")
        case {"uri": uri, "version": version}:
            return f"{uri} version {version}"
        case {"type": "item", "value": value}:
            return repr(value)
        case {"type": "index", "count": count}:
            return f"index {part['index']} of {count}"
        case {"type": "array_index", "number": number, "count": count}:
            return f"number {number}, index {part['index']} of {count}"
        case other:
            return str(other.get("uri", other["type"]))


def register(app: typer.Typer) -> None:
    command(app, "split")(split)
