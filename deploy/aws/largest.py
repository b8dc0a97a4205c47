"""The largest node that a pool may have, by its instance types: what may be asked of a pool that has no nodes yet."""

from collections.abc import AsyncIterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

_KERNEL_PART = 16  # of a type's memory, at most, which the kernel keeps
_RESERVE_MIB = 640  # for the worker and what else runs
_DISK_SHARE = 0.5  # of the root volume: the rest is what the node runs, and its caches


async def largest_node(ec2: Any, pool: Mapping[str, str]) -> dict[str, Any] | None:
    """The most of each resource that one of the pool's types has, in the form of the API's `largest_node`.

    `pool` are the parameters of its stack. None if AWS knows none of its types here. Raises ClientError.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
    """
    fitting = [
        kind
        async for kind in _types(ec2, [name.strip() for name in pool["InstanceTypes"].split(",")])
        if kind["VCpuInfo"]["DefaultVCpus"] >= int(pool["CpusMin"])
        and kind["MemoryInfo"]["SizeInMiB"] >= int(pool["MemoryMibMin"])
    ]
    if not fitting:
        return None
    return {
        "cpus": max(kind["VCpuInfo"]["DefaultVCpus"] for kind in fitting),
        "memory": _memory_bytes(max(kind["MemoryInfo"]["SizeInMiB"] for kind in fitting)),
        "gpus": max(map(_gpus, fitting)),
        "disk": int(int(pool["RootGb"]) * 2**30 * _DISK_SHARE),
    }


async def _types(ec2: Any, names: list[str]) -> AsyncIterator[dict[str, Any]]:
    pages = ec2.get_paginator("describe_instance_types")
    async for page in pages.paginate(Filters=[{"Name": "instance-type", "Values": names}]):
        for kind in page["InstanceTypes"]:
            if any(fnmatchcase(kind["InstanceType"], name) for name in names):
                yield kind


def _memory_bytes(mib: int) -> int:
    """What a node tells at least of such a type, so that what is accepted finds a place."""
    return max(mib - mib // _KERNEL_PART - _RESERVE_MIB, mib // 4) * 2**20


def _gpus(kind: Mapping[str, Any]) -> int:
    """Those of NVIDIA, which are all that a worker finds."""
    found = kind.get("GpuInfo", {}).get("Gpus", [])
    return sum(gpu["Count"] for gpu in found if gpu.get("Manufacturer", "").upper() == "NVIDIA")
