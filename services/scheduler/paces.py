"""Paces: how long the tasks of processors took in their last jobs; the first of their next ones are believed to."""

PROCESSORS_MAX = 1_000

Version = tuple[str, int]  # of a processor: its name and number


class Paces:
    """Mean task seconds of processors' versions, of the jobs that this scheduler has last seen run."""

    def __init__(self) -> None:
        self._seconds: dict[Version, float] = {}

    def note(self, version: Version, seconds: float) -> None:
        self._seconds.pop(version, None)
        self._seconds[version] = seconds
        if len(self._seconds) > PROCESSORS_MAX:
            del self._seconds[next(iter(self._seconds))]

    def seconds_of(self, version: Version) -> float | None:
        """None if no job of it was seen."""
        return self._seconds.get(version)
