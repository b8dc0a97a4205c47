"""`python -m deploy.local up|down|status|run|example|dump|restore`: the whole grid here, without Docker or AWS."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from deploy.local import backup, cli, examples
from deploy.local.cli import INTERRUPTED
from deploy.local.settings import StackSettings
from deploy.local.supervisor import StackError

COMMANDS: dict[str, Callable[[StackSettings], int]] = {
    "up": cli.up,
    "down": cli.down,
    "status": cli.status,
    "run": cli.run,
    "supervise": cli.supervise,
}
WITH_DUMP: dict[str, Callable[[StackSettings, Path], int]] = {"dump": backup.dump, "restore": backup.restore}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|down|status|run|example|dump|restore")
    for name, command in COMMANDS.items():
        commands.add_parser(name, description=command.__doc__)
    for name, with_dump in WITH_DUMP.items():
        described = commands.add_parser(name, description=with_dump.__doc__)
        described.add_argument("path", type=Path, metavar="DUMP", help="the file, as pg_dump -Fc writes it")
    example = commands.add_parser("example", description="Run an example on a stack of its own.")
    example.add_argument("name", help="a directory of examples/")
    example.add_argument("data_options", nargs=argparse.REMAINDER, help="passed on to the example's data.py")
    arguments = parser.parse_args()
    try:
        if arguments.command == "example":
            return examples.main(arguments.name, arguments.data_options)
        if arguments.command in WITH_DUMP:
            return WITH_DUMP[arguments.command](StackSettings(), arguments.path)
        return COMMANDS[arguments.command](StackSettings())
    except ValidationError as error:
        first = error.errors()[0]
        name = f"PIECEWORK_{first['loc'][0]}".upper()
        print(f"{name}={first['input']}: {first['msg']}", file=sys.stderr)
    except (StackError, OSError) as error:
        print(f"Piecework cannot run: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1
