"""Primes and twin primes below a limit, as an AWS Batch array job: each child of the array sieves its share.

Written for AWS Batch, whose agent sets AWS_BATCH_JOB_ARRAY_INDEX and AWS_BATCH_JOB_ARRAY_SIZE:

    python primes.py LIMIT OUTPUT.csv
"""

import os
import sys
from math import isqrt
from pathlib import Path


def share(limit: int, index: int, size: int) -> tuple[int, int]:
    """The numbers [first, last) that child `index` of `size` looks at; shares differ by one number at most."""
    return limit * index // size, limit * (index + 1) // size


def sieve(first: int, last: int) -> bytearray:
    """A byte for each number in [first, last): 1 for a prime."""
    small = bytearray([1]) * (isqrt(last) + 1)
    marks = bytearray([1]) * (last - first)
    for number in range(2):
        if first <= number < last:
            marks[number - first] = 0
    for number in range(2, len(small)):
        if small[number]:
            small[number * number :: number] = bytes(len(range(number * number, len(small), number)))
            start = max(number * number, -(-first // number) * number) - first
            marks[start::number] = bytes(len(range(start, len(marks), number)))
    return marks


def main() -> None:
    limit, output = int(sys.argv[1]), Path(sys.argv[2])
    index, size = int(os.environ["AWS_BATCH_JOB_ARRAY_INDEX"]), int(os.environ["AWS_BATCH_JOB_ARRAY_SIZE"])
    first, last = share(limit, index, size)
    marks = sieve(first, last + 2)  # a pair belongs to the share of its smaller prime
    primes = marks.count(1, 0, last - first)
    twins = sum(marks[place] and marks[place + 2] for place in range(last - first))
    output.write_text(f"first,last,primes,twins\n{first},{last},{primes},{twins}\n")
    print(f"{primes} primes and {twins} twins in [{first}, {last})")


if __name__ == "__main__":
    main()
