"""The words for what becomes of leases, once each: metrics, journal and pages use these values."""

from enum import StrEnum


class Purpose(StrEnum):
    """The purpose of a lease."""

    TRAIN = "train"
    EVAL = "eval"


class LeaseState(StrEnum):
    """Where a lease stands in the journal (`asyncds.rollout.journal` has the transitions)."""

    LEASED = "leased"
    DELIVERED = "delivered"
    BATCHED = "batched"
    CONSUMED = "consumed"
    COMMITTED = "committed"
    EVICTED = "evicted"
    FAILED = "failed"


class OpenState(StrEnum):
    """The state of an open lease in memory (`asyncds.rollout.open_leases`).

    It waits for a generator, one works on it, or its group waits to be in a batch.
    """

    WAITING = "waiting"
    LEASED = "leased"
    DELIVERED = "delivered"


class LeaseEvent(StrEnum):
    """Events of training leases that are counted: label `event` of `groups_total`."""

    LEASED = "leased"
    DELIVERED = "delivered"
    DUPLICATE = "duplicate"
    EVICTED = "evicted"
    KEPT_WITHOUT_SIGNAL = "kept_without_signal"
    FAILED = "failed"
    BATCHED = "batched"
    CONSUMED = "consumed"


class DropReason(StrEnum):
    """Why a training group is given up: label `reason` of `groups_dropped_total`.

    STALE: too old. ZERO_SIGNAL: nothing to learn from (dynamic sampling). SURPLUS: all steps are
    done. DELETED: its samples were deleted, and it would be trained again. EXPIRED: its last
    attempt overran. FAILED: its last attempt ended otherwise.
    """

    STALE = "stale"
    ZERO_SIGNAL = "zero_signal"
    SURPLUS = "surplus"
    DELETED = "deleted"
    EXPIRED = "expired"
    FAILED = "failed"


class AttemptOutcome(StrEnum):
    """How an attempt without a group ended.

    FAILED: reported, malformed or overrun. DIED, LEFT: its generator did. DISTRUSTED: its generator
    turned out to have other weights than the learner's.
    """

    FAILED = "failed"
    DIED = "died"
    LEFT = "left"
    DISTRUSTED = "distrusted"
