"""Secrets that a processor names: its tasks get them, and nothing that leaves the worker shows them."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiobotocore.session import get_session

from services.contract.task_error import TaskError
from services.platform.settings import WorkerSettings
from services.worker.task import secrets
from services.worker.task.secrets import Secrets
from tests.conftest import free_port
from tests.integration.worker.conftest import InProcessGrid

ITEM = {"type": "item", "value": 1}
MISSING = "arn:aws:secretsmanager:us-east-1:000000000000:secret:none"


@pytest.fixture
def directory(grid: InProcessGrid, tmp_path: Path) -> Path:
    """The node's directory of secrets."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    grid.settings.secrets = str(directory)
    return directory


async def store(grid: InProcessGrid, value: str) -> tuple[str, str]:
    """The ARNs of a secret and of a parameter with this value."""
    name, session = f"test-{uuid4().hex}", get_session()
    async with session.create_client("secretsmanager", endpoint_url=grid.settings.aws_endpoint_url) as client:
        secret = (await client.create_secret(Name=name, SecretString=json.dumps({"password": f"{value}-json"})))["ARN"]
    async with session.create_client("ssm", endpoint_url=grid.settings.aws_endpoint_url) as client:
        await client.put_parameter(Name=f"/{name}", Value=f"{value}-parameter", Type="SecureString")
        parameter = (await client.get_parameter(Name=f"/{name}"))["Parameter"]["ARN"]
    return secret, parameter


@pytest.mark.both_emulators("GetSecretValue", "GetParameter")
async def test_a_task_gets_each_kind_and_its_log_and_error_show_none(
    grid: InProcessGrid, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, parameter = await store(grid, "hush")
    (directory / "token").write_text("hush-file\n")
    monkeypatch.setenv("PIECEWORK_SECRET_PARTNER", "hush-variable")
    spec: dict[str, Any] = {
        "command": [
            "sh",
            "-c",
            'printf "$A $B $C $D" >{output}; echo "with $A $B $C $D"; echo "error: $D" >&2; exit $E',
        ],
        "environment": {"E": "0"},
        "secrets": {"A": f"{secret}#password", "B": parameter, "C": "file:token", "D": "env:PARTNER"},
    }
    good = await grid.submit(spec, [ITEM])
    bad = await grid.submit(spec | {"environment": {"E": "1"}}, [ITEM])

    succeeded, failed = await grid.run(good, bad)

    assert await grid.get(succeeded["output"]["uri"]) == b"hush-json hush-parameter hush-file hush-variable"
    for job_id in (good, bad):
        (attempt,) = await grid.attempts(job_id)
        assert await grid.get(attempt["log"]) == b"with *** *** *** ***\nerror: ***\n"
    assert "hush" not in json.dumps(failed["error"]) and "error: ***" in failed["error"]["message"]
    stored = await grid.database.fetch("SELECT spec FROM processors WHERE name = 'p'")
    assert "hush" not in json.dumps([row["spec"] for row in stored])


async def test_a_processor_may_not_name_the_grids_own_password(grid: InProcessGrid) -> None:
    secret, _ = await store(grid, "hush")
    grid.settings.database_password_from = f"{secret}#password"

    with pytest.raises(TaskError, match="it is the grid's own") as refused:
        await Secrets(grid.settings).resolve({"A": f"{secret}#password"})

    assert (refused.value.type, refused.value.retryable) == ("secret_unavailable", False)


async def test_a_value_and_an_exception_show_none(
    grid: InProcessGrid, code: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "token").write_text("hush-file")
    (code / "telling.py").write_text(
        "import os\n"
        "def told(input, output):\n    return {'t': 'is ' + os.environ['T']}\n"
        "def raised(input, output):\n    raise ValueError('x' * 995 + os.environ['T'] + 'y' * 2000)\n"
    )
    jobs = [
        await grid.submit({"callable": f"telling:{name}", "secrets": {"T": "file:token"}}, [ITEM])
        for name in ("told", "raised")
    ]
    told, raised = await grid.run(*jobs)
    assert told["output"]["value"] == {"t": "is ***"}
    assert "hush" not in raised["error"]["message"]
    output = capsys.readouterr()
    assert "hush-file" not in output.out + output.err


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("env:NONE", "set PIECEWORK_SECRET_NONE in the worker's environment"),
        ("env:DATABASE_URL", "set PIECEWORK_SECRET_DATABASE_URL"),
        ("file:none", "No such file or directory: put it into"),
        ("file:out", "it leads out of"),
        ("file:directory", "Is a directory"),
        ("file:short", "fewer than 4 characters, too few to be masked"),
        (MISSING, "ResourceNotFoundException: there is none of this name"),
    ],
)
async def test_one_that_is_not_there_fails_the_task_with_the_fix(
    grid: InProcessGrid, directory: Path, monkeypatch: pytest.MonkeyPatch, reference: str, says: str
) -> None:
    monkeypatch.setenv("PIECEWORK_DATABASE_URL", "postgresql://hush@h/d")
    (directory / "out").symlink_to("/etc/hostname")
    (directory / "directory").mkdir()
    (directory / "short").write_text("abc")
    with pytest.raises(TaskError) as raised:
        await Secrets(grid.settings).resolve({"TOKEN": reference})
    assert raised.value.type == "secret_unavailable"
    assert raised.value.message.startswith(f"the secret TOKEN ({reference}) is not available: ")
    assert says in raised.value.message
    assert not raised.value.retryable


async def test_while_aws_is_away_the_task_may_be_tried_again() -> None:
    away = WorkerSettings(aws_endpoint_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TaskError, match=r"it can't be reached now \(EndpointConnectionError\)") as raised:
        await Secrets(away).resolve({"TOKEN": MISSING})
    assert raised.value.retryable


async def test_a_value_is_kept_for_a_while_and_a_changed_one_is_seen_then(
    directory: Path, grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Secrets(grid.settings)
    file = directory / "token"
    for value, seen in (("first", "first"), ("second", "first")):
        await asyncio.to_thread(file.write_text, value)
        assert await kept.resolve({"T": "file:token"}) == {"T": seen}
    monkeypatch.setattr(secrets, "_KEPT_SECONDS", 0.0)
    assert await kept.resolve({"T": "file:token"}) == {"T": "second"}
