"""A slot's share of its node."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """Cores and bytes of memory."""

    threads: int
    memory_bytes: int
