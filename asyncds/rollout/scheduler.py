"""Staleness: which rollouts to start, which to train on, which to give up.

One object owns admission, selection and eviction, so that they can't drift apart. It is pure, and
judges the training leases that are open (`asyncds.rollout.open_leases`): LEASED (a generator works
on it), WAITING (to be granted again), or DELIVERED.

Symbols: B groups per step, p steps per published version, s the next step, v(s) = ⌊s/p⌋ the
learner's version at step s. Lag of a group = v at consumption − oldest version of its tokens.

Admission. The n-th outstanding lease (n from 0) is consumed at step s + ⌊n/B⌋ if nothing is lost.
Started by a generator whose weights have version g, it will then lag by v(s + ⌊n/B⌋) − g. It is
admitted while that is at most `target_lag`. With p = 1:

    target_lag 0, B = 2, s = 0, g = 0:  leases 0 and 1 (consumed at v 0) are admitted, lease 2
    (consumed at v 1) is not, until batch 0 is trained and the generator has v 1: synchronous.
    target_lag 1: leases 0 … 3 are admitted, so generation is one batch ahead.

So at most (target_lag + 1)·B·p groups are between lease and consumption; nothing is sampled in
order to be thrown away.

Selection. Anchored windowed FIFO: a batch is the B oldest delivered leases out of the `window`
places that begin at the oldest lease that is not delivered, its anchor, and those before it.
Younger leases may pass a straggler, but only `window` − 1 of them, however long it takes: the
places of those that were trained or dropped stay in the window until the anchor is delivered.
The hard bound is checked here once more: a lease over `max_lag` is evicted, never selected.

Holding. To study staleness, `hold` makes groups as old as `target_lag` allows: a batch is selected
only while target_lag·p·B leases (or all there are still to come) are delivered. Admission goes by
versions, so that after the first steps every batch lags by `target_lag`, however fast anybody is.
"""

from dataclasses import dataclass

from asyncds.rollout.lifecycle import OpenState
from asyncds.rollout.open_leases import OpenLease, OpenLeases


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A batch, and what was evicted on the way. batch is None while there are too few groups."""

    batch: list[OpenLease] | None
    evicted: list[OpenLease]


class Scheduler:
    """Admits, selects and evicts the training leases of a table."""

    def __init__(
        self,
        *,
        leases: OpenLeases,
        groups_per_step: int,
        target_lag: int,
        max_lag: int,
        window: int,
        publish_every: int,
        total_steps: int,
        hold: bool = False,
    ) -> None:
        if not 0 <= target_lag <= max_lag:
            raise ValueError(f"target_lag {target_lag} must lie between 0 and max_lag {max_lag}")
        if window < groups_per_step:
            raise ValueError(f"window {window} can't hold a batch of {groups_per_step} groups")
        self._leases = leases
        self._per_step = groups_per_step
        self._target_lag = target_lag
        self._max_lag = max_lag
        self._window = window
        self._publish_every = publish_every
        self._total_steps = total_steps
        self._hold = hold
        self.step = 0
        """The next step a batch is to be selected for."""

    def restart(self, step: int) -> None:
        """Go on at `step`."""
        self.step = step

    def version_at(self, step: int) -> int:
        """v(step), the learner's version when it trains batch `step`."""
        return step // self._publish_every

    @property
    def version(self) -> int:
        """v(s), the learner's version at the next step."""
        return self.version_at(self.step)

    def admissible(self, generator_version: int) -> int:
        """How many new leases may start on a generator with these weights."""
        last_step = (generator_version + self._target_lag + 1) * self._publish_every
        steps = min(last_step, self._total_steps) - self.step
        return max(0, steps * self._per_step - self._leases.outstanding)

    def restartable(self, generator_version: int) -> bool:
        """Whether a WAITING lease, begun again on these weights, could still be trained on."""
        return self.version - generator_version <= self._max_lag

    def select(self) -> Selection:
        """Take the batch for `step`, if there is one, and what is too old out of the table.

        After a batch, `step` is the next one.
        """
        evicted = [
            lease
            for lease in self._leases.training
            if lease.state is not OpenState.WAITING and self.version - lease.oldest > self._max_lag
        ]
        for lease in evicted:
            self._leases.remove(lease)
        delivered = [lease for lease in self._in_window() if lease.delivered]
        if (
            len(delivered) < self._per_step
            or self.step >= self._total_steps
            or self._leases.count(OpenState.DELIVERED) < self._held
        ):
            return Selection(batch=None, evicted=evicted)
        batch = delivered[: self._per_step]
        for lease in batch:
            self._leases.remove(lease)
        self.step += 1
        return Selection(batch=batch, evicted=evicted)

    @property
    def _held(self) -> int:
        """How many delivered leases there must be before a batch is taken from them."""
        if not self._hold:
            return 0
        ahead = min(self._target_lag * self._publish_every, self._total_steps - self.step)
        return ahead * self._per_step

    def blockers(self) -> list[OpenLease]:
        """Leases inside the window that the next batch waits for, oldest first."""
        return [lease for lease in self._in_window() if not lease.delivered]

    def _in_window(self) -> list[OpenLease]:
        leases = self._leases.training
        # A delivered lease is no anchor: it only waits for enough others to make a batch, and
        # where places of its window fell to dropped leases there would never be enough.
        anchor = next((lease for lease in leases if not lease.delivered), None)
        return [
            lease for lease in leases if anchor is None or lease.place < anchor.place + self._window
        ]
