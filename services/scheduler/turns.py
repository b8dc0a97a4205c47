"""Turns: of those who are equal, whoever has waited longest goes first."""

from collections.abc import Hashable, Set


class Turns:
    """When each party last had its turn, counted in turns. A party never seen before goes first."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[Hashable, int] = {}

    def last(self, party: Hashable) -> int:
        """The number of the party's last turn; 0 if it had none."""
        return self._last.get(party, 0)

    def take(self, *parties: Hashable) -> None:
        """These have the next turn."""
        self._turn += 1
        for party in parties:
            self._last[party] = self._turn

    def keep(self, parties: Set[Hashable]) -> None:
        """Forget all others."""
        self._last = {party: turn for party, turn in self._last.items() if party in parties}
