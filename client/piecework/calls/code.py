"""The code of a function, as the package that workers run it from: files of this machine, by their paths in it."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from piecework.errors import InputError
from piecework.packing import files_of

Files = Mapping[str, Path | bytes]

# A module that imports the client can be imported where there is none: on a worker, only `function` means something.
_STAND_IN = b'''"""Stands in for Piecework's client, which a worker has not."""


def function(wrapped=None, /, **options):
    return wrapped if wrapped is not None else lambda wrapped: wrapped


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*arguments, **named):
        raise RuntimeError(f"piecework.{name} was called within a task: only the program that calls the grid has it")

    return missing
'''

_SPREAD = """\"\"\"Calls {module}.{name} with the arguments of an item.\"\"\"

import {module}


def {name}(item, **params):
    return {module}.{name}(*item["args"], **{{**params, **item["kwargs"]}})
"""
_SPREAD_MODULE = "piecework_spread"


@dataclass(frozen=True, slots=True)
class Code:
    """A function by `module:name`, and the files that hold it."""

    reference: str
    files: Files

    @property
    def module(self) -> str:
        return self.reference.partition(":")[0]

    @property
    def name(self) -> str:
        return self.reference.partition(":")[2]

    def spread(self) -> "Code":
        """A function of one item, {"args", "kwargs"}, which calls this one with them."""
        source = _SPREAD.format(module=self.module, name=self.name).encode()
        return Code(f"{_SPREAD_MODULE}:{self.name}", {**self.files, f"{_SPREAD_MODULE}.py": source})


def code_of(function: Callable[..., Any], package: Path | str | None, requirements: Iterable[str] | str | None) -> Code:
    """The function's own module, or the package that this is in; or all files of the directory `package`.

    `requirements` are pinned lines, with their hashes; or "environment", for what is installed here. Raises InputError.
    """
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", None)
    if not name.isidentifier() or not isinstance(module, str):
        raise InputError(
            f"{function!r} can't be found by its name on a worker: define it with `def` at the top of a module, "
            "or give ship='pickle'"
        )
    if package is None:
        module, files = _files_of_module(module)
    else:
        directory = Path(package)
        module, files = _name_in(module, directory), dict(files_of(directory))
    files.setdefault("piecework.py", _STAND_IN)
    if requirements is not None:
        if "requirements.txt" in files:
            raise InputError(f"{package} has a requirements.txt: leave out `requirements`, or that file")
        files["requirements.txt"] = requirements_of(requirements)
    return Code(f"{module}:{name}", files)


def _files_of_module(name: str) -> tuple[str, dict[str, Path | bytes]]:
    """The module's name where its files are, and these: its top-level package, or the module alone."""
    name = _real_name(name)
    top = sys.modules.get(name.partition(".")[0])
    if top is not None and hasattr(top, "__path__"):
        [directory, *_] = top.__path__
        return name, {f"{top.__name__}/{path}": file for path, file in files_of(Path(directory)).items()}
    file = _file_of(sys.modules["__main__"] if top is None else top)
    return name, {file.name: file}


def _real_name(name: str) -> str:
    """`__main__` is known by the name that it has when it is imported."""
    if name != "__main__":
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec is not None else _file_of(main).stem


def _file_of(module: Any) -> Path:
    file = getattr(module, "__file__", None)
    if file is None or not str(file).endswith(".py"):
        raise InputError(
            f"the code of {module.__name__} is in no file, as in a notebook or a shell: put the function into a "
            "module, or give ship='pickle'"
        )
    return Path(file)


def _name_in(name: str, directory: Path) -> str:
    """The module's name from the directory on, which comes first on the module path of workers."""
    main = sys.modules["__main__"]
    if name != "__main__" or getattr(main, "__spec__", None) is not None:
        return _real_name(name)
    file = _file_of(main).resolve()
    if not file.is_relative_to(directory.resolve()):
        raise InputError(f"package: {directory} does not hold {file}, where the function is")
    return ".".join(file.relative_to(directory.resolve()).with_suffix("").parts)


def requirements_of(wanted: Iterable[str] | str) -> bytes:
    if wanted == "environment":
        return lock_of_environment()
    if isinstance(wanted, str):
        raise InputError(f'requirements: {wanted!r} is not a list of pinned lines, nor "environment"')
    return "\n".join([*wanted, ""]).encode()


def lock_of_environment() -> bytes:
    """What is installed in this environment, but for the client and what it alone needs, pinned with hashes by uv.

    Raises InputError.
    """
    own = _needed_by("piecework") - _needed_by_others()
    found = {one.metadata["Name"]: one.version for one in metadata.distributions()}
    pins = sorted(f"{name}=={version}" for name, version in found.items() if _plain(name) not in own)
    command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate", "-"]
    try:
        done = subprocess.run(command, input="\n".join(pins), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError("requirements: a lock of this environment is made by uv, which is not installed") from None
    if done.returncode:
        raise InputError(f"requirements: this environment can't be locked: {done.stderr.strip()[-1000:]}")
    return done.stdout.encode()


def _plain(name: str) -> str:
    """As the index knows it (packaging.python.org/en/latest/specifications/name-normalization)."""
    return name.lower().replace("_", "-").replace(".", "-")


def _needs(distribution: metadata.Distribution) -> set[str]:
    lines = [line for line in distribution.requires or [] if "extra ==" not in line]
    return {_plain("".join(c if c.isalnum() or c in "-_." else " " for c in line).split()[0]) for line in lines}


def _needed_by(name: str) -> set[str]:
    """The distribution and all that it needs."""
    known = {_plain(one.metadata["Name"]): one for one in metadata.distributions()}
    found: set[str] = set()
    waiting = {name}
    while waiting:
        found |= waiting
        waiting = {need for one in waiting if one in known for need in _needs(known[one])} - found
    return found


def _needed_by_others() -> set[str]:
    """What any distribution needs that the client does not bring."""
    own = _needed_by("piecework")
    return {need for one in metadata.distributions() if _plain(one.metadata["Name"]) not in own for need in _needs(one)}
