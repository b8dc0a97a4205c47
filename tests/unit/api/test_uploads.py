"""How an upload is cut into parts, within S3's limits."""

from hypothesis import example, given
from hypothesis import strategies as st

from services.api.shapes.uploads import BYTES_MAX, PART_BYTES, PARTS_MAX, part_sizes


@given(st.integers(0, BYTES_MAX))
@example(0)
@example(PART_BYTES)
@example(PART_BYTES + 1)
@example(PART_BYTES * PARTS_MAX)
@example(PART_BYTES * PARTS_MAX + 1)
@example(BYTES_MAX)
def test_parts_are_equal_but_for_the_last_and_within_s3s_limits(size: int) -> None:
    parts = part_sizes(size)

    assert sum(parts) == size
    assert 1 <= len(parts) <= PARTS_MAX
    assert set(parts[:-1]) <= {parts[0]} and parts[-1] <= parts[0] <= 5 * 2**30
    assert len(parts) == 1 or (min(parts[:-1]) >= PART_BYTES and parts[-1] > 0)
