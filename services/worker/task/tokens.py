"""Which of the tasks that were sent to a child have begun: each has a token in a pipe that both sides read.

The child reads a task's token before it begins, the worker reads tokens to take tasks back. So after any death it is
exact: what has neither a token left nor an answer is the one task that ran. All writes are of whole tokens and of at
most PIPE_BUF bytes, so a read of four bytes gets a whole one (https://man7.org/linux/man-pages/man7/pipe.7.html).
"""

import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.worker.child.frames import TOKEN

_AT_ONCE = select.PIPE_BUF // TOKEN.size
_TOKENS_MAX = 65_536 // TOKEN.size  # as a pipe holds


class Tokens:
    """The pipe of one child; `theirs` is the descriptor that the child inherits.

    User code shares the child's end. So the worker reads by one of its own, which nobody else can make wait, and no
    more than it has written.
    """

    def __init__(self) -> None:
        self.theirs, self._write = os.pipe()
        own = f"/proc/self/fd/{self.theirs}"
        can_open = sys.platform == "linux"
        self._read = os.open(own, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if can_open else os.dup(self.theirs)
        os.set_blocking(self._write, False)
        self._written = 0
        self._left: set[int] = set()

    @contextmanager
    def inheriting(self) -> Iterator[int]:
        """The child's end, for one that is started within the context."""
        try:
            yield self.theirs
        except BaseException:
            self.close()
            raise
        finally:
            os.close(self.theirs)

    def put(self, tokens: Sequence[int]) -> None:
        """Let the child begin these tasks, one after another. Raises BlockingIOError if there are far too many."""
        for first in range(0, len(tokens), _AT_ONCE):
            os.write(self._write, b"".join(map(TOKEN.pack, tokens[first : first + _AT_ONCE])))
        self._written += len(tokens)

    def take_back(self) -> set[int]:
        """Those of the tasks that have not begun, and now never will."""
        taken, self._left = self._left, set()
        if self._write >= 0:
            for _ in range(min(self._written, _TOKENS_MAX)):
                try:
                    token = os.read(self._read, TOKEN.size)
                except BlockingIOError:
                    break
                if len(token) < TOKEN.size:
                    break
                taken.add(TOKEN.unpack(token)[0])
            self._written = 0
        return taken

    def close(self) -> None:
        """Safe to repeat; `take_back` still tells what had not begun."""
        if self._write >= 0:
            self._left = self.take_back()
            os.close(self._write)
            os.close(self._read)
            self._write = -1
