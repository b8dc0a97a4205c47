"""Secrets do not leave the worker: `***` stands for them in a task's log, its error and its value.

A secret is found as it is, line by line if it has several, and as JSON, Python's repr and URLs write it. Other
encodings, such as base64, are not found, and neither is one that the task has cut up.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, AnyStr
from urllib.parse import quote

import orjson

MASK = "***"
SECRET_CHARACTERS_MIN = 4  # a shorter one would be found everywhere, and guessed from what is left
_LINE_CHARACTERS_MIN = 8  # of a secret of several lines
_CUT = re.compile(r"(\s*…\s*)")  # what long messages have in the place of what they leave out


class Mask:
    """Knows the secrets of one task."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SECRET_CHARACTERS_MIN}
        self._forms = sorted(forms, key=len, reverse=True)  # the longest first: it may hold another
        self._bytes = [form.encode() for form in self._forms]

    def text(self, text: str) -> str:
        """A message; where it leaves something out, a secret may be cut in two."""
        for form in self._forms:
            text = text.replace(form, MASK)
        parts = _CUT.split(text) if self._forms else [text]  # and, between them, the cuts
        for number in range(2, len(parts), 2):
            parts[number - 2] = _without_end(parts[number - 2], self._forms, MASK)
            parts[number] = _without_start(parts[number], self._forms, MASK)
        return "".join(parts)

    def log(self, head: bytes, tail: bytes = b"") -> tuple[bytes, bytes]:
        """The beginning and the end of a log whose middle is left out; a secret may be cut in two there."""
        for form in self._bytes:
            head, tail = head.replace(form, MASK.encode()), tail.replace(form, MASK.encode())
        if tail:
            head, tail = (
                _without_end(head, self._bytes, MASK.encode()),
                _without_start(tail, self._bytes, MASK.encode()),
            )
        return head, tail

    def value(self, value: Any) -> Any:
        """A JSON value, its strings and its names masked."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(each) for name, each in value.items()}
        return value


def _without_end(text: AnyStr, forms: Sequence[AnyStr], mask: AnyStr) -> AnyStr:
    """The text without the beginning of a secret at its end."""
    for form in forms:
        for length in range(len(form) - 1, SECRET_CHARACTERS_MIN - 1, -1):
            if text.endswith(form[:length]):
                return text[:-length] + mask
    return text


def _without_start(text: AnyStr, forms: Sequence[AnyStr], mask: AnyStr) -> AnyStr:
    """The text without the end of a secret at its beginning."""
    for form in forms:
        for length in range(len(form) - 1, SECRET_CHARACTERS_MIN - 1, -1):
            if text.startswith(form[-length:]):
                return mask + text[length:]
    return text


def _forms(secret: str) -> Iterable[str]:
    lines = [line for line in secret.splitlines() if len(line) >= _LINE_CHARACTERS_MIN]
    for text in {secret, *lines}:
        yield from (text, orjson.dumps(text).decode()[1:-1], repr(text)[1:-1], ascii(text)[1:-1], quote(text, safe=""))


NOTHING = Mask()
