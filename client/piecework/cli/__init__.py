"""The `piecework` command."""

from typing import Annotated

import typer

from piecework.cli import (
    alerts,
    cost,
    exits,
    grid,
    items,
    jobs,
    keys,
    logs,
    objects,
    processors,
    quotas,
    retention,
    retry,
    schedules,
    split,
    stats,
    submit,
    tasks,
    triggers,
    validate,
    webhooks,
)
from piecework.cli.session import RootGroup, Session, root_callback

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exits.TABLE.items()) + "."

app = typer.Typer(name="piecework", cls=RootGroup, no_args_is_help=True, epilog=EPILOG, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        import piecework

        print(f"piecework {piecework.__version__}")
        raise typer.Exit


@root_callback(app)
def piecework(
    session: Session,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Submit and watch batch jobs on a Piecework grid, and run the grid itself."""


COMMANDS = (
    submit,
    validate,
    split,
    jobs,
    retry,
    items,
    tasks,
    logs,
    objects,
    stats,
    cost,
    schedules,
    triggers,
    processors,
    grid,
    webhooks,
    alerts,
    keys,
    quotas,
    retention,
)
for module in COMMANDS:
    module.register(app)
