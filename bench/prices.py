"""AWS requests in dollars, at the list prices of us-east-1, without the free tier.

SQS, standard queues: $0.40 a million requests (https://aws.amazon.com/sqs/pricing/); a batch of ten is one request.
S3 Standard: $0.005 a thousand PUT, COPY, POST and LIST requests, $0.0004 a thousand GET and all others
(https://aws.amazon.com/s3/pricing/); DELETE and the aborting of a multipart upload cost nothing.
The Auto Scaling API costs nothing (https://aws.amazon.com/autoscaling/pricing/).
"""

from collections.abc import Mapping

_SQS = 0.40 / 1_000_000
_S3_WRITE = 0.005 / 1_000
_S3_READ = 0.0004 / 1_000

_S3_WRITES = ("Put", "Copy", "Post", "List", "Create", "Upload", "Complete")
_S3_FREE = ("Delete", "Abort")


def dollars(requests: Mapping[str, int]) -> float:
    """The price of requests, by name as bench.counted writes them ("sqs ReceiveMessage")."""
    return sum(_price(name) * count for name, count in requests.items())


def _price(name: str) -> float:
    service, operation = name.split()
    if service == "sqs":
        return _SQS
    if service != "s3" or operation.startswith(_S3_FREE):
        return 0.0
    return _S3_WRITE if operation.startswith(_S3_WRITES) else _S3_READ
