"""Slots at each level of isolation, in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

# Level: (isolation, user that the worker runs as).
LEVELS = {"sandbox": ("sandbox", 0), "sandbox of a user": ("sandbox", 20_001), "uid": ("uid", 0)}
SECRET = "piecework-test-secret-9d2c"


class Slot:
    """Runs callables and commands. `pid` is its worker's, `directory` the worker's scratch directory."""

    def __init__(self, isolation: str, user: int) -> None:
        environment = {**os.environ, "WORKERS_SECRET": SECRET}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.worker.isolation.node", isolation, str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.started = self._read()
        self.pid, self.directory = self.started.get("pid", 0), self.started.get("directory", "")
        self._modules = 0

    def run(
        self,
        code: str = "",
        /,
        *,
        arguments: list[str] | None = None,
        session: list[Any] | None = None,
        files: bool = False,
        module: str | None = None,
        job: int = 1,
        readable: tuple[str, ...] = (),
        network: bool = True,
        seconds: float = 60.0,
        **params: Any,
    ) -> dict[str, Any]:
        """The answer to one task: `main(input, output, **params)` of the code, or the command.

        With items for a `session`, the answers of `main(item, **params)` to each of them; with `files`, each is the
        text of an input of `main(input, output, **params)`.
        """
        self.send(
            code,
            arguments=arguments,
            session=session,
            files=files,
            module=module,
            job=job,
            readable=readable,
            network=network,
            seconds=seconds,
            **params,
        )
        return self._read()

    def send(self, code: str, /, *, module: str | None, **asked: Any) -> None:
        self._modules += 1
        own = {name: asked.pop(name) for name in ("arguments", "job", "readable", "network", "seconds")}
        own["session"], own["files"] = asked.pop("session", None), asked.pop("files", False)
        line = {"code": code, "module": module or f"code_{self._modules}", "params": asked, **own}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has died"
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture(scope="session", params=LEVELS)
def slot(request: pytest.FixtureRequest) -> Iterator[Slot]:
    """A slot at each level that keeps tasks from their worker."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("changes users, which takes root on Linux")
    slot = Slot(*LEVELS[request.param])
    if "error" in slot.started:
        pytest.skip(f"{request.param} does not work here: {slot.started['error']}")
    yield slot
    slot.close()


@pytest.fixture
def sandboxed(slot: Slot) -> Slot:
    """A slot whose tasks are in a sandbox."""
    if slot.started["level"] != "sandbox":
        pytest.skip("promised by a sandbox alone")
    return slot
