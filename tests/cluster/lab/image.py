"""Writes an image as a file for `ctr images import`: image.py NAME FILE [PROGRAM]

With a program the image has nothing else and runs it. Without one it is an empty root in which a
machine's own directories can be mounted: `/usr`, with the links into it that Debian has. Its PATH
is that of the variable HOST_PATH, its PYTHONPATH that of HOST_PYTHONPATH.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

LINKS = ("bin", "sbin", "lib", "lib64")
FOLDERS = ("usr", "etc", "proc", "sys", "dev", "run", "root", "opt", "var", "cache", "tmp")
PASSWD = b"root:x:0:0::/root:/bin/sh\nasyncds:x:10001:10001::/cache:/bin/sh\n"
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def program_layer(program: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        add(archive, program.name, program.read_bytes(), 0o755)
    return out.getvalue()


def empty_root() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name in LINKS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(entry)
        add(archive, "etc/passwd", PASSWD)
    return out.getvalue()


def image(name: str, program: Path | None, env: dict[str, str]) -> bytes:
    content = program_layer(program) if program else empty_root()
    settings: dict[str, object] = {"Env": [f"{key}={value}" for key, value in env.items()]}
    if program is not None:
        settings["Entrypoint"] = [f"/{program.name}"]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": settings,
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"],
            },
            "history": [{}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        add(archive, "layer.tar", content)
        add(archive, config_name, config)
        add(archive, "manifest.json", json.dumps(manifest).encode())
    return out.getvalue()


if __name__ == "__main__":
    name, file, *programs = sys.argv[1:]
    env = {
        "PATH": os.environ.get("HOST_PATH", DEFAULT_PATH),
        "PYTHONPATH": os.environ.get("HOST_PYTHONPATH", ""),
    }
    Path(file).write_bytes(image(name, Path(programs[0]) if programs else None, env))
