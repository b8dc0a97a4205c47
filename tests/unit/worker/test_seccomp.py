"""The filter of system calls, run instruction by instruction as the kernel runs classic BPF."""

import struct

import pytest

from services.worker.isolation.seccomp import program

ALLOWED, REFUSED, UNKNOWN, KILLED = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(machine: str, number: int, first_argument: int = 0, architecture: int | None = None) -> int:
    """What the filter answers to a system call."""
    known = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("=IIQQ", number, known, 0, first_argument)
    steps = list(struct.iter_unpack("=HBBI", program(machine)))
    value, at = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            value = struct.unpack_from("=I", data, operand)[0]
            continue
        holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
        at += if_true if holds else if_false


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        ("x86_64", {"read": 0, "ptrace": 101, "mount": 165, "clone": 56, "_sysctl": 156, "bpf": 321, "openat2": 437}),
        ("aarch64", {"read": 63, "ptrace": 117, "mount": 40, "clone": 220, "bpf": 280, "openat2": 437}),
    ],
)
def test_the_filter_refuses_what_reaches_out_and_allows_the_rest(machine: str, names: dict[str, int]) -> None:
    expected = {name: REFUSED if name in ("ptrace", "mount", "bpf", "_sysctl") else ALLOWED for name in names}
    assert {name: decide(machine, number) for name, number in names.items()} == expected
    assert decide(machine, names["clone"], 0x10000000) == REFUSED, "of a new user namespace"
    assert decide(machine, names["clone"], 0x003D0F00) == ALLOWED, "of a thread"
    assert decide(machine, 435) == UNKNOWN, "clone3: libraries then use clone"
    assert decide(machine, names["read"], architecture=0x40000003) == KILLED


def test_the_second_table_of_x86_64_is_unknown() -> None:
    assert decide("x86_64", 0x40000000 | 101) == UNKNOWN


def test_an_architecture_that_is_not_known_has_no_filter() -> None:
    with pytest.raises(OSError, match="riscv64"):
        program("riscv64")
