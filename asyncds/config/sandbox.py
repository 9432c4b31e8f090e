"""The configuration of sandboxes, which programs that a model wrote run in."""

from pydantic import Field

from asyncds.config.section import Seconds, Section


class SandboxConfig(Section):
    """Limits on a program in its sandbox. docs/sandbox.md says what else holds there."""

    cpu_seconds: Seconds = 4
    """What a program may compute, all its processes together."""
    seconds: Seconds = 8
    """Longest time of a program by the clock, which a busy machine makes longer."""
    memory_mb: int = Field(512, ge=64)
    """Memory of a program, all its processes together, and address space of each, in MiB."""
    processes: int = Field(16, ge=1, le=1024)
    """Processes and threads that it may have at once."""
    output_kb: int = Field(256, ge=1, le=16384)
    """What it may print, standard output and errors together, in KiB; one that prints more is
    ended."""
    disk_mb: int = Field(64, ge=1, le=16384)
    """What its files may have together, in MiB. They lie in memory, and are gone with the
    program."""
