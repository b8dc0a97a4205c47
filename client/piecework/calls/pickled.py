"""Calls as pickles, for functions that are in no module, such as a notebook's.

A pickle is a program, so a worker runs only those that the program signed to which the processor belongs: its key is in
the package, which nobody can read who may only submit jobs.
"""

import base64
import hashlib
import hmac
import pickle
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from piecework.calls.code import Code, Files, requirements_of
from piecework.errors import InputError
from piecework.packing import files_of

_RUNNER = '''"""Runs the pickled calls of one program, which has signed them."""

import base64
import hashlib
import hmac
import pickle
import sys

import cloudpickle

_KEY = bytes.fromhex("{key}")
_PYTHON = "{python}"


def call(item):
    body = base64.b64decode(item["pickle"])
    signature = hmac.new(_KEY, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, item["signature"]):
        raise PermissionError("this call was not signed by the program to which the processor belongs")
    python = "{{}}.{{}}".format(*sys.version_info)
    if python != _PYTHON:
        message = f"the call was pickled by Python {{_PYTHON}}, and workers run {{python}}: use the same, or a module"
        raise RuntimeError(message)
    function, arguments, named = pickle.loads(body)
    return {{"pickle": base64.b64encode(cloudpickle.dumps(function(*arguments, **named))).decode()}}
'''


class Pickles:
    """The pickled calls of one program. Raises InputError if cloudpickle is not installed."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        try:
            self._cloudpickle: Any = import_module("cloudpickle")
        except ImportError:
            raise InputError(
                "ship='pickle' needs cloudpickle: pip install cloudpickle, or put it in a module"
            ) from None

    def code(self, package: Path | str | None, requirements: Sequence[str] | str | None) -> Code:
        """What runs them: with cloudpickle, and the files of a directory if one is given."""
        runner = _RUNNER.format(key=self._key.hex(), python="{}.{}".format(*sys.version_info))
        files: dict[str, Path | bytes] = {} if package is None else dict(files_of(Path(package)))
        own: Files = files_of(Path(self._cloudpickle.__file__).parent)
        files |= {f"cloudpickle/{path}": file for path, file in own.items()}
        files["piecework_pickles.py"] = runner.encode()
        if requirements is not None:
            files["requirements.txt"] = requirements_of(requirements)
        return Code("piecework_pickles:call", files)

    def item(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
        """Raises InputError if it can't be pickled."""
        try:
            body = self._cloudpickle.dumps((function, tuple(args), dict(kwargs)))
        except Exception as error:
            raise InputError(f"{function!r} or what it is called with can't be pickled: {error}") from error
        signature = hmac.new(self._key, body, hashlib.sha256).hexdigest()
        return {"pickle": base64.b64encode(body).decode(), "signature": signature}


def unpickled(value: Any) -> Any:
    """The result that a worker has pickled."""
    return pickle.loads(base64.b64decode(value["pickle"]))
