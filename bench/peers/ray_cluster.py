"""Ray on one node with two CPUs: the tasks submitted one after the other, their results fetched; nothing is durable."""

import time
from functools import cache
from typing import Any

import ray

PACKAGES = ("ray",)
WORKERS: list[str] = []


@cache
def _remote() -> tuple[Any, Any]:
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    return ray.remote(nothing), ray.remote(time_now)


def nothing() -> None:
    pass


def time_now() -> float:
    return time.time()


def run(tasks: int) -> None:
    """`get` raises what a task raised."""
    remote, _ = _remote()
    ray.get([remote.remote() for _ in range(tasks)])


def start_one() -> float:
    return float(ray.get(_remote()[1].remote()))
