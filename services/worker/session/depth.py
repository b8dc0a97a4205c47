"""How many tasks a session has on their way: enough that its child never waits, and no more than a slow one may hold
up."""

AHEAD_SECONDS = 0.05  # of work by the measured pace of the child
MOVED_AT_ONCE = 16  # inputs that are fetched, and outputs that are put
_AHEAD_MAX = 1000  # their tokens fit into a pipe, also into the small one that a user gets who has many


def tasks_ahead(task_seconds: float | None, waiting: int, slots: int) -> int:
    """The number of tasks that one of `slots` may have, with the one that runs, while `waiting` others wait.

    As long as nobody knows how long they take, one lies ready beside it. The share of what waits gets smaller with it
    (guided self-scheduling, Polychronopoulos and Kuck 1987), so that the slots end together.
    """
    by_pace = 1 if task_seconds is None else max(1, int(AHEAD_SECONDS / max(task_seconds, 1e-6)))
    return 1 + min(by_pace, waiting // (2 * slots), _AHEAD_MAX)


def slot_seconds(run_seconds: float, fetch_seconds: float, put_seconds: float) -> float:
    """How long a slot is busy with tasks, as their files move while the child runs others; each is a sum over them."""
    return max(run_seconds, fetch_seconds / MOVED_AT_ONCE, put_seconds / MOVED_AT_ONCE)
