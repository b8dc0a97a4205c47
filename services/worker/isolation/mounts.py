"""The root file system of a sandbox: what the child may read and write, and nothing else of the machine."""

import os

from services.worker.isolation import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.worker.isolation.plan import SandboxPlan

_SAFE = kernel.NO_SETUID | kernel.NO_DEVICES
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


def build_root(view: "SandboxPlan") -> None:
    """Make the view the root of this process's mount namespace. Raises OSError."""
    mask = os.umask(0o022)
    kernel.keep_mounts_private()
    copies = [
        (inside, kernel.copy_of_mount(outside, kernel.READ_ONLY | _SAFE), os.path.isdir(outside))
        for outside, inside in view["readable"]
    ]
    copies += [
        (inside, kernel.copy_of_mount(outside, _SAFE, recursive=False), True) for outside, inside in view["writable"]
    ]
    devices = [f"/dev/{name}" for name in _DEVICES] + view["devices"]
    opened = [(path, kernel.copy_of_mount(path, kernel.NO_SETUID | kernel.NO_EXEC)) for path in devices]
    root = view["base"]
    kernel.mount("tmpfs", root, _SAFE, "mode=755")
    for inside, copy, is_directory in sorted(copies):  # a directory comes before what lies in it
        _attach(copy, root + inside, is_directory=is_directory)
    for inside, target in view["links"]:
        os.symlink(target, root + inside)
    for inside, content in view["files"]:
        os.makedirs(os.path.dirname(root + inside), exist_ok=True)
        with open(root + inside, "w") as file:
            file.write(content)
    _make_devices(f"{root}/dev", opened, view["shared_memory_bytes"], root)
    os.makedirs(f"{root}/proc", exist_ok=True)
    kernel.mount("proc", f"{root}/proc", _SAFE | kernel.NO_EXEC)
    kernel.change_root(root)
    _make_read_only("/")
    os.umask(mask)


def _make_devices(directory: str, devices: list[tuple[str, int]], shared_memory_bytes: int, root: str) -> None:
    os.mkdir(directory)
    for path, copy in devices:
        _attach(copy, root + path, is_directory=os.path.isdir(path))
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{directory}/{name}")
    os.mkdir(f"{directory}/pts")
    kernel.mount("devpts", f"{directory}/pts", kernel.NO_SETUID | kernel.NO_EXEC, "newinstance,ptmxmode=0666,mode=620")
    os.mkdir(f"{directory}/shm")
    kernel.mount("tmpfs", f"{directory}/shm", _SAFE, f"mode=1777,size={shared_memory_bytes}")


def _attach(copy: int, target: str, *, is_directory: bool) -> None:
    if is_directory:
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    kernel.attach_mount(copy, target)


def _make_read_only(path: str) -> None:
    descriptor = os.open(path, os.O_PATH)
    kernel.restrict_mount(descriptor, kernel.READ_ONLY)
    os.close(descriptor)
