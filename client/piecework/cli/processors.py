"""`piecework processors`: the registered pieces of work."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from piecework.cli import names
from piecework.cli.job_file import given
from piecework.cli.options import All, Limit
from piecework.cli.session import Session, command, group, parse_pairs
from piecework.errors import InputError, Invalid
from piecework.shapes import Processor, ProcessorDetail, ProcessorSpec

Name = Annotated[str, typer.Argument(metavar="NAME")]
Versioned = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", autocompletion=names.processors)]


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


def name_and_version(text: str) -> tuple[str, int | None]:
    """Of `clean@3`; the version of `clean` is None. Raises InputError."""
    name, at, version = text.partition("@")
    if at and not (version.isdecimal() and int(version)):
        raise InputError(f"{text!r} is not NAME or NAME@VERSION, such as clean@3")
    return name, int(version) if at else None


def _what_it_runs(spec: ProcessorSpec) -> tuple[str, str]:
    if spec.get("image"):
        return "image", shlex.join([str(spec["image"]), *(spec.get("entrypoint") or []), *(spec.get("command") or [])])
    for kind in ("callable", "function", "records", "sql", "builtin"):
        if spec.get(kind):
            return kind, " ".join(str(spec[kind]).split())
    return "command", shlex.join(spec.get("command") or [])


def show(
    session: Session,
    name: Versioned,
    version: Annotated[int | None, typer.Option(min=1, help="This version; default: the newest.")] = None,
) -> None:
    """Show a processor, or the version of it that is named."""
    name, named = name_and_version(name)
    version = named if version is None else version
    session.show(session.client.get_processor(name, version=version), lambda processor: _show(session, processor))


def _show(session: Session, processor: ProcessorDetail) -> None:
    import json

    from piecework.display import facts, moment

    spec = processor["spec"]
    kind, runs = _what_it_runs(spec)
    required = spec.get("output_required")
    facts(
        session.out,
        [
            ("processor", f"{processor['name']}@{processor['version']}"),
            ("versions", ", ".join(map(str, processor["versions"]))),
            ("description", processor["description"]),
            (kind, runs),
            ("package", spec.get("package")),
            (
                "inputs",
                ", ".join(f"{key}={uri or '(of the stage)'}" for key, uri in (spec.get("inputs") or {}).items()),
            ),
            ("output", spec.get("output")),
            ("output required", required if required is None else "yes" if required else "no"),
            ("further outputs", ", ".join(f"{key}={file}" for key, file in (spec.get("outputs") or {}).items())),
            ("output format", spec.get("output_format") if kind in ("records", "sql") else None),
            ("filters", "yes" if spec.get("filters") else None),
            ("environment", ", ".join(f"{key}={value}" for key, value in (spec.get("environment") or {}).items())),
            ("secrets", ", ".join(f"{key}={place}" for key, place in (spec.get("secrets") or {}).items())),
            ("idempotent", "yes" if spec.get("idempotent") else None),
            ("network", "no" if spec.get("network") is False else None),
            ("share children", "yes" if spec.get("share_children") else None),
            ("params schema", json.dumps(spec["params_schema"]) if spec.get("params_schema") else None),
            ("params that may be options", ", ".join(spec.get("allow_options") or ())),
            ("registered", moment(processor["created_at"], session.client.now())),
        ],
    )


@dataclass(frozen=True)
class ProcessorOptions:
    """What a processor runs; the options are the specification's fields, but for those that `change` converts."""

    image: Annotated[
        str | None, typer.Option(metavar="REFERENCE", help="Container image; --command is what runs in it.")
    ] = None
    entrypoint: Annotated[str | None, typer.Option(metavar="COMMAND", help="Replaces the entrypoint of the image.")] = (
        None
    )
    command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Such as 'ffmpeg -i {input} {output}'; run without a shell.")
    ] = None
    callable: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Python function of input and output path.")
    ] = None
    function: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Python function of an item that returns a value.")
    ] = None
    records: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Python function of a record.")] = None
    sql: Annotated[str | None, typer.Option(metavar="QUERY", help="DuckDB's SQL: SELECT … FROM input.")] = None
    builtin: Annotated[Literal["noop", "copy"] | None, typer.Option(help="A built-in.")] = None
    package: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Pushed package that holds the code; see processors push.")
    ] = None
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=URI]", help="Object that each task finds; without URI the stage says which."),
    ] = None
    output: Annotated[str | None, typer.Option(metavar="FILENAME", help="File name of a task's output.")] = None
    output_directory: Annotated[
        bool | None, typer.Option("--output-directory", help="A task's output is a directory of files.")
    ] = None
    output_required: Annotated[
        bool | None,
        typer.Option(
            "--output-required/--output-optional",
            help="Whether a task fails that writes no output. Default: if the command names {output}.",
        ),
    ] = None
    further_output: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILENAME", help="Further file that each task makes; repeatable.")
    ] = None
    output_format: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        typer.Option(help="Of a records function or SQL; csv also for other output that begins with a header line."),
    ] = None
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Environment; repeatable.")] = None
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=REFERENCE", help="Secret, by the ARN of AWS, file:NAME or env:NAME; repeatable."),
    ] = None
    idempotent: Annotated[
        bool | None,
        typer.Option("--idempotent", help="A task may run twice at once: late ones get a backup attempt elsewhere."),
    ] = None
    network: Annotated[
        bool | None,
        typer.Option("--network/--no-network", help="Whether tasks may use the network; by default they may."),
    ] = None
    share_children: Annotated[
        bool | None,
        typer.Option("--share-children", help="All jobs may share one warm process; they then trust each other."),
    ] = None
    filters: Annotated[
        bool | None, typer.Option("--filters", help="It drops records on purpose: no warning about their count.")
    ] = None
    params_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON Schema of the parameters, YAML or JSON.")
    ] = None
    allow_option: Annotated[
        list[str] | None,
        typer.Option(metavar="PARAM", help="A param that may be an option of the command's program; repeatable."),
    ] = None
    description: Annotated[str | None, typer.Option(help="What it does, for people.")] = None

    def change(self, spec: dict[str, Any]) -> None:
        from piecework.jobfile import read_mapping

        fields = given(asdict(self))
        inputs = [text.partition("=") for text in fields.pop("input", ())]
        converted = {
            "command": _words("--command", self.command or ""),
            "entrypoint": _words("--entrypoint", self.entrypoint or ""),
            "inputs": {name: uri or None for name, _, uri in inputs},
            "outputs": parse_pairs("--further-output", fields.pop("further_output", None)),
            "environment": parse_pairs("--env", fields.pop("env", None)),
            "secrets": parse_pairs("--secret", fields.pop("secret", None)),
            "params_schema": read_mapping(self.params_schema) if self.params_schema else None,
            "allow_options": fields.pop("allow_option", None),
        }
        spec |= fields | {name: value for name, value in converted.items() if value}


_OF_A_SHELL = re.compile(r"\|\|?|&&|[012&]?>>?(?!=).*|<|<\{.*")
_THEIR_OWN = ("expr", "test", "[", "parallel")  # programs that have such arguments


def _words(option: str, text: str) -> list[str]:
    """Raises InputError for what only a shell would understand, unless it is quoted."""
    try:
        words, quoted = shlex.split(text), shlex.split(text, posix=False)
    except ValueError as error:
        raise InputError(f"{option}: {str(error).lower()} in {text!r}") from error
    found = next((word for word in quoted if _OF_A_SHELL.fullmatch(word)), None)
    if found is not None and words[0] not in _THEIR_OWN:
        fix = f"write sh -c {shlex.quote(text)}, or quote it if the program itself wants it"
        raise InputError(f"{option}: commands run without a shell, so {found!r} would be an argument: {fix}")
    return words


def register_processor(
    session: Session,
    name: Name,
    options: ProcessorOptions,
    file: Annotated[
        Path | None, typer.Argument(metavar="SPEC.yaml", help="Specification, YAML or JSON; - reads standard input.")
    ] = None,
) -> None:
    """Register a new version of a processor and print name@version.

    From a file, from options, or from both: options override the file.
    """
    from piecework.jobfile import read_mapping

    spec = read_mapping(file) if file else {}
    if (named := spec.pop("name", name)) != name:
        raise InputError(f"name: the file says {named!r}, the command {name!r}; give the same name")
    options.change(spec)
    described = str(spec.pop("description", ""))
    processor = session.client.register_processor(name, spec, description=described)
    session.show(processor, lambda processor: print(f"{processor['name']}@{processor['version']}"))


def push(
    session: Session,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Code, with processors/*.yaml or a processor.yaml.")],
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="Register only this processor; repeatable.")
    ] = None,
) -> None:
    """Ship a directory of code, register the processors in it, and print name@version of each.

    What its requirements.txt says (each with its hash) is installed on the workers. Hidden files stay here.
    """
    specs = _specs_in(directory)
    if unknown := sorted(set(name or ()) - specs.keys()):
        raise InputError(f"--name: {directory} has no processor {unknown[0]!r}; it has {', '.join(specs)}")
    package = session.client.push_package(directory)["sha256"]
    registered = []
    for each, spec in specs.items():
        if not name or each in name:
            description = str(spec.pop("description", ""))
            code = {"package": package} if brings_code(spec) else {}
            try:
                processor = session.client.register_processor(each, {**spec, **code}, description=description)
            except Invalid as error:
                raise InputError(f"processor {each}: {'; '.join(error.lines())}") from error
            registered.append(processor)
    session.show(registered, lambda processors: [print(f"{p['name']}@{p['version']}") for p in processors])


def _specs_in(directory: Path) -> dict[str, dict[str, Any]]:
    """The specifications in the directory, by their processors' names. Raises InputError."""
    alone = directory / "processor.yaml"
    files = [alone] if alone.exists() else sorted(directory.glob("processors/*.yaml"))
    if not files:
        raise InputError(f"{directory}: there is neither a processor.yaml nor a processors/*.yaml in it")
    specs: dict[str, dict[str, Any]] = {}
    for file in files:
        spec = read_spec(file)
        named = str(spec.pop("name", directory.resolve().name if file == alone else file.stem))
        if named in specs:
            raise InputError(f"{file}: another file is of the processor {named!r}, too")
        specs[named] = spec
    return specs


def read_spec(file: Path) -> dict[str, Any]:
    """The specification in a processor's file. Raises InputError."""
    from piecework.jobfile import read_mapping

    spec = read_mapping(file)
    for field in spec.keys() & {"command", "entrypoint"}:  # may be written in one line, as for the option
        if isinstance(spec[field], str):
            spec[field] = _words(f"{file}: {field}", spec[field])
    return spec


def code_of(file: Path, spec: Mapping[str, Any]) -> Path | None:
    """The directory that `push` would ship with the processor's file; None if it would ship none."""
    if not brings_code(spec):
        return None
    if file.name == "processor.yaml":
        return file.parent
    return file.absolute().parent.parent if file.absolute().parent.name == "processors" else None


def brings_code(spec: Mapping[str, Any]) -> bool:
    """SQL, built-ins and images need no package, and so no new version with every change of one."""
    return not spec.get("sql") and not spec.get("builtin") and not spec.get("image")


def delete_version(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME@VERSION", autocompletion=names.processors)]
) -> None:
    """Delete a version that nothing needs any more."""
    name, version = name_and_version(name)
    if version is None:
        raise InputError(f"{name!r} is all of its versions; name the one to delete, such as {name}@1")
    session.client.delete_processor_version(name, version)
    session.show_done(f"deleted {name}@{version}")


def delete_package(session: Session, sha256: Annotated[str, typer.Argument(metavar="SHA256")]) -> None:
    """Delete the code of processors that are all deleted."""
    session.client.delete_package(sha256)
    session.show_done(f"deleted {sha256}")


def register(app: typer.Typer) -> None:
    processors = group(app, "processors", "Registered, versioned pieces of work.")
    command(processors, "list")(list_processors)
    command(processors, "show")(show)
    command(processors, "register")(register_processor)
    command(processors, "push")(push)
    command(processors, "delete")(delete_version)
    command(processors, "delete-package")(delete_package)
