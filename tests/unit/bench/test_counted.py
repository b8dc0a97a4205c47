"""Effects are counted by what the process itself sends."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.counted import aws_requests, count_effects, read_counts
from services.platform import effects


@pytest.fixture
def counts(tmp_path: Path) -> Iterator[Path]:
    count_effects(tmp_path)
    yield tmp_path
    effects.watch(None)


def test_each_effect_counts_once_at_once(counts: Path) -> None:
    for _ in range(3):
        with effects.passing("sqs", "SendMessageBatch"):
            pass
    with effects.passing("sql", "engine.transitions.claim"):
        assert read_counts(counts) == Counter({"sqs SendMessageBatch": 3, "sql engine.transitions.claim": 1})


def test_only_what_goes_to_aws_is_a_request(counts: Path) -> None:
    for kind, name in (("sql", "engine.transitions.claim"), ("s3", "PutObject"), ("process", "child")):
        with effects.passing(kind, name):  # type: ignore[arg-type]
            pass
    assert aws_requests(read_counts(counts)) == {"s3 PutObject": 1}
