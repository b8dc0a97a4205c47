"""What of a program goes to the grid with a function: the files that hold it, and the name by which they give it."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import piecework
from piecework import InputError
from piecework.calls.code import code_of


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of a program, from which modules are imported."""
    for name, source in {
        "single.py": "def f(item): ...\nclass C:\n    def g(self): ...\n",
        "shop/__init__.py": "",
        "shop/prices.py": "def f(item): ...\n",
        "shop/data.csv": "1",
        ".secret": "x",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("single", "shop", "shop.prices"):
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_a_module_goes_alone(program: Path) -> None:
    code = code_of(module("single").f, None, None)
    assert (code.reference, sorted(code.files)) == ("single:f", ["piecework.py", "single.py"])


def test_a_package_goes_as_a_whole(program: Path) -> None:
    code = code_of(module("shop.prices").f, None, None)
    assert code.reference == "shop.prices:f"
    assert sorted(code.files) == ["piecework.py", "shop/__init__.py", "shop/data.csv", "shop/prices.py"]


def test_a_directory_goes_without_what_is_hidden(program: Path) -> None:
    code = code_of(module("shop.prices").f, program, ["a==1 --hash=sha256:00"])
    assert code.reference == "shop.prices:f"
    assert {"single.py", "shop/prices.py", "requirements.txt"} < code.files.keys()
    assert ".secret" not in code.files
    assert code.files["requirements.txt"] == b"a==1 --hash=sha256:00\n"


def test_a_decorated_function_can_be_imported_where_there_is_no_client(program: Path, tmp_path: Path) -> None:
    (program / "single.py").write_text(
        "import piecework\nfrom piecework import Client\n"
        "@piecework.function(memory='1GB')\ndef f(item): return item + 1\n"
    )
    decorated = module("single").f
    assert isinstance(decorated, piecework.Function)
    code = code_of(decorated.local, None, None).spread()
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for name, file in code.files.items():
        (unpacked / name).write_bytes(file if isinstance(file, bytes) else file.read_bytes())
    there, name = code.reference.split(":")
    call = f"import {there}; print({there}.{name}({{'args': [1], 'kwargs': {{}}}}))"
    done = subprocess.run([sys.executable, "-P", "-c", call], env={"PYTHONPATH": str(unpacked)}, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"2\n"), done.stderr


def test_the_program_itself_is_known_by_its_file(program: Path) -> None:
    (program / "main.py").write_text(
        "from piecework.calls.code import code_of\ndef f(item): ...\n"
        "for package in (None, '.', '..'):\n    print(code_of(f, package, None).reference)\n"
    )
    inside = program / "inside"
    (program / "main.py").rename((inside.mkdir(), inside / "main.py")[1])
    done = subprocess.run([sys.executable, "main.py"], cwd=inside, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["main:f", "main:f", "inside.main:f"]


def test_what_is_installed_is_locked_but_for_the_client(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\necho "$@"\ncat\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}/usr/bin:/bin")
    lines = bytes(code_of(module("single").f, None, "environment").files["requirements.txt"]).decode().splitlines()
    assert lines[0].startswith("pip compile --quiet --generate-hashes")
    names = {line.partition("==")[0].lower() for line in lines[1:]}
    assert {"pytest", "joblib"} < names
    assert "piecework" not in names


@pytest.mark.parametrize(
    ("function", "package", "requirements", "message"),
    [
        (lambda item: item, None, None, "with `def` at the top of a module"),
        (len, None, None, "in no file"),
        ("single.f", "missing", None, "there is no such directory"),
        ("single.f", None, "pandas", "is not a list of pinned lines"),
    ],
)
def test_what_can_not_go(program: Path, function: object, package: str, requirements: str, message: str) -> None:
    called = module("single").f if isinstance(function, str) else function
    with pytest.raises(InputError, match=message):
        code_of(called, package, requirements)  # type: ignore[arg-type]


def test_a_lock_without_uv(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program))
    with pytest.raises(InputError, match="made by uv"):
        code_of(module("single").f, None, "environment")


def test_two_lists_of_requirements(program: Path) -> None:
    (program / "requirements.txt").write_text("")
    with pytest.raises(InputError, match=r"has a requirements\.txt"):
        code_of(module("single").f, program, [])
