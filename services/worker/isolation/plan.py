"""What the worker tells a child that starts, and its launcher, as plain values."""

from typing import TypedDict

FORK = b"fork"  # what the worker asks of a fork server
MARK = "PIECEWORK_CHILD"  # the variable that shows whose process it is, as long as no other program has replaced it


class SandboxPlan(TypedDict):
    """A child's own view of the machine. Places are absolute paths, the same inside and outside unless told apart."""

    base: str  # an empty directory, on which the new root is built
    readable: list[tuple[str, str]]  # file or directory outside, its place inside
    writable: list[tuple[str, str]]
    links: list[tuple[str, str]]  # place inside, where it leads
    files: list[tuple[str, str]]  # place inside, content
    devices: list[str]
    shared_memory_bytes: int


class Plan(TypedDict):
    """How a child starts."""

    worker: int  # the process that the child may not outlive
    cgroup: str | None  # the directory of the cgroup that it joins
    uid: int | None  # the user and group that it runs as; None: the worker's own
    network: bool
    processes_max: int
    file_bytes_max: int | None
    sandbox: SandboxPlan | None  # None: in the worker's namespaces


class Order(TypedDict):
    """How a fork server's child starts."""

    plan: Plan | None  # None: where the server runs
    python: str  # the interpreter that it stands for: the server's, or that of a virtual environment made from it
    environment: dict[str, str]
    mark: str  # as long as the server's
    parent: int  # the child's parent as the child sees it
