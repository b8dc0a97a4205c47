"""The grammar of the command: `piecework NOUN VERB`; a plural alone lists, a singular shows, a verb alone is of jobs.

So `jobs` is `jobs list`, `pool large` is `pools show large`, and `cancel JOB` is `jobs cancel JOB`.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from piecework.cli import exits
from piecework.cli.refs import JOB

HELP = ("-h", "--help")


class RootGroup(TyperGroup):
    """The whole command: ends every error as one line on standard error and an exit code."""

    def get_command(self, context: Any, name: str) -> Any:
        """The command; of a noun in the singular, that of its plural."""
        return super().get_command(context, name) or self.commands.get(f"{name}s")

    def main(self, *args: Any, **options: Any) -> Any:
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except typer.TyperException as error:
            # No message: a group without a command, which has printed its help.
            if error.format_message():
                report([" ".join(error.format_message().split())])
            code = error.exit_code
        except typer.Abort:
            code = exits.INTERRUPTED
        sys.exit(code if isinstance(code, int) else exits.OK)


class NounGroup(TyperGroup):
    """The verbs of a noun. Without one, the plural means `list`, and the singular or what has no list, `show`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        place = self._after_options(args)
        verb = self._implied(context)
        if verb and self._is_missing(context, verb, args[place:]):
            args = [*args[:place], verb, *args[place:]]
        return super().parse_args(context, args)

    def shell_complete(self, context: Any, incomplete: str) -> Any:
        """Verbs, and what may stand there for the verb that is implied."""
        completions = super().shell_complete(context, incomplete)
        if verb := self._implied(context):
            for argument in self._arguments(verb)[:1]:
                completions += argument.shell_complete(context, incomplete)
        return completions

    def _implied(self, context: Any) -> str | None:
        plural = context.info_name == self.name
        return next((verb for verb in (["list"] if plural else []) + ["show"] if verb in self.commands), None)

    def _is_missing(self, context: Any, verb: str, rest: list[str]) -> bool:
        if not rest:
            return not context.resilient_parsing  # while it is typed, the verb may still come
        if rest[0] in self.commands or rest[0] in HELP:
            return False
        return rest[0].startswith("-") or bool(self._arguments(verb))

    def _arguments(self, verb: str) -> list[Any]:
        return [param for param in self.commands[verb].params if param.param_type_name == "argument"]

    def _after_options(self, args: list[str]) -> int:
        """Where the group's own options end, which may stand before the verb."""
        flags = {name: param.is_flag for param in self.params for name in param.opts}  # type: ignore[attr-defined]
        place = 0
        while place < len(args):
            name, equals, _ = args[place].partition("=")
            joined = bool(equals) or (name not in flags and not name.startswith("--") and name[:2] in flags)
            name = name if name in flags else name[:2]
            if not args[place].startswith("-") or name not in flags:
                break
            place += 1 if joined or flags[name] else 2
        return min(place, len(args))


def arrange(app: typer.Typer, panels: Mapping[str, Sequence[str]]) -> None:
    """Give the commands of `app` their places in its help, and the group `jobs` the verbs that stand alone.

    A command whose first argument is a job is such a verb; so are the commands of the panel "Jobs".
    """
    groups = {info.typer_instance.info.name: info for info in app.registered_groups if info.typer_instance}
    jobs = groups["jobs"].typer_instance
    assert jobs
    present = {info.name for info in jobs.registered_commands} | groups.keys()
    panel_of = {name: panel for panel, names in panels.items() for name in names}
    for name, of_group in groups.items():
        of_group.rich_help_panel = panel_of.get(str(name), "More")
    for info in app.registered_commands:
        info.rich_help_panel = "Jobs" if takes_job(info.callback) else panel_of.get(str(info.name), "More")
        if info.rich_help_panel == "Jobs" and info.name not in present:
            jobs.registered_commands.append(info)


def takes_job(function: Any) -> bool:
    """Whether a command's first argument is a job."""
    _, *parameters = inspect.signature(function).parameters.values()
    return bool(parameters) and JOB in getattr(parameters[0].annotation, "__metadata__", ())


def report(lines: list[str]) -> None:
    """Print errors, each on one line."""
    for line in lines:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
