"""The wanted objects of a listing or manifest as tasks, one or several per task."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Any

from services.contract.location import Location
from services.contract.task_input import Json, ObjectGroup, WholeObject
from services.inputs.listing import Entry
from services.inputs.markers import is_marker, naming_markers
from services.inputs.spec import OBJECTS_PER_TASK_MAX, ManifestInput, ObjectsInput


class Groups:
    """Makes tasks of entries, in order. All wanted entries up to the key `settled` are in a task.

    To compile globs, and to match them with many keys, takes time: make it, and add to it, in a thread.

    Globs match an entry's key without its first `skip` characters. Markers are left out, unless they are asked for;
    `left_out` counts those up to `settled`.
    """

    def __init__(self, source: ObjectsInput | ManifestInput, skip: int = 0, settled: str = "") -> None:
        self.inputs: list[Json] = []
        self.settled = settled
        self.open: list[Entry] = []  # entries of the task that is not full yet
        self._open_bytes = 0
        self._objects = source.objects_per_task or (OBJECTS_PER_TASK_MAX if source.part_bytes else None)
        self._bytes = source.part_bytes
        self._skip = skip
        self._include, self._exclude = _any_of(source.include), _any_of(source.exclude)
        self._include_markers = _any_of("*" if source.markers else naming_markers(source.include))
        self.left_out = 0
        self._markers = 0

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            name = entry.key[self._skip :]
            if self._wants(entry, name):
                if is_marker(name) and self._include_markers(name) is None:
                    self._markers += 1
                else:
                    self._add(entry)
            if not self.open:
                self.settled, self.left_out = entry.key, self._markers

    def _wants(self, entry: Entry, name: str) -> bool:
        is_folder = entry.key.endswith("/") and not entry.size
        return not is_folder and self._include(name) is not None and self._exclude(name) is None

    def _add(self, entry: Entry) -> None:
        if self._objects is None:
            self.inputs.append(_object(entry).to_json())
            return
        self.open.append(entry)
        self._open_bytes += entry.size or 0
        if len(self.open) == self._objects or (self._bytes is not None and self._open_bytes >= self._bytes):
            self.close()

    def close(self) -> None:
        """Make the task of the open entries, even if it is not full."""
        if self.open:
            self.inputs.append(ObjectGroup(tuple(map(_object, self.open))).to_json())
            self.open, self._open_bytes = [], 0
        self.left_out = self._markers


def _any_of(globs: str | list[str]) -> Callable[[str], Any]:
    return _compile((globs,) if isinstance(globs, str) else tuple(globs)).match


@lru_cache
def _compile(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Once for all chunks of an input."""
    return re.compile("|".join(map(translate, globs)) if globs else "(?!)")


def _object(entry: Entry) -> WholeObject:
    return WholeObject(Location(entry.bucket, entry.key), entry.etag, entry.size, version=entry.version)


def describe_globs(source: ObjectsInput | ManifestInput, left_out: int) -> str:
    """What an object that is wanted matches; `left_out` markers did."""
    globs = f"{source.include!r}" + (f" without {source.exclude!r}" if source.exclude else "")
    return f"{globs} ({describe_markers(left_out)})" if left_out else globs


def describe_markers(left_out: int) -> str:
    """What is said of the markers that were left out: at least one."""
    what = "1 marker object was" if left_out == 1 else f"{left_out:,} marker objects were"
    return f"{what} left out, such as _SUCCESS, .crc and .DS_Store; `markers: true` takes them"
