"""Resource limits of a child and of its programs (setrlimit(2)).

There is none of the address space: databases and numeric libraries reserve far more than they use. Memory is limited by
a cgroup or by the worker's own watch.
"""

import resource

_FILES_MAX = 65_536  # open files of a process


def limit_resources(file_bytes_max: int | None) -> None:
    """No core dumps, and no file larger than this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, _FILES_MAX)
    if file_bytes_max is not None:
        _lower(resource.RLIMIT_FSIZE, file_bytes_max)


def limit_processes(processes_max: int) -> None:
    """The kernel counts those of the user id in the user namespace: one of the two must be the child's own."""
    _lower(resource.RLIMIT_NPROC, processes_max)


def _lower(kind: int, value: int) -> None:
    soft, hard = resource.getrlimit(kind)
    hard = value if hard == resource.RLIM_INFINITY else min(hard, value)
    resource.setrlimit(kind, (hard if soft == resource.RLIM_INFINITY else min(soft, hard), hard))
