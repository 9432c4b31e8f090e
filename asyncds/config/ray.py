"""The configuration of a run on a Ray cluster (`asyncds run --on ray`)."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from asyncds.config.section import Section

Resources = dict[str, Annotated[float, Field(ge=0)]]


class RayConfig(Section):
    """Requests of `asyncds run --on ray` to the cluster. Nothing else reads it."""

    rank: Resources = Field(default_factory=dict)
    """Ray's resources that each learner rank reserves besides its GPU: `{CPU: 8, H100: 1}`.
    Default: `learner.cpu_threads` CPUs."""
    generator: Resources = Field(default_factory=dict)
    """The same for each generator, on one machine. Default: `generator.cpu_threads` CPUs, or
    one."""
    autoscales: bool = False
    """Whether the cluster adds machines when they are asked for. Then what it has no room for is
    waited for instead of refused."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's runtime environment of the processes: `env_vars`, `working_dir`, `pip`, `image_uri`, …
    Where the program is found, PYTHONPATH, is that of the shell that starts the run, unless
    `env_vars` has it."""

    @field_validator("rank", "generator")
    @classmethod
    def _gpus_follow(cls, value: Resources) -> Resources:
        if "GPU" in value:
            raise ValueError(
                "GPUs are not set here: a rank has one, a generator tensor_parallel × "
                "pipeline_parallel; delete GPU"
            )
        return value
