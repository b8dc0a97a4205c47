"""Trees of files that all tasks read and none may change: made read-only, and checked before they are used.

Where tasks have a user or a mount of their own, they can't write to them. Where they run as the worker's user they can,
and a change is noticed: by the files' inodes, sizes and times of change, which no user but root can set back. A worker
remembers these facts. For one that starts later, the tree's content has a seal, made with a key that tasks don't know.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Facts = tuple[int, ...]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotSealable(Exception):
    """A tree holds something else than files, directories and symbolic links."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A tree as it was found: the facts about each of its names, and the seal of its content."""

    facts: dict[str, Facts]
    seal: str

    def find_change(self) -> str | None:
        """A name about which the facts have changed, or None. Files added or removed change their directory."""
        for path, facts in self.facts.items():
            try:
                if _facts(os.lstat(path)) != facts:
                    return path
            except OSError:
                return path
        return None


def facts_of(file: Path) -> Facts:
    """Facts that change whenever anybody changes the file."""
    return _facts(file.lstat())


def make_read_only(*trees: Path) -> None:
    """Let everybody read the trees and nobody write to them; programs stay programs. Follows no link."""
    for tree in trees:
        for path, found in _walk(str(tree)):
            if stat.S_ISDIR(found.st_mode):
                _change_mode(path, 0o555)
            elif stat.S_ISREG(found.st_mode):
                _change_mode(path, 0o555 if found.st_mode & 0o111 else 0o444)


def read_sealed(key: bytes, *trees: Path) -> Sealed:
    """Read all content of the trees. Raises OSError, and NotSealable."""
    facts: dict[str, Facts] = {}
    seal = hmac.new(key, digestmod=hashlib.sha256)
    for tree in trees:
        for path, found in _walk(str(tree)):
            facts[path] = _facts(found)  # before it is read: what changes meanwhile is noticed later
            name = os.fsencode(os.path.relpath(path, tree.parent))
            seal.update(b"%d %o %b " % (len(name), found.st_mode, name) + _content(path, found))
    return Sealed(facts, seal.hexdigest())


def _facts(found: os.stat_result) -> Facts:
    return (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _content(path: str, found: os.stat_result) -> bytes:
    """The hash of a file's bytes, or where a link points to."""
    if stat.S_ISDIR(found.st_mode):
        return b""
    if stat.S_ISLNK(found.st_mode):
        return hashlib.sha256(os.fsencode(Path(path).readlink())).digest()
    if not stat.S_ISREG(found.st_mode):
        raise NotSealable(f"{path} is neither a file nor a directory")
    with os.fdopen(os.open(path, _OPEN), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _change_mode(path: str, mode: int) -> None:
    descriptor = os.open(path, _OPEN)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _walk(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in the tree and itself, in an order that only its names decide."""
    waiting = [tree] if os.path.lexists(tree) else []
    while waiting:
        path = waiting.pop()
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(path) as entries:
                waiting += sorted(entry.path for entry in entries)
        yield path, found
