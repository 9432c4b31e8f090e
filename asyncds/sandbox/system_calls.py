"""The filter of system calls in a sandbox, as a program for the kernel's seccomp (classic BPF).

Refused are those that programs do without: they look into other processes, hold memory that no
limit counts, make namespaces, or have often been ways into the kernel. Sockets are those of the
machine's own network alone: a virtual machine's AF_VSOCK, for one, knows no network namespace.
"""

import errno
import platform
import struct
from collections.abc import Iterator

_NUMBERS: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}
"""System calls that are refused: their numbers on x86_64 and aarch64."""
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column of a machine above, and how the kernel calls it (AUDIT_ARCH)."""
_NEW_NAMESPACES = 0x7E020000
"""Flags of clone (CLONE_NEW…)."""
_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6."""
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Where they stand in what a filter is shown (struct seccomp_data)."""
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOWED, _KILLED = 0x7FFF0000, 0x80000000
_OTHER_ABI = 0x40000000
"""Numbers from here on are those of x32, another way to the same calls."""


class UnknownMachineError(ValueError):
    """No filter is known for the architecture of this machine."""


def refused(machine: str | None = None) -> dict[str, int]:
    """The names of refused system calls and their numbers. Raises UnknownMachineError."""
    column, _ = _architecture(machine)
    return {name: numbers[column] for name, numbers in _NUMBERS.items()}


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter for an architecture, this machine's by default. Raises UnknownMachineError."""
    column, audited = _architecture(machine)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, audited),
        (_RETURN, 0, 0, _KILLED),
        (_LOAD, 0, 0, _NUMBER),
        *_if(_AT_LEAST, _OTHER_ABI, _refuse(errno.EPERM)),
    ]
    for number in refused(machine).values():
        lines += _if(_EQUAL, number, _refuse(errno.EPERM))
    # Its flags lie in memory, where no filter can look; without it clone is used.
    lines += _if(_EQUAL, _CLONE3[column], _refuse(errno.ENOSYS))
    namespaces = [
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *_if(_ANY_BIT, _NEW_NAMESPACES, _refuse(errno.EPERM)),
        (_RETURN, 0, 0, _ALLOWED),
    ]
    lines += _if(_EQUAL, _CLONE[column], namespaces)
    families = [(_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for family in _FAMILIES:
        families += _if(_EQUAL, family, [(_RETURN, 0, 0, _ALLOWED)])
    families += _refuse(errno.EAFNOSUPPORT)
    lines += _if(_EQUAL, _SOCKET[column], families)
    lines.append((_RETURN, 0, 0, _ALLOWED))
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


_Line = tuple[int, int, int, int]


def _refuse(error: int) -> list[_Line]:
    return [(_RETURN, 0, 0, 0x00050000 | error)]


def _if(test: int, value: int, then: list[_Line]) -> Iterator[_Line]:
    """Lines that are gone through where a test of what was loaded holds, else jumped over."""
    yield (test, 0, len(then), value)
    yield from then


def _architecture(machine: str | None) -> tuple[int, int]:
    name = machine or platform.machine()
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise UnknownMachineError(f"sandboxes are for {known}, and this machine is {name}")
    return _ARCHITECTURES[name]
