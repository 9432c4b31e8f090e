"""The configuration of how a run is kept going and watched."""

from typing import Self

from pydantic import Field, model_validator

from asyncds.config.section import Fraction, Port, Seconds, Section
from asyncds.config.trackers import Tracker

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""


class CurveConfig(Section):
    """Key files of encrypted links (`asyncds keys` makes them): a process reads those of its role.

    docs/security.md says who needs which.
    """

    server_secret: str
    """File with the coordinator's secret key; for the coordinator."""
    clients: str
    """Directory of the public keys that are let in; for the coordinator."""
    server_public: str
    """File with the coordinator's public key; for everyone else."""
    client_secret: str
    """File with the process's own secret key; for everyone else."""


class CoordinatorConfig(Section):
    """The coordinator and the links to it."""

    host: str = "127.0.0.1"
    """Address the coordinator binds and the others connect to."""
    port: Port = 0
    """Port of the control plane; 0 picks a free one (`asyncds run` only)."""
    curve: CurveConfig | None = None
    """Encrypt and authenticate the links with these keys; default: neither."""
    allow_unencrypted: bool = False
    """Bind an address other than loopback although `curve` is not set."""
    heartbeat_seconds: Seconds = 1
    """How often every process reports."""
    suspect_seconds: Seconds = 10
    """After this long without a word a generator gets no new work."""
    dead_seconds: Seconds = 60
    """After this long it is dead, and its work goes to others."""
    watch_seconds: Seconds = 300
    """After this long without any progress the log says who waits for whom, and every process
    writes what it is doing to `dumps` in the run directory; again every so often."""
    stall_seconds: Seconds = 1800
    """After this long without any progress the run ends as failed, saying who waits for whom. A run
    that has not begun waits for its learner, and for a generator, as long as they take to join. A
    checkpoint that training waits for is progress as long as more of it is written."""
    lost_seconds: Seconds = 600
    """After this long without a coordinator a generator or learner gives up."""
    journal_gb: float = Field(20.0, gt=0)
    """What the journal may take of the disk, in GiB. Beyond it the oldest samples are deleted that
    no restart can need (those of groups that were trained before the oldest checkpoint that is
    kept, dropped, or of evaluations that are finished); the numbers about them stay."""
    stay: bool = False
    """When the run is over the coordinator stays until SIGTERM: it tells whoever comes late to
    leave, and its metrics say how the run ended. For supervisors that start again what ends."""

    @model_validator(mode="after")
    def _ordered(self) -> "CoordinatorConfig":
        if not self.heartbeat_seconds < self.suspect_seconds < self.dead_seconds:
            raise ValueError(
                "heartbeat_seconds < suspect_seconds < dead_seconds must hold: raise the later one"
            )
        loopback = self.host in ("127.0.0.1", "localhost")
        if not loopback and self.curve is None and not self.allow_unencrypted:
            raise ValueError(
                f"the control plane is not encrypted and will not bind {self.host}: set "
                "coordinator.curve (`asyncds keys` makes the keys), keep coordinator.host at "
                "127.0.0.1, or set coordinator.allow_unencrypted to true if everyone who can reach "
                "that address may control the run"
            )
        return self


class SupervisionConfig(Section):
    """Supervision by `asyncds run` and `asyncds sweep` of the processes they started.

    Processes that die, leave before the run is over, or hang are started again. Others have their
    own supervisor.
    """

    max_restarts: int = Field(3, ge=0)
    """How often a process is started again within window_seconds; then the run ends."""
    window_seconds: Seconds = 3600
    """Restarts that are longer ago do not count."""
    silent_seconds: Seconds = 300
    """A process that was there and then not heard of for this long is killed."""
    start_seconds: Seconds = 1800
    """The same for one that is starting: for it to load its model and introduce itself."""


class TracesConfig(Section):
    """Traces of leases and weight syncs: to a collector over OTLP and HTTP, or as a timeline.

    A collector needs `asyncds[otel]`. What it asks for besides is in the environment of every
    process, as OpenTelemetry names it: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE.
    """

    endpoint: str | None = Field(None, pattern=r"^https?://.")
    """The collector, such as `http://127.0.0.1:4318`; every process must reach it."""
    timeline: bool = False
    """Write a timeline for Perfetto or Chrome, `timeline.json` in the run directory, which every
    process must see; `asyncds run --trace` sets it. It also shows what each process did besides:
    turns and commits of the coordinator, phases of the learner's steps, pauses and load of
    engines."""
    sample: Fraction = 1.0
    """The share of leases and of weight syncs that is traced."""

    @model_validator(mode="after")
    def _go_somewhere(self) -> Self:
        if self.endpoint is None and not self.timeline:
            raise ValueError("traces go nowhere: give endpoint, or set timeline to true")
        return self


class TelemetryConfig(Section):
    """Metrics and pages over HTTP.

    /metrics, /healthz and /readyz on every process, and the live page of the run at / of the
    coordinator.
    """

    host: str = "127.0.0.1"
    """Address the metrics servers bind."""
    port: Port = 0
    """First port: the coordinator takes it, learner ranks and generators the next ones; 0 picks
    free ones (they are printed in the log of each process)."""
    page: bool | None = None
    """Whether the coordinator serves the live page, which shows rollouts to everyone who can reach
    `host`. Default: where `host` is loopback."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics, evaluations, summary and configuration are sent besides. The name of a kind
    alone takes its defaults: `[tensorboard]`."""
    traces: TracesConfig | None = None
    """Where traces are sent. Default: nothing is traced."""

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> "TelemetryConfig":
        kinds = [tracker.kind for tracker in self.trackers]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"trackers {kinds} has one twice: name each once")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the servers."""
        return self.host in LOOPBACK
