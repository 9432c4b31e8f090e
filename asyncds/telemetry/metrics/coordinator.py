"""The metrics of the coordinator: progress, batches and resources of a run."""

from functools import partial

from asyncds.fleet.membership import Health
from asyncds.fleet.weight_sync import SyncResult
from asyncds.protocol.state import State
from asyncds.rollout.lifecycle import DropReason, LeaseEvent
from asyncds.telemetry.metrics import charts
from asyncds.telemetry.metrics.declaration import Chart, Metric, Section
from asyncds.telemetry.metrics.evaluations import EVALUATIONS
from asyncds.transport.rejections import REASONS

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
LAGS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)

_gauge = partial(Metric, role="coordinator")
_counter = partial(Metric, role="coordinator", kind="counter")
_histogram = partial(Metric, role="coordinator", kind="histogram")
_of_batch = partial(Metric, role="coordinator", record="batch")

_BATCH = (
    _of_batch(
        name="reward",
        help="Mean reward of the last batch",
        unit="reward",
        key="reward",
        chart=Chart(
            title="Reward",
            note="Mean of each batch. It should rise.",
            section=Section.REWARD,
        ),
        curve="reward",
    ),
    _of_batch(
        name="reward_part",
        help="Mean of a part of the reward, last batch, as its function returned it",
        unit="reward",
        labels={"part": ()},
        key="reward/{part}",
        chart=charts.REWARD_PARTS,
        curve="{part}",
    ),
    _of_batch(
        name="correct_fraction",
        help="Correct completions in the last batch",
        unit="fraction",
        key="correct",
        chart=charts.RIGHT,
        curve="completions right",
    ),
    _of_batch(
        name="solved_groups",
        help="Groups of the last batch with a right completion",
        unit="fraction",
        key="solved_groups",
        chart=charts.RIGHT,
        curve="groups solved",
    ),
    _of_batch(
        name="distinct_correct",
        help="Distinct correct answers per group, last batch",
        unit="answers",
        key="distinct_correct",
    ),
    _of_batch(
        name="distinct_answers",
        help="Distinct correct answers per group, last batch, by what counts as the same",
        unit="answers",
        labels={"equivalence": ()},
        key="distinct/{equivalence}",
        chart=Chart(
            title="Distinct correct answers",
            note="Per training group, by what counts as the same. A third below its best: an "
            "alert.",
            section=Section.DIVERSITY,
        ),
        curve="{equivalence}",
    ),
    _of_batch(
        name="top_share",
        help="Right ones of a group with its most frequent answer",
        unit="fraction",
        key="top_share",
        chart=charts.SAMENESS,
        curve="top share",
    ),
    _of_batch(
        name="self_overlap",
        help="Pairs of right ones of a group with the same answer",
        unit="fraction",
        key="self_overlap",
        chart=charts.SAMENESS,
        curve="self-overlap",
    ),
    _of_batch(
        name="mixed_groups",
        help="Groups of the last batch with right and wrong ones",
        unit="fraction",
        key="mixed_groups",
        chart=charts.RIGHT,
        curve="groups mixed",
    ),
    _of_batch(
        name="teaching_groups",
        help="Groups of the last batch in which a completion has an advantage",
        unit="fraction",
        key="teaching_groups",
        chart=charts.RIGHT,
        curve="groups with an advantage",
    ),
)
_GROUPS = (
    _counter(name="steps_total", help="Training batches the learner has finished", unit="batches"),
    _gauge(
        name="policy_version",
        help="Newest weight version published to the generators",
        unit="version",
    ),
    _counter(
        name="groups_total",
        help="Training groups, by event",
        unit="groups",
        labels={"event": tuple(LeaseEvent)},
    ),
    _counter(
        name="groups_dropped_total",
        help="Training groups given up, by reason",
        unit="groups",
        labels={"reason": tuple(DropReason)},
    ),
    _gauge(
        name="outstanding_groups",
        help="Training groups between lease and consumption",
        unit="groups",
    ),
    _gauge(
        name="buffered_groups",
        help="Training groups delivered and not yet in a batch",
        unit="groups",
    ),
    _gauge(
        name="over",
        help="Whether the run is over, by how it ended",
        unit="0 or 1",
        labels={"end": tuple(state for state in State if state.final)},
    ),
    _histogram(
        name="lag",
        help="Lag of a group when it is consumed",
        unit="weight versions",
        buckets=LAGS,
    ),
    _gauge(name="lag_bound", help="Largest lag that may be trained on", unit="weight versions"),
    _gauge(
        name="members",
        help="Generators, by health",
        unit="generators",
        labels={"health": tuple(Health)},
    ),
    _gauge(
        name="lease_age_seconds",
        help="Age of the oldest lease nobody has delivered",
        unit="seconds",
    ),
    _histogram(
        name="sync_seconds",
        help="Weight sync, from prepare to verified",
        unit="seconds",
        buckets=SECONDS,
    ),
    _histogram(
        name="sync_send_seconds",
        help="Sending the weights, of a weight sync that succeeded",
        unit="seconds",
        buckets=SECONDS,
    ),
    _gauge(
        name="probe_distance",
        help="Mean difference of the probe's log-probabilities, largest of the last judged",
        unit="nats",
    ),
    _gauge(
        name="probe_level",
        help="Up to which difference of the probe weights count as the learner's",
        unit="nats",
    ),
    _counter(
        name="syncs_total",
        help="Weight syncs, by result",
        unit="syncs",
        labels={"result": tuple(SyncResult)},
    ),
    _counter(
        name="tokens_generated_total",
        help="Completion tokens delivered for training",
        unit="tokens",
    ),
    _counter(name="tokens_trained_total", help="Completion tokens trained on", unit="tokens"),
)
_RESOURCES = (
    _gauge(name="journal_bytes", help="Size of the journal with its write-ahead log", unit="bytes"),
    _gauge(
        name="journal_exceeded",
        help="Whether the journal is over its limit and a restart may need all of it",
        unit="0 or 1",
    ),
    _counter(
        name="samples_deleted_total",
        help="Groups whose samples were deleted for room",
        unit="groups",
    ),
    _gauge(name="disk_full", help="Whether the run waits for room on its disk", unit="0 or 1"),
    _gauge(
        name="disk_free_bytes",
        help="Free space on the disk of the run directory",
        unit="bytes",
    ),
    _gauge(name="disk_size_bytes", help="Size of the disk of the run directory", unit="bytes"),
    _counter(name="stalls_total", help="Times that nothing moved for watch_seconds", unit="stalls"),
    _counter(
        name="rejected_frames_total",
        help="Frames that were no well-formed message, or not for their sender to say",
        unit="frames",
    ),
    _counter(
        name="rejected_connections_total",
        help="Connections turned away, by reason",
        unit="connections",
        labels={"reason": REASONS},
    ),
)
_LINE_ONLY = (
    _of_batch(key="step", help="Batches trained, this one included", unit="batches"),
    _of_batch(key="version", help="Weight version after the batch", unit="version"),
    _of_batch(key="time", help="When the report of the batch came, since 1970", unit="seconds"),
    _of_batch(
        key="wall_seconds", help="Time that the run has been running until then", unit="seconds"
    ),
    _of_batch(key="groups", help="Groups in the batch", unit="groups"),
    _of_batch(key="sequences", help="Completions in the batch", unit="completions"),
    _of_batch(key="tokens", help="Sampled tokens in the batch", unit="tokens"),
    _of_batch(
        key="length",
        help="Mean number of sampled tokens in a completion",
        unit="tokens",
        chart=charts.LENGTH,
        curve="sampled",
    ),
    _of_batch(
        key="given",
        help="Mean number of tokens in a completion that its environment gave",
        unit="tokens",
        chart=charts.LENGTH,
        curve="given",
    ),
    _of_batch(
        key="turns",
        help="Mean number of turns that the policy had in a completion",
        unit="turns",
        chart=charts.LENGTH,
        curve="turns",
    ),
    _of_batch(key="truncated", help="Completions cut off at max_tokens", unit="fraction"),
    _of_batch(
        key="lag_max",
        help="Largest lag of a group in the batch",
        unit="weight versions",
        chart=charts.LAG,
        curve="largest",
        smooth=False,
    ),
    _of_batch(
        key="lag_mean",
        help="Mean lag of the groups in the batch",
        unit="weight versions",
        chart=charts.LAG,
        curve="mean",
    ),
    _of_batch(
        key="generated_tokens_per_second",
        help="Completion tokens that the generators sample",
        unit="tokens per second",
        chart=charts.THROUGHPUT,
        curve="generated",
    ),
    _of_batch(
        key="tokens_per_second",
        help="Completion tokens trained on, over the last steps",
        unit="tokens per second",
        chart=charts.THROUGHPUT,
        curve="trained",
    ),
    _of_batch(key="outstanding", help="Groups between lease and consumption", unit="groups"),
    _of_batch(key="buffered", help="Groups delivered and not yet in a batch", unit="groups"),
    _of_batch(key="healthy", help="Generators that may serve", unit="generators"),
    _of_batch(
        key="sync_seconds",
        help="The last weight sync, from prepare to verified",
        unit="seconds",
        chart=charts.WEIGHT_SYNC,
        curve="sync",
    ),
    _of_batch(
        key="pause_seconds",
        help="How long generation was paused for it",
        unit="seconds",
        chart=charts.WEIGHT_SYNC,
        curve="pause",
    ),
)

COORDINATOR: tuple[Metric, ...] = (*_BATCH, *EVALUATIONS, *_GROUPS, *_RESOURCES, *_LINE_ONLY)
