"""The `piecework` command."""

from typing import Annotated

import typer

from piecework.cli import (
    alerts,
    contexts,
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
    trial,
    triggers,
    validate,
    wait,
    webhooks,
)
from piecework.cli.grammar import RootGroup, arrange
from piecework.cli.session import Session, root_callback

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exits.TABLE.items()) + "."

app = typer.Typer(
    name="piecework",
    cls=RootGroup,
    no_args_is_help=True,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


# How the help of the whole command groups the others; a verb of jobs is among "Jobs", what is not here among "More".
PANELS = {
    "Jobs": ("submit", "validate", "split", "jobs", "tasks"),
    "Schedules and events": ("schedules", "triggers", "alerts", "webhooks"),
    "Code and data": ("processors", "upload", "uploads"),
    "The grid": ("pools", "workers", "shares", "quotas", "retention", "costs"),
    "Access": ("login", "logout", "contexts", "whoami", "keys", "audit"),
}
COMMANDS = (
    submit,
    validate,
    split,
    jobs,
    retry,
    wait,
    items,
    tasks,
    logs,
    trial,
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
    contexts,
)
for module in COMMANDS:
    module.register(app)
arrange(app, PANELS)
