"""The gate of side effects tells its watcher of every passage, and nothing when nobody watches."""

import asyncio
from collections.abc import Iterator

import pytest

from services.platform import effects
from services.platform.effects import Effect, Moment

Seen = list[tuple[Moment, Effect]]
CHILD = Effect("process", "child")


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen: Seen = []
    effects.watch(lambda moment, effect: seen.append((moment, effect)))
    yield seen
    effects.watch(None)


def test_an_effect_is_told_before_and_after_it_happens(seen: Seen) -> None:
    with effects.passing("process", "child"):
        assert seen == [("before", CHILD)]
    assert seen == [("before", CHILD), ("after", CHILD)]


def test_an_effect_that_fails_has_ended_too(seen: Seen) -> None:
    with pytest.raises(OSError), effects.passing("process", "child"):
        raise OSError
    assert seen == [("before", CHILD), ("after", CHILD)]


def test_an_effect_that_is_broken_off_has_no_end(seen: Seen) -> None:
    with pytest.raises(asyncio.CancelledError), effects.passing("process", "child"):
        raise asyncio.CancelledError
    assert seen == [("before", CHILD)]


def test_what_a_watcher_raises_before_an_effect_keeps_it_from_happening() -> None:
    def refuse(moment: Moment, effect: Effect) -> None:
        raise PermissionError(effect.name)

    effects.watch(refuse)
    try:
        with pytest.raises(PermissionError), effects.passing("process", "child"):
            pytest.fail("it happened")
    finally:
        effects.watch(None)


def test_nobody_is_told_once_nobody_watches(seen: Seen) -> None:
    effects.watch(None)
    with effects.passing("process", "child"):
        effects.tell("before", "s3", "PutObject")
    assert not effects.watched()
    assert seen == []
