"""An input's shape and its row of FORMATS are all that `piecework submit` needs to know of a format."""

import json
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from piecework.cli.input_options import InputOptions, with_fields_of
from piecework.cli.session import Session, command
from piecework.inputs import FORMATS, Input, Option, PartBytes


class TapeInput(TypedDict):
    type: Literal["tape"]
    uri: str
    label: Annotated[str, Option("Label of the tape.", "LABEL")]
    skip: NotRequired[Annotated[list[int] | int, Option("Block to leave out; repeatable.")]]
    block_bytes: NotRequired[PartBytes]
    parity: NotRequired[Annotated[Literal["odd", "even"] | None, Option("Parity of the blocks.")]]
    rewind: NotRequired[Annotated[bool, Option("Rewind first.")]]
    checked: NotRequired[Annotated[bool, Option("Check each block.", negatable=True)]]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """A command with the options of inputs, one of which reads tapes."""
    monkeypatch.setitem(FORMATS, "tape", FORMATS["avro"]._replace(type="tape", suffixes=(".tape",)))

    @with_fields_of(Input | TapeInput)
    class Options(InputOptions):
        pass

    def show(session: Session, input: Options) -> None:
        spec: dict[str, Any] = {}
        input.change(spec)
        print(json.dumps(spec["input"]))

    app = typer.Typer()
    command(app, "show")(show)
    return app


SAYS_ALL = "--label claims --skip 1 --skip 2 --block-bytes 1KiB --parity odd --rewind --no-checked"
ALL = {"label": "claims", "skip": [1, 2], "block_bytes": 1024, "parity": "odd", "rewind": True, "checked": False}


@pytest.mark.parametrize(
    ("options", "input"),
    [
        ("--input s3://b/a.tape", {"type": "tape", "uri": "s3://b/a.tape"}),
        ("--input s3://b/a.tape.gz", {"type": "tape", "uri": "s3://b/a.tape.gz"}),
        ("--input s3://b/a --format tape", {"type": "tape", "uri": "s3://b/a"}),
        (f"--input s3://b/a.tape {SAYS_ALL}", {"type": "tape", "uri": "s3://b/a.tape", **ALL}),
    ],
)
def test_a_new_format_has_its_suffix_and_its_options(options: str, input: dict[str, Any], app: typer.Typer) -> None:
    result = CliRunner().invoke(app, options.split())
    assert (result.exit_code, json.loads(result.stdout)) == (0, input), result.output


def test_a_new_option_is_in_the_help_among_those_of_inputs(app: typer.Typer) -> None:
    [line] = [line for line in CliRunner().invoke(app, ["--help"]).stdout.splitlines() if "--label" in line]
    assert line.strip("│ ").split() == ["--label", "LABEL", "Label", "of", "the", "tape."]


def test_fields_of_one_name_have_one_option() -> None:
    """Since the option sets the field, whatever the type of the input."""
    options: dict[str, Any] = {}
    for shape in get_args(Input):
        for name, hint in get_type_hints(shape, include_extras=True).items():
            bare = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
            if get_origin(bare) is Annotated:
                assert options.setdefault(name, bare) == bare
