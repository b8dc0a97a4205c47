"""Write the bytecode of what the stack's processes import: once, instead of by each of them at their first start."""

import importlib
import sys

_MODULES = [
    "deploy.local.fleet",
    "deploy.local.main",
    "deploy.local.provision",
    "hypercorn.asyncio",
    "ministack.services.autoscaling",
    "ministack.services.s3",
    "ministack.services.sqs",
    "piecework.cli",
    "services.api.main",
    "services.scheduler.__main__",
    "services.stats.main",
    "services.worker.__main__",
    "uvicorn.protocols.http.httptools_impl",
]

if __name__ == "__main__":
    sys.dont_write_bytecode = False  # whatever PYTHONDONTWRITEBYTECODE says of the user's own programs
    for module in _MODULES:
        importlib.import_module(module)
