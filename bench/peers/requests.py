"""AWS requests counted at the client, whatever library sends them: all sign them with botocore, each try again."""

import os
from pathlib import Path
from typing import Any

import botocore.handlers


def count_requests() -> None:
    """From now on in this process and its children; call before the first AWS client is made."""
    path = Path(os.environ["BENCH_COUNTS"], f"{os.getpid()}.effects")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(event_name: str, **_: Any) -> None:
        service, operation = event_name.split(".")[1:]
        os.write(file, f"{service} {operation}\n".encode())

    botocore.handlers.BUILTIN_HANDLERS.append(("before-sign", write))
