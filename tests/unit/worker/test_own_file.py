"""What seals packages is known to all workers of a node, and to no other user."""

import stat
from pathlib import Path

import pytest

from services.platform.settings import WorkerSettings
from services.worker.node.node import _seal_key
from services.worker.task.scratch import ScratchUnusable


def test_workers_without_a_password_in_their_url_share_a_file(tmp_path: Path) -> None:
    settings = WorkerSettings(database_url="postgresql://u@h/d", database_password_from="file:/run/password")

    first = _seal_key(settings, tmp_path)

    assert _seal_key(settings, tmp_path) == first
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    assert _seal_key(settings, tmp_path) != first


def test_a_directory_that_takes_no_file_is_named(tmp_path: Path) -> None:
    settings = WorkerSettings(database_url="postgresql://u@h/d", database_password_from="file:/run/password")

    with pytest.raises(ScratchUnusable, match="PIECEWORK_CACHE"):
        _seal_key(settings, tmp_path / "none")
