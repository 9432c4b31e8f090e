"""Programs as no model should write them, and how each ends in a sandbox.

Those that try what must not work print ``escaped`` where it does.
"""

import json
import sys
from dataclasses import asdict, dataclass

from asyncds.config.sandbox import SandboxConfig
from asyncds.sandbox.sandbox import Ran, Sandbox

LIMITS = SandboxConfig(seconds=60, memory_mb=256, processes=8, output_kb=64, disk_mb=16)
SECRET = "a-secret-of-the-host"
"""A variable of the environment that the sandbox is made in."""


@dataclass(frozen=True)
class Hostile:
    """A program; reason: why it does not end well; None where it ends, having reached nothing."""

    program: str
    reason: str | None


_TRIES = """
def tries(*attempts):
    for attempt in attempts:
        try:
            attempt()
        except Exception as error:
            print(type(error).__name__, error)
        else:
            print("escaped")
"""
_CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    def attempt():
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)
    return attempt
"""

PROGRAMS = {
    "fork bomb": Hostile(
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "timeout",
    ),
    "more processes than it may have": Hostile(
        "import os, time\n"
        "n = 1\n"
        "try:\n"
        "    while n < 40:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(1e6)\n"
        "        n += 1\n"
        "except OSError: pass\n"
        f"print('escaped' if n > {LIMITS.processes} else n)",
        None,
    ),
    "threads": Hostile(
        "import threading, time\n"
        "while True:\n    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "crash",
    ),
    "10 GB of memory": Hostile("bytearray(10 << 30)", "memory"),
    "10 GB of memory, little by little": Hostile(
        "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))", "memory"
    ),
    "memory of many processes": Hostile(
        "import os, time\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(b'x') * (100 << 20)\n"
        "        time.sleep(9)\n"
        "os.wait()",
        "memory",
    ),
    "memory that no limit counts": Hostile(
        _TRIES + _CALLS + "tries(lambda: os.memfd_create('x'), call('shmget', 0, 1 << 30, 0o1600))",
        None,
    ),
    "higher limits": Hostile(
        _TRIES + "import resource as r\n"
        "most = (r.RLIM_INFINITY, r.RLIM_INFINITY)\n"
        "tries(*(lambda n=n: r.setrlimit(n, most)\n"
        "        for n in (r.RLIMIT_AS, r.RLIMIT_NPROC, r.RLIMIT_CPU, r.RLIMIT_FSIZE)))",
        None,
    ),
    "endless output": Hostile("while True: print('x' * 1000)", "output"),
    "endless errors": Hostile(
        "import os\nwhile True: os.write(2, b'x' * 1000)",
        "output",
    ),
    "network": Hostile(
        _TRIES + "import socket\n"
        "def to(family, address, kind=socket.SOCK_STREAM):\n"
        "    return lambda: socket.socket(family, kind).connect(address)\n"
        "inet, unix = socket.AF_INET, socket.AF_UNIX\n"
        "tries(to(inet, ('127.0.0.1', int(input()))), to(inet, ('1.1.1.1', 53)),\n"
        "      to(inet, ('1.1.1.1', 53), socket.SOCK_DGRAM), to(unix, input()),\n"
        "      to(unix, '\\0' + input()),\n"
        "      lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),\n"
        "      lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))",
        None,
    ),
    "files of the host": Hostile(
        _TRIES + "import os, sys\n"
        "paths = ['/etc/passwd', '/etc/shadow', '/etc/hostname', '/home', '/root/.ssh', '/var',\n"
        "         '/proc/1/environ', '/proc/self/mem', '/sys/kernel', '/run', '/dev/mem',\n"
        "         '/dev/sda', '/dev/vda', '/dev/kmsg', '/oldroot', *sys.stdin.read().split()]\n"
        "tries(*(lambda path=path: os.stat(path) for path in paths))",
        None,
    ),
    "environment of the host": Hostile(
        f"import os\nprint('escaped' if '{SECRET}' in str(os.environ) else sorted(os.environ))",
        None,
    ),
    "open files of the host": Hostile(
        _TRIES + "import os\ntries(*(lambda n=n: os.fstat(n) for n in range(3, 64)))", None
    ),
    "kills its parent": Hostile(
        "import os\nfor pid in (os.getppid(), 1, -1):\n"
        "    try:\n        os.kill(pid, 9)\n    except OSError as error:\n        print(error)\n"
        "print('alive')",
        None,
    ),
    "kills all it can see": Hostile(
        "import os\nfor pid in range(1, 100_000):\n"
        "    try:\n        if pid != os.getpid(): os.kill(pid, 9)\n    except OSError: pass",
        None,
    ),
    "sleeps and ignores all signals": Hostile(
        "import signal, time\n"
        "for one in set(signal.valid_signals()) - {9, 19}:\n"
        "    try:\n        signal.signal(one, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "time.sleep(1e6)",
        "timeout",
    ),
    "computes for ever": Hostile("while True: pass", "timeout"),
    "stops itself": Hostile("import os\nos.kill(os.getpid(), 19)", "timeout"),
    "closes its output and stays": Hostile(
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(1e6)", "timeout"
    ),
    "fills the disk": Hostile(
        "for i in range(1000):\n    open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))", "crash"
    ),
    "one file that fills the disk": Hostile(
        "with open('/dev/shm/x', 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
        "crash",
    ),
    "writes elsewhere": Hostile(
        _TRIES + "import sys\n"
        "paths = ['/x', '/usr/x', '/etc/x', '/etc/ld.so.preload', '/dev/x', '/program.py',\n"
        "         '/root/x', '/var/x', sys.base_prefix + '/x', sys.path[-1] + '/x', '/dev/stdin']\n"
        "tries(*(lambda path=path: open(path, 'w').close() for path in paths))",
        None,
    ),
    "looks into other processes": Hostile(
        _TRIES
        + _CALLS
        + "tries(call('ptrace', 16, 1, 0, 0), call('ptrace', 16, os.getppid(), 0, 0),\n"
        "      call('process_vm_readv', 1, 0, 0, 0, 0, 0), lambda: os.listdir('/proc'))",
        None,
    ),
    "becomes somebody else": Hostile(
        _TRIES
        + _CALLS
        + "tries(lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot('/tmp'),\n"
        "      call('unshare', 0x10000000), call('unshare', 0x20000), call('setns', 0, 0),\n"
        "      call('mount', b'none', b'/tmp', b'tmpfs', 0, 0), call('umount2', b'/usr', 0))",
        None,
    ),
    "clones into namespaces": Hostile(
        _TRIES + _CALLS + "import platform\n"
        "number = {'x86_64': 56, 'aarch64': 220}[platform.machine()]\n"
        "tries(call('syscall', number, 0x10000000 | 17, 0, 0, 0, 0),\n"
        "      call('syscall', 435, 0, 0), call('syscall', 425, 1, 0))",
        None,
    ),
    "links to the host": Hostile(
        _TRIES + "import os\n"
        "os.symlink('/etc/passwd', '/tmp/a')\nos.symlink('../../../../etc/shadow', '/tmp/b')\n"
        "os.symlink('/', '/tmp/c')\n"
        "tries(lambda: open('/tmp/a'), lambda: open('/tmp/b'), lambda: open('/tmp/c/etc/passwd'),\n"
        "      lambda: os.link('/usr/bin/env', '/tmp/d'), lambda: os.mknod('/tmp/e', 0o60644, 1))",
        None,
    ),
    "leaves processes behind": Hostile(
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        for n in range(64):\n"
        "            try: os.close(n)\n"
        "            except OSError: pass\n"
        "        time.sleep(1e6)\n"
        "print('done')",
        None,
    ),
    "exits at once": Hostile("import os\nos._exit(0)", None),
    "no program": Hostile("this is no program", "crash"),
    "breaks the interpreter": Hostile("import ctypes\nctypes.string_at(0)", "crash"),
    "zero bytes": Hostile("print('\0')", "crash"),
}


def ended(name: str, *, stdin: str) -> Ran:
    """What becomes of a program; one that only time ends is given a second."""
    hostile = PROGRAMS[name]
    limits = LIMITS.model_copy(update={"seconds": 1.0} if hostile.reason == "timeout" else {})
    return Sandbox(limits).run(hostile.program, stdin=stdin)


if __name__ == "__main__":
    print(json.dumps({name: asdict(ended(name, stdin=sys.argv[1])) for name in PROGRAMS}))
