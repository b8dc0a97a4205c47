"""Piecework's Python client.

from piecework import Client, wait_for_job

with Client() as client:
    job = client.submit_job({"input": {"type": "range", "count": 10}, "stages": [{"processor": "noop"}]})
    job = wait_for_job(client, job)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piecework.calls.aio import AsyncExecutor
    from piecework.calls.decorated import Function, function
    from piecework.calls.errors import CallFailed, RemoteTraceback
    from piecework.calls.executor import Executor
    from piecework.calls.job import MapJob, attach
    from piecework.client import Client, Listing
    from piecework.errors import (
        ApiError,
        Conflict,
        Forbidden,
        InputError,
        Invalid,
        NotFound,
        PieceworkError,
        ServerError,
        TooLarge,
        TransferError,
        TransportError,
        Unauthorized,
    )
    from piecework.watch import wait_for_job

_HOMES = {
    **{"Client": "client", "Listing": "client", "wait_for_job": "watch"},
    **{"Executor": "calls.executor", "AsyncExecutor": "calls.aio", "MapJob": "calls.job", "attach": "calls.job"},
    **{"Function": "calls.decorated", "function": "calls.decorated"},
    **{"CallFailed": "calls.errors", "RemoteTraceback": "calls.errors"},
}

__all__ = [
    "ApiError",
    "AsyncExecutor",
    "CallFailed",
    "Client",
    "Conflict",
    "Executor",
    "Forbidden",
    "Function",
    "InputError",
    "Invalid",
    "Listing",
    "MapJob",
    "NotFound",
    "PieceworkError",
    "RemoteTraceback",
    "ServerError",
    "TooLarge",
    "TransferError",
    "TransportError",
    "Unauthorized",
    "attach",
    "function",
    "wait_for_job",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line answers --help without waiting for the HTTP library.
    if name == "__version__":
        from importlib.metadata import version

        return version("piecework")
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"piecework.{_HOMES.get(name, 'errors')}"), name)
    raise AttributeError(f"module 'piecework' has no attribute {name!r}")
