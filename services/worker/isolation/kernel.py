"""Linux's calls for namespaces, mounts and privileges, which Python 3.11 lacks. They raise OSError.

Sources: clone(2), user_namespaces(7), mount(2), mount_setattr(2), capget(2), prctl(2); open_tree and move_mount are of
Linux 5.2, mount_setattr of 5.12.
"""

import ctypes
import os
import sys

MOUNTS, HOST_NAME, IPC, USERS, PIDS, NETWORK = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8  # of mounts

_SIGCHLD, _SIGKILL = 17, 9  # without the module `signal`, which takes long to import
_MS_PRIVATE_RECURSIVE = 0x40000 | 0x4000
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_CLONE = {"x86_64": 56, "aarch64": 220}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # on all architectures
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_PARENT, _CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x8000, 0x200000, 0x1000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_GET_TID_ADDRESS = 1, 4, 38, 40

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def clone(namespaces: int) -> int:
    """Fork into new namespaces; returns 0 there. Only for a process of one thread: no handler of a fork is called."""
    return _clone(namespaces | _SIGCHLD, ctypes.c_void_p())


def can_fork_siblings() -> bool:
    address = ctypes.c_void_p()
    return (
        sys.platform == "linux"
        and hasattr(os, "pidfd_open")
        and os.uname().machine in _CLONE
        and _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address)) == 0
    )


def fork_sibling() -> int:
    """Fork as os.fork does, but a child of this process's own parent, which can wait for it; returns 0 there.

    Only for a process of one thread. The C library's fork has the kernel write the new thread's id to the address that
    the kernel knows already; so does this (PR_GET_TID_ADDRESS).
    """
    address = ctypes.c_void_p()
    _check("prctl", _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address)))
    flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | _SIGCHLD
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = -1
    try:
        pid = _clone(flags, address)
    finally:
        (python.PyOS_AfterFork_Parent if pid else python.PyOS_AfterFork_Child)()
    return pid


def unshare(namespaces: int) -> None:
    _check("unshare", _libc.unshare(ctypes.c_int(namespaces)))


def keep_mounts_private() -> None:
    """Have no mount of this namespace show in others, nor theirs here."""
    _check("mount /", _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_PRIVATE_RECURSIVE), None))


def mount(kind: str, target: str, flags: int, data: str = "") -> None:
    """Mount a file system of the kernel's, such as proc or tmpfs."""
    name = kind.encode()
    result = _libc.mount(name, os.fsencode(target), name, ctypes.c_ulong(flags), data.encode())
    _check(f"mount {kind} at {target}", result)


def copy_of_mount(path: str, flags: int, *, recursive: bool = True) -> int:
    """A descriptor of what is mounted at the path, to be attached elsewhere, with these flags in addition."""
    below = _AT_RECURSIVE if recursive else 0
    arguments = ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | below)
    copy = _syscall(f"open_tree {path}", _OPEN_TREE, *arguments)
    restrict_mount(copy, flags, recursive=recursive)
    return copy


def restrict_mount(descriptor: int, flags: int, *, recursive: bool = False) -> None:
    attributes = _MountAttributes(set=flags)
    how = ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0))
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _syscall("mount_setattr", _MOUNT_SETATTR, ctypes.c_int(descriptor), b"", how, ctypes.byref(attributes), size)


def attach_mount(copy: int, target: str) -> None:
    """Mount the copy at the target, which exists, and close its descriptor."""
    where = ctypes.c_int(_AT_FDCWD), os.fsencode(target), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    _syscall(f"move_mount {target}", _MOVE_MOUNT, ctypes.c_int(copy), b"", *where)
    os.close(copy)


def change_root(directory: str) -> None:
    """Make the mount at the directory this namespace's root; nothing of the old root is left."""
    os.chdir(directory)
    _check("pivot_root", _libc.pivot_root(b".", b"."))  # the old root now lies over the new one
    _check("umount2", _libc.umount2(b".", ctypes.c_int(_MNT_DETACH)))
    os.chdir("/")


def give_up_capabilities() -> None:
    """For good, with `gain_nothing`."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check("capset", _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def gain_nothing() -> None:
    """No program that is started from here on gets more rights by its set-user-id bit or its capabilities."""
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))


def die_with_parent() -> None:
    """The kernel forgets this when the user id changes."""
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (_SIGKILL, 0, 0, 0))))


def show_memory() -> None:
    """Let this process be as any other of its user, after a change of user or `hide_memory`."""
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (1, 0, 0, 0))))


def hide_memory() -> None:
    """Let no process of the same user read this one's memory and environment, nor trace it."""
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0))))


def _clone(flags: int, thread_id: ctypes.c_void_p) -> int:
    number = _CLONE.get(os.uname().machine)
    if number is None:
        raise OSError(f"no system calls are known for {os.uname().machine}")
    nothing = ctypes.c_void_p()  # the last two are the id's address and the thread's storage, whose order differs
    return _syscall("clone", number, ctypes.c_ulong(flags), nothing, nothing, thread_id, thread_id)


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(what, _libc.syscall(ctypes.c_long(number), *arguments))


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
