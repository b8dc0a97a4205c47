"""Rates and the time left."""

from datetime import UTC, datetime, timedelta

import pytest

from services.stats.pace import rate, seconds_lately, seconds_left, succeeded_lately

NOW = datetime(2026, 3, 1, 12, 5, 30, tzinfo=UTC)
RECENT_FROM = datetime(2026, 3, 1, 12, 3, tzinfo=UTC)


def test_what_is_not_rolled_up_yet_counts_as_recent() -> None:
    assert succeeded_lately(succeeded=1000, rolled_up=900, rolled_up_lately=50) == 150


def test_a_young_stage_is_judged_by_its_whole_life() -> None:
    started = NOW - timedelta(seconds=10)
    assert rate(succeeded_lately(40, 25, 25), seconds_lately(started, RECENT_FROM, NOW)) == 4.0


def test_an_old_stage_is_judged_by_its_last_minutes() -> None:
    started = NOW - timedelta(hours=5)
    assert rate(succeeded_lately(100_000, 99_990, 140), seconds_lately(started, RECENT_FROM, NOW)) == 1.0


def test_what_has_not_started_has_no_rate() -> None:
    assert rate(0, seconds_lately(None, RECENT_FROM, NOW)) == 0.0


def test_one_stage_takes_its_remaining_tasks_at_its_rate() -> None:
    assert seconds_left([300], [20], [None], 10.0) == pytest.approx(150)
    assert seconds_left([300], [20], [0.5], 10.0) == pytest.approx(150)


def test_slow_tasks_of_a_later_stage_weigh_more() -> None:
    # 10 s gave 100 tasks of 0.1 s each: 1 slot. Then 20 tasks of 1 s take 20 s more than 100 tasks of 0.1 s.
    assert seconds_left([100, 20], [100, 0], [0.1, 1.0], 10.0) == pytest.approx(30)


def test_a_stage_nothing_is_known_of_weighs_like_the_others() -> None:
    assert seconds_left([100, 100], [100, 0], [0.1, None], 10.0) == pytest.approx(20)
    assert seconds_left([100, 100], [100, 0], [None, None], 10.0) == pytest.approx(20)


def test_nothing_remaining_takes_no_time_and_no_progress_takes_nobody_knows_how_long() -> None:
    assert seconds_left([0, 0], [0, 0], [None, None], 0.0) == 0.0
    assert seconds_left([5], [0], [0.1], 10.0) is None
    assert seconds_left([5], [0], [None], 0.0) is None
