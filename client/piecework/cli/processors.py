"""`piecework processors`: the registered pieces of work."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from piecework.cli.options import All, Limit
from piecework.cli.session import Session, command, group, parse_pairs
from piecework.errors import InputError
from piecework.shapes import Processor, ProcessorDetail

Name = Annotated[str, typer.Argument(metavar="NAME")]


def list_processors(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List the newest version of each processor."""
    listing = session.client.list_processors()
    session.show_list(listing, everything, limit, lambda processors: _show_list(session, processors))


def _show_list(session: Session, processors: list[Processor]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["NAME", ">VERSION", "KIND", "~RUNS", "?REGISTERED", "~?DESCRIPTION"],
        (
            (
                processor["name"],
                processor["version"],
                *_what_it_runs(processor["spec"]),
                relative(processor["created_at"], now),
                processor["description"],
            )
            for processor in processors
        ),
    )


def _what_it_runs(spec: dict[str, Any]) -> tuple[str, str]:
    for kind in ("callable", "records", "builtin"):
        if spec.get(kind):
            return kind, str(spec[kind])
    return "command", shlex.join(spec.get("command") or [])


def show(
    session: Session,
    name: Name,
    version: Annotated[int | None, typer.Option(min=1, help="This version; default: the newest.")] = None,
) -> None:
    """Show a processor."""
    session.show(session.client.get_processor(name, version=version), lambda processor: _show(session, processor))


def _show(session: Session, processor: ProcessorDetail) -> None:
    import json

    from piecework.display import facts, moment

    spec = processor["spec"]
    kind, runs = _what_it_runs(spec)
    facts(
        session.out,
        [
            ("processor", f"{processor['name']}@{processor['version']}"),
            ("versions", ", ".join(map(str, processor["versions"]))),
            ("description", processor["description"]),
            (kind, runs),
            ("output", spec.get("output")),
            ("output format", spec.get("output_format") if kind == "records" else None),
            ("environment", ", ".join(f"{key}={value}" for key, value in (spec.get("environment") or {}).items())),
            ("idempotent", "yes" if spec.get("idempotent") else None),
            ("params schema", json.dumps(spec["params_schema"]) if spec.get("params_schema") else None),
            ("registered", moment(processor["created_at"], session.client.now())),
        ],
    )


def register_processor(
    session: Session,
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="SPEC.yaml", help="Specification, YAML or JSON; - reads standard input.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--command", metavar="COMMAND", help="Such as 'ffmpeg -i {input} {output}'; run without a shell."),
    ] = None,
    callable: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Python function of input and output path.")
    ] = None,
    records: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Python function of a record.")] = None,
    builtin: Annotated[Literal["noop", "copy"] | None, typer.Option(help="A built-in.")] = None,
    output: Annotated[str | None, typer.Option(metavar="FILENAME", help="File name of a task's output.")] = None,
    output_format: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option(help="Of a records function; csv also for other output that begins with a header line."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Environment; repeatable.")] = None,
    idempotent: Annotated[
        bool | None,
        typer.Option("--idempotent", help="A task may run twice at once: late ones get a backup attempt elsewhere."),
    ] = None,
    params_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON Schema of the parameters, YAML or JSON.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
) -> None:
    """Register a new version of a processor and print name@version.

    From a file, from options, or from both: options override the file.
    """
    from piecework.jobfile import read_mapping

    spec = read_mapping(file) if file else {}
    if (named := spec.pop("name", name)) != name:
        raise InputError(f"name: the file says {named!r}, the command {name!r}; give the same name")
    options = {
        "command": shlex.split(run) if run else None,
        "callable": callable,
        "records": records,
        "builtin": builtin,
        "output": output,
        "output_format": output_format,
        "environment": parse_pairs("--env", env) or None,
        "idempotent": idempotent,
        "params_schema": read_mapping(params_schema) if params_schema else None,
        "description": description,
    }
    spec |= {field: value for field, value in options.items() if value is not None}
    described = str(spec.pop("description", ""))
    processor = session.client.register_processor(name, spec, description=described)
    session.show(processor, lambda processor: print(f"{processor['name']}@{processor['version']}"))


def register(app: typer.Typer) -> None:
    processors = group(app, "processors", "Registered, versioned pieces of work.")
    command(processors, "list")(list_processors)
    command(processors, "show")(show)
    command(processors, "register")(register_processor)
