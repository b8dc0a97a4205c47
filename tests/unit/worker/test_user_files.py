"""What user code has left is opened only if it is a file of its own, whatever else a path may have become."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.contract.task_error import TaskError
from services.worker.task.user_files import UserFiles


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    (directory / "output").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"another's")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "file").write_bytes(b"another's")
    return directory


@pytest.fixture
def files(workspace: Path) -> Iterator[UserFiles]:
    opened = UserFiles(workspace)
    yield opened
    opened.close()


def read(files: UserFiles, path: Path) -> bytes | None:
    file = files.open(path)
    if file is None:
        return None
    with file:
        return file.read()


def refusal(files: UserFiles, path: Path) -> str:
    with pytest.raises(TaskError) as refused:
        files.open(path)
    assert (refused.value.type, refused.value.retryable) == ("output_invalid", False)
    return refused.value.message


def test_a_regular_file_is_opened(files: UserFiles, workspace: Path) -> None:
    (workspace / "output" / "out").write_bytes(b"mine")
    assert read(files, workspace / "output" / "out") == b"mine"
    assert read(files, workspace / "output" / "none") is None
    assert read(files, workspace / "none" / "out") is None


def test_a_symbolic_link_is_not_followed(files: UserFiles, workspace: Path) -> None:
    (workspace / "output" / "out").symlink_to("/proc/self/environ")
    (workspace / "output" / "gone").symlink_to("nothing")
    (workspace / "output" / "in").symlink_to(workspace.parent / "others")
    assert refusal(files, workspace / "output" / "out") == (
        "the output 'out' is not a regular file: it is a symbolic link"
    )
    assert "symbolic link" in refusal(files, workspace / "output" / "gone")
    assert refusal(files, workspace / "output" / "in" / "file") == (
        "the output 'in' is not a directory: it is a symbolic link"
    )


def test_a_directory_that_became_a_link_is_not_entered(files: UserFiles, workspace: Path) -> None:
    (workspace / "output").rmdir()
    (workspace / "output").symlink_to(workspace.parent / "others")
    assert "'output' is not a directory: it is a symbolic link" in refusal(files, workspace / "output" / "file")
    with pytest.raises(TaskError, match="'output' is not a directory: it is a symbolic link"):
        list(files.find(workspace / "output"))


def test_nothing_that_could_block_or_act_is_opened(files: UserFiles, workspace: Path) -> None:
    os.mkfifo(workspace / "output" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(workspace / "output")  # the path of a socket is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        assert "it is a named pipe" in refusal(files, workspace / "output" / "pipe")
        assert "it is a socket" in refusal(files, workspace / "output" / "socket")
    assert "it is a directory" in refusal(files, workspace / "output")
    with pytest.raises(TaskError, match="named pipe"):
        files.open(workspace / "output" / "pipe", write=True)


def test_a_file_that_has_another_name_elsewhere_is_refused(files: UserFiles, workspace: Path) -> None:
    (workspace / "output" / "out").hardlink_to(workspace.parent / "secret")
    assert refusal(files, workspace / "output" / "out") == (
        "the output 'out' is a file with 2 names (hard links): write a copy"
    )


def test_a_file_in_place_of_a_directory_is_told(files: UserFiles, workspace: Path) -> None:
    (workspace / "output" / "part").touch()
    assert refusal(files, workspace / "output" / "part" / "x") == (
        "the output 'part' is not a directory: it is a regular file"
    )


def test_the_directory_may_be_renamed_and_its_place_taken(files: UserFiles, workspace: Path) -> None:
    (workspace / "output" / "out").write_bytes(b"mine")
    workspace.rename(workspace.parent / "moved")
    workspace.symlink_to(workspace.parent / "others")
    assert read(files, workspace / "output" / "out") == b"mine"


def test_a_path_that_leads_out_is_an_error(files: UserFiles, workspace: Path) -> None:
    for path in (workspace / ".." / "secret", workspace.parent / "secret"):
        with pytest.raises(ValueError):
            files.open(path)


def test_everything_is_found_and_links_are_not_entered(files: UserFiles, workspace: Path) -> None:
    (workspace / "output" / "a" / "b").mkdir(parents=True)
    (workspace / "output" / "a" / "b" / "c").touch()
    (workspace / "output" / "link").symlink_to(workspace.parent / "others")
    found = sorted(files.find(workspace / "output"))
    assert found == [workspace / "output" / "a" / "b" / "c", workspace / "output" / "link"]
    assert list(files.find(workspace / "none")) == []


def test_an_endless_depth_ends(files: UserFiles, workspace: Path) -> None:
    deep = os.open(workspace / "output", os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    assert list(files.find(workspace / "output")) == []
