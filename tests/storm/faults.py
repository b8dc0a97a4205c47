"""Which faults there are, and a seeded schedule of them: the same seed gives the same storm."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# How often each kind comes in a deck. Decks are shuffled and dealt one after the other, so that no kind is left out.
DECK = Counter(
    {
        "worker killed": 4,
        "worker frozen": 1,
        "worker told to stop": 1,
        "worker drained": 1,
        "worker's disk lost": 1,
        "scheduler killed": 2,
        "scheduler frozen": 1,
        "database killed": 1,
        "database away for longer than a lease": 1,
        "session frozen": 1,
        "all connections cut": 1,
        "some connections cut": 2,
        "replies cut off": 2,
        "connections stalled": 1,
        "connections silent for good": 1,
        "month begun beside a reader": 1,
        "S3 throttled": 2,
        "S3 failed": 2,
        "S3 reply lost": 2,
        "S3 timed out": 1,
        "S3 read torn": 2,
        "SQS throttled": 2,
        "SQS failed": 2,
        "SQS reply lost": 2,
        "SQS timed out": 1,
        "messages dropped": 2,
        "messages sent twice": 2,
        "queue purged": 1,
        "webhook refused": 1,
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, due `at` seconds after the storm's beginning. `draw` chooses the victim, `force` how bad it is."""

    number: int
    at: float
    kind: str
    draw: float
    force: float


def deal(seed: int, gap_seconds: float) -> Iterator[Fault]:
    """Faults without end, at random moments (a Poisson process) with the given mean gap."""
    dice = random.Random(seed)
    number, at = 0, 0.0
    while True:
        deck = [*DECK.elements()]
        dice.shuffle(deck)
        for kind in deck:
            at += dice.expovariate(1 / gap_seconds)
            number += 1
            yield Fault(number, at, kind, dice.random(), dice.random())
