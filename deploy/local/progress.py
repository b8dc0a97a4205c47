"""Progress lines for whoever watches."""

import os


def say(line: str) -> None:
    """Print a line at once; go on without if nobody reads any more or the log's disk is full."""
    try:
        print(line, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
