"""AWS requests in dollars."""

import pytest

from bench.prices import dollars


@pytest.mark.parametrize(
    ("name", "of_a_million"),
    [
        ("sqs ReceiveMessage", 0.40),
        ("sqs SendMessageBatch", 0.40),
        ("s3 PutObject", 5.0),
        ("s3 UploadPart", 5.0),
        ("s3 UploadPartCopy", 5.0),
        ("s3 ListObjectsV2", 5.0),
        ("s3 GetObject", 0.40),
        ("s3 HeadObject", 0.40),
        ("s3 DeleteObjects", 0.0),
        ("s3 AbortMultipartUpload", 0.0),
        ("autoscaling DescribeAutoScalingGroups", 0.0),
    ],
)
def test_list_price_of_a_million_requests(name: str, of_a_million: float) -> None:
    assert dollars({name: 1_000_000}) == pytest.approx(of_a_million)


def test_requests_add_up() -> None:
    assert dollars({"sqs ReceiveMessage": 10, "s3 PutObject": 10}) == pytest.approx(0.000054)
