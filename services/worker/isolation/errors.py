"""What can go wrong in keeping tasks apart."""


class IsolationUnusable(Exception):
    """A level of isolation does not work here; the message says why."""
