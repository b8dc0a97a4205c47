"""What is in the way of a start is said in one line that names it and the fix."""

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from deploy.local.checks import check_disk, check_port
from deploy.local.settings import StackSettings
from deploy.local.supervisor import StackError
from tests.conftest import free_port


def test_a_port_in_use_is_named_with_its_holder_and_the_fix() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(StackError) as refused:
            check_port(port, "PIECEWORK_API_PORT")
    message = str(refused.value)
    assert message.startswith(f"port {port} is in use by ")
    assert f"(process {os.getpid()})" in message
    assert "PIECEWORK_API_PORT=" in message
    assert "\n" not in message


def test_a_free_port_is_fine() -> None:
    check_port(free_port(), "PIECEWORK_API_PORT")


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 2**20, 2**20))
    with pytest.raises(StackError, match=f"the disk is full: 1 MB are free under {tmp_path}"):
        check_disk(StackSettings(state_directory=tmp_path))
