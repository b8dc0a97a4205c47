"""What every command shares: the global options before and after its name, the client, its output, its errors."""

import copy
import inspect
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from piecework.cli import exits, names, output
from piecework.cli.examples import examples_of
from piecework.cli.grammar import NounGroup, RootGroup, report
from piecework.cli.options import Limit
from piecework.cli.output import Form
from piecework.cli.refs import Noun, PartOf
from piecework.errors import FieldError, InputError, Invalid, PieceworkError, Unauthorized, describe

if TYPE_CHECKING:
    from rich.console import Console

    from piecework.client import Client, Listing
    from piecework.shapes import Page

T = TypeVar("T")

COMPLETION_SECONDS = 1.0  # completion waits no longer for the grid

_PANEL = "Global options"

_GLOBALS: dict[str, Any] = {
    "api_url": Annotated[
        str | None,
        typer.Option(
            help="URL of the API; else PIECEWORK_API_URL, .piecework/client.json, the context.", rich_help_panel=_PANEL
        ),
    ],
    "stats_url": Annotated[
        str | None,
        typer.Option(
            help="URL of the stats service; else PIECEWORK_STATS_URL, the API's host.", rich_help_panel=_PANEL
        ),
    ],
    "api_key": Annotated[
        str | None, typer.Option(help="API key; better in PIECEWORK_API_KEY.", rich_help_panel=_PANEL)
    ],
    "context": Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=names.contexts,
            help="The grid that is meant: see `piecework context`.",
            rich_help_panel=_PANEL,
        ),
    ],
    "form": Annotated[
        Form | None,
        typer.Option("-o", help="Print in this form: wide cuts nothing, name is for xargs.", rich_help_panel=_PANEL),
    ],
    "as_json": Annotated[bool, typer.Option("--json", metavar="", help="The same as -o json.", rich_help_panel=_PANEL)],
    "quiet": Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", metavar="", help="No progress and no notes, only errors.", rich_help_panel=_PANEL
        ),
    ],
}
_FLAGS = ("as_json", "quiet")
_HIDDEN = ("api_url", "stats_url", "api_key", "context")  # which only the help of the whole command shows

_SORT = Annotated[
    str | None,
    typer.Option("--sort", metavar="FIELD", help="Sort by this field of the JSON; descending: -FIELD."),
]


@dataclass
class Session:
    """One run of the command."""

    api_url: str | None = None
    stats_url: str | None = None
    api_key: str | None = None
    context: str | None = None
    form: Form | None = None
    quiet: bool = False
    sort: str | None = None
    limited: bool = False  # --limit was given
    file: Path | None = None  # that the command was given: errors about its fields name the place in it

    def take(self, options: Mapping[str, Any]) -> None:
        """Take over the global options that were given here, before or after a command's name."""
        for name in _GLOBALS:
            if options[name]:
                name, value = ("form", "json") if name == "as_json" else (name, options[name])
                setattr(self, name, value)

    @property
    def as_json(self) -> bool:
        """Whether what is printed is data, with nothing beside it."""
        return self.form in ("json", "yaml")

    @property
    def prints_tables(self) -> bool:
        """Whether what is printed is for people, who want a line as soon as there is one."""
        return self.form in (None, "table", "wide")

    @cached_property
    def client(self) -> "Client":
        from piecework.client import Client

        return Client(self.api_url, self.api_key, stats_url=self.stats_url, context=self.context)

    @cached_property
    def out(self) -> "Console":
        from piecework.display import console

        return console(sys.stdout, wide=self.form == "wide")

    @cached_property
    def err(self) -> "Console":
        """For progress and notes: standard output is for results alone."""
        from piecework.display import console

        return console(_Silence() if self.quiet else sys.stderr)

    def show(self, value: T, human: Callable[[T], object]) -> None:
        """Print `value` in the form that was asked for, if that is for programs; otherwise let `human` show it."""
        if self.form in ("json", "yaml", "name"):
            if text := output.render(value, self.form):
                print(text)
        else:
            human(value)

    def show_list(
        self, listing: "Listing[T]", everything: bool, limit: int, human: Callable[[list[T]], object]
    ) -> None:
        """Print the first `limit` items, or all, as `--sort` has them; as JSON in the shape of the API."""
        page: Page[T]
        if self.sort:
            read = list(islice(listing, output.SORTED_MAX + 1))
            if len(read) > output.SORTED_MAX:
                self.note(f"only the first {output.SORTED_MAX:,} are sorted")
            items = output.sort(read[: output.SORTED_MAX], self.sort)
            page = {"items": items if everything else items[:limit], "next_cursor": None}
        else:
            page = {"items": list(listing), "next_cursor": None} if everything else listing.page(limit)
        self.show(page, lambda page: human(page["items"]))
        if page["next_cursor"] and not self.as_json and not self.limited:
            self.note(f"only the first {len(page['items'])} are shown; --all shows all")

    def show_done(self, message: str) -> None:
        """Say that something without an answer is done."""
        self.show({}, lambda _: print(message))

    def note(self, message: str) -> None:
        """Tell people, on standard error, something beside the result."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def complain(self, message: str) -> None:
        """Tell what went wrong, whether or not notes are wanted."""
        report([message])


class _Silence(io.StringIO):
    """A stream that nobody reads."""

    def write(self, text: str, /) -> int:
        return len(text)


def group(parent: typer.Typer, name: str, text: str) -> typer.Typer:
    """A group of commands, such as `piecework pools`."""
    commands = typer.Typer(name=name, cls=NounGroup, help=text, no_args_is_help=True)

    def callback(session: Session) -> None:
        pass

    commands.callback()(_with_session(callback))
    parent.add_typer(commands)
    return commands


def command(parent: typer.Typer, name: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of a Session and its own parameters a command that knows the global options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        noun = "" if parent.info.cls is RootGroup else f"{parent.info.name} "
        settings.setdefault("epilog", examples_of(f"{noun}{name}"))
        parent.command(name, **settings)(_with_session(function))
        return function

    return register


def root_callback(app: typer.Typer, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of a Session and its own parameters what runs before any command."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.callback(**settings)(_with_session(function, nested=False))
        return function

    return register


def _with_session(function: Callable[..., None], *, nested: bool = True) -> Callable[..., None]:
    """`function` as Typer needs it: a context instead of the session, and the global options besides its own.

    A parameter whose type is a dataclass stands for the options that are its fields. One that is annotated with a Noun
    takes what may stand for an id, and a command with a Limit has `--sort`.
    """
    _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
    groups: dict[str, Any]
    groups = {parameter.name: parameter.annotation for parameter in parameters if is_dataclass(parameter.annotation)}
    own = [one for parameter in parameters for one in (_options_of(groups.get(parameter.name)) or [parameter])]
    lists = any(parameter.annotation == Limit for parameter in own)
    nouns = {parameter.name: noun for parameter in own if (noun := _noun_of(parameter.annotation))}

    def run(invocation: typer.Context, **options: Any) -> None:
        session: Session = invocation.ensure_object(Session)
        session.take({name: options.pop(name) for name in _GLOBALS})
        if lists:
            session.sort = options.pop("sort")
            source = invocation.get_parameter_source("limit")
            session.limited = source is not None and source.name == "COMMANDLINE"
        session.file = file if isinstance(file := options.get("file"), Path) else None
        with _errors_reported(session):
            for name, noun in nouns.items():
                options[name] = _resolved(session, noun, options[name], options)
            grouped = {
                name: group(**{field.name: options.pop(field.name) for field in fields(group)})
                for name, group in groups.items()
            }
            function(session, **options, **grouped)

    invocation = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=_changed(annotation, hidden=True) if nested and name in _HIDDEN else annotation,
            default=False if name in _FLAGS else None,
        )
        for name, annotation in _GLOBALS.items()
    ]
    if lists:
        shared.insert(0, inspect.Parameter("sort", inspect.Parameter.KEYWORD_ONLY, annotation=_SORT, default=None))
    own = [_completed(parameter).replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    signature = inspect.Signature([invocation, *own, *shared])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    run.__doc__ = function.__doc__
    return run


def _completed(parameter: inspect.Parameter) -> inspect.Parameter:
    """With the completion that options of this name have, and without the type that help has for mere flags."""
    info, *_ = parameter.annotation.__metadata__
    changes: dict[str, Any] = {}
    if not info.autocompletion and parameter.name in names.OF_OPTIONS:
        changes["autocompletion"] = names.OF_OPTIONS[parameter.name]
    if parameter.annotation.__origin__ is bool:
        changes["metavar"] = ""
    return parameter.replace(annotation=_changed(parameter.annotation, **changes))


def _changed(annotation: Any, **changes: Any) -> Any:
    """The annotation with other settings of its option."""
    info, *marks = annotation.__metadata__
    info = copy.copy(info)
    for name, value in changes.items():
        setattr(info, name, value)
    return Annotated[annotation.__origin__, info, *marks]


def _noun_of(annotation: Any) -> Noun | PartOf | None:
    marks = getattr(annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Noun | PartOf)), None)


def _resolved(session: Session, noun: Noun | PartOf, given: Any, options: Mapping[str, Any]) -> Any:
    """The id, or ids, of what a parameter names, or a stage's number; None if it names nothing."""
    if isinstance(noun, PartOf):
        return given and noun.resolve(session.client, given, options[noun.of])
    if isinstance(given, list | tuple):
        return [noun.resolve(session.client, text) for text in given]
    return given and noun.resolve(session.client, given)


def quick_client(context: typer.Context) -> "Client":
    """The client of a command line that is still being typed: it waits no longer than people do. Raises InputError."""
    from piecework.client import Client

    session = Session()
    contexts = [context]
    while contexts[-1].parent:
        contexts.append(contexts[-1].parent)  # type: ignore[arg-type]
    for typed in reversed(contexts):
        session.take({name: typed.params.get(name) for name in _GLOBALS})
    return Client(
        session.api_url,
        session.api_key,
        stats_url=session.stats_url,
        context=session.context,
        timeout_seconds=COMPLETION_SECONDS,
        tries=1,
    )


def _options_of(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters, which help shows under its `panel` if it has one."""
    if group is None:
        return []
    hints = get_type_hints(group, include_extras=True)
    options = []
    for field in fields(group):
        [info, *_] = hints[field.name].__metadata__
        info.rich_help_panel = info.rich_help_panel or getattr(group, "panel", None)
        options.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name], default=field.default
            )
        )
    return options


@contextmanager
def _errors_reported(session: Session) -> Iterator[None]:
    try:
        yield
    except PieceworkError as error:
        lines = _placed(session.file, error.errors) if isinstance(error, Invalid) else []
        lines = lines or error.lines()
        if isinstance(error, Unauthorized):
            lines[-1] += f" ({_describe_key(session)})"
        report(lines)
        raise typer.Exit(exits.exit_code(error)) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        report([f"{error.filename}: {error.strerror}" if error.filename else str(error)])
        raise typer.Exit(exits.BAD_INPUT) from error


def _placed(file: Path | None, errors: list[FieldError]) -> list[str]:
    """The errors, each with its place in the file, if it is there."""
    from piecework.jobfile import place_of

    places = [place_of(file, error["field"], error.get("value")) if file else None for error in errors]
    return [
        f"{place}: {describe(error)}" if place else describe(error) for place, error in zip(places, errors, strict=True)
    ]


def _describe_key(session: Session) -> str:
    config = session.client.config
    if config.api_key is None:
        return f"there is no key for {config.api_url}: piecework login stores one"
    return f"the key comes from {config.origins['api_key']}"


def parse_pairs(option: str, pairs: list[str] | None) -> dict[str, str]:
    """{key: value} of `key=value` options; raises InputError."""
    parsed = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"{option}: {pair!r} is not KEY=VALUE")
        parsed[key] = value
    return parsed


def describe_columns(columns: Mapping[str, Any]) -> str:
    """`id int64, zip text`: names and types; those of lists and objects as JSON."""
    return ", ".join(
        f"{name} {kind if isinstance(kind, str) else json.dumps(kind, ensure_ascii=False)}"
        for name, kind in columns.items()
    )
