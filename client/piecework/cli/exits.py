"""Exit codes of the command, for scripts."""

from piecework.errors import (
    Conflict,
    Forbidden,
    InputError,
    Invalid,
    NotFound,
    PieceworkError,
    TooLarge,
    Unauthorized,
)

OK = 0
JOB_FAILED = 1
BAD_INPUT = 2
NOT_FOUND = 3
NOT_ALLOWED = 4
NO_SERVICE = 5
CONFLICT = 6
CANCELLED = 7
TIMED_OUT = 124  # as timeout(1) has it
INTERRUPTED = 130

TABLE = {
    OK: "done; for watch and wait: the job succeeded",
    JOB_FAILED: "the watched job failed or was cancelled",
    BAD_INPUT: "bad option or job specification, or a local file that can't be used",
    NOT_FOUND: "there is no such job, task, processor, …",
    NOT_ALLOWED: "no API key, a wrong one, or one whose role is too low",
    NO_SERVICE: "the service can't be reached or failed, or a transfer broke",
    CONFLICT: "not possible in the present state, such as results of a running job",
    CANCELLED: "the job that wait was for was cancelled",
    TIMED_OUT: "the time of wait was over",
    INTERRUPTED: "interrupted with Ctrl-C; a watched job goes on",
}


def exit_code(error: PieceworkError) -> int:
    """The exit code for an error."""
    match error:
        case InputError() | Invalid() | TooLarge():
            return BAD_INPUT
        case NotFound():
            return NOT_FOUND
        case Unauthorized() | Forbidden():
            return NOT_ALLOWED
        case Conflict():
            return CONFLICT
        case _:
            return NO_SERVICE
