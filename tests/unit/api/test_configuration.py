"""A process that can't run as it is configured says why in one line, and ends with exit code 2."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forks import Fork

API = ("uvicorn", "services.api.main:app", "--port", "0")
STATS = ("uvicorn", "services.stats.main:app", "--port", "0")
SCHEDULER, WORKER, MIGRATE = ("services.scheduler",), ("services.worker",), ("services.engine.migrate",)


Refusal = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Runs a command, and returns the one line that the process says."""

    def refusal(command: tuple[str, ...], *unset: str, **environment: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        process = Fork(*command, env=kept | environment, log=tmp_path / "log")
        assert process.wait(60) == 2
        [line] = process.lines
        return line

    return refusal


@pytest.mark.parametrize("command", [API, STATS, SCHEDULER, WORKER, MIGRATE])
def test_a_bad_setting(command: tuple[str, ...], refusal: Refusal) -> None:
    line = refusal(command, PIECEWORK_LEASE_SECONDS="abc")
    assert line.startswith("PIECEWORK_LEASE_SECONDS: 'abc' is not a duration; write for")
    assert line.endswith("it is 'abc'")


@pytest.mark.parametrize("command", [API, SCHEDULER, WORKER])
def test_no_region(command: tuple[str, ...], refusal: Refusal) -> None:
    line = refusal(command, "AWS_DEFAULT_REGION", "AWS_PROFILE", AWS_CONFIG_FILE=os.devnull)
    assert line.startswith("AWS_DEFAULT_REGION: it is not set") and "set it" in line


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("PIECEWORK_LOG_LEVEL", "LOUD", "'WARNING'"),
        ("PIECEWORK_AWS_ENDPOINT_URL", "localhost:4566", "https?://"),
    ],
)
def test_a_setting_that_only_some_later_call_would_refuse(
    variable: str, value: str, fix: str, refusal: Refusal
) -> None:
    line = refusal(MIGRATE, **{variable: value})
    assert line.startswith(f"{variable}: ") and fix in line and f"'{value}'" in line


def test_the_value_of_a_secret_is_not_shown(refusal: Refusal) -> None:
    line = refusal(MIGRATE, PIECEWORK_DATABASE_URL="mysql://piecework:hunter2@db/piecework")
    assert line.startswith("PIECEWORK_DATABASE_URL: ") and "postgresql://" in line and "hunter2" not in line
