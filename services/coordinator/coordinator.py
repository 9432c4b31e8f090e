"""The coordinator: takes messages in, keeps the desks in order, decides when the run is over.

No sockets and no clock in here: `handle` and `tick` get the time, `send` is given. Whatever is sent
must leave only after the journal's commit; the caller sees to that.
"""

import json
import logging
from collections.abc import Callable

from asyncds.config.schema import RunConfig
from asyncds.fleet.membership import Fleet, Health, Member
from asyncds.fleet.weight_sync import SyncOutcome
from asyncds.protocol import wire
from asyncds.protocol.records import EvaluationRecord, RunStatus, StepRecord
from asyncds.rollout.journal import Journal
from asyncds.rollout.scheduler import Scheduler
from asyncds.transport.rejections import LogLimiter
from services.coordinator.attempts import AttemptOutcome
from services.coordinator.batches import BatchServer
from services.coordinator.checkpoints import CheckpointTracker
from services.coordinator.evaluation import Due, EvaluationPlan
from services.coordinator.leases import LeaseBook
from services.coordinator.pace import Pace
from services.coordinator.retention import Retention
from services.coordinator.state import State
from services.coordinator.status import status, waiting_for
from services.coordinator.steps import StepRecorder
from services.coordinator.unverified import UnverifiedGroups
from services.coordinator.watchdog import Watchdog
from services.coordinator.weight_syncs import LEARNER, WeightSyncManager
from services.coordinator.worker_group import WorkerGroup

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
"""How long processes may take to leave at the end."""
BASE_VERSION = 0
"""Of the weights of the model that a run begins with."""
SYNCS_PER_START = 1_000_000
"""Weight syncs are numbered from another such multiple whenever the coordinator starts."""


class Coordinator:
    """One run. `on_step` gets every trained batch's record and the lag of each of its groups,
    `on_evaluation` every result.
    `on_rewind` is called when the journal may have gone back to an earlier step, `on_stall` with
    who waits for whom whenever nothing has moved for a while, `on_broadcast` with how a broadcast
    of weights ended, and when."""

    def __init__(
        self,
        *,
        config: RunConfig,
        journal: Journal,
        send: Callable[[bytes, wire.Message], None],
        on_step: Callable[[StepRecord, list[int]], None],
        on_evaluation: Callable[[EvaluationRecord], None],
        on_rewind: Callable[[], None],
        on_stall: Callable[[str], None],
        on_broadcast: Callable[[SyncOutcome, float], None],
        now: float,
    ) -> None:
        self.config = config
        self._journal = journal
        self._welcome = wire.Welcome(run=config.name, id=journal.run_id())
        self._send = send
        self._on_evaluation = on_evaluation
        self._on_rewind = on_rewind
        self._on_stall = on_stall
        self._log_limiter = LogLimiter()
        self.rejected_frames = 0
        r, c, w = config.rollout, config.coordinator, config.weights
        self.fleet = Fleet(suspect_seconds=c.suspect_seconds, dead_seconds=c.dead_seconds)
        self.scheduler = Scheduler(
            groups_per_step=r.groups_per_step,
            target_lag=r.resolved_target_lag,
            max_lag=r.max_lag,
            window=r.resolved_window,
            publish_every=w.publish_every,
            total_steps=config.steps,
            hold=r.hold,
        )
        self.leases = LeaseBook(
            config=config,
            journal=journal,
            scheduler=self.scheduler,
            fleet=self.fleet,
            send=send,
            reject=self.reject,
        )
        self.batches = BatchServer(
            journal=journal,
            leases=self.leases,
            version_at=self.scheduler.version_at,
            send=send,
        )
        starts = int(journal.meta("starts") or 0)
        journal.set_meta("starts", str(starts + 1))
        self.weights = WeightSyncManager(
            fleet=self.fleet,
            prepare_seconds=w.prepare_seconds,
            transfer_seconds=w.transfer_seconds,
            probe_every=w.probe_every,
            probe_tolerance=config.probe_tolerance,
            first_sync=1 + starts * SYNCS_PER_START,
            send=send,
            on_go=self.leases.expect_version,
            on_mismatch=self.leases.distrust,
            on_end=on_broadcast,
        )
        self.pace = Pace(journal=journal, now=now)
        self._steps = StepRecorder(
            journal=journal,
            fleet=self.fleet,
            scheduler=self.scheduler,
            weights=self.weights,
            pace=self.pace,
            on_step=on_step,
        )
        self._unverified = UnverifiedGroups(fleet=self.fleet, unverified=self.weights.unverified)
        trained, selected = journal.progress()
        journal.drop_evaluations()
        self.leases.restore(selected)
        self.batches.restore(trained, ranks=1)
        self._plan = self._remaining_evaluations()
        self._due: Due | None = None
        self.learner = WorkerGroup(now=now)
        self._tokenizer = ""
        self._data = ""
        self.checkpoints = CheckpointTracker(
            journal=journal, evaluation=config.eval, checkpoint=config.checkpoint
        )
        self.retention = Retention(
            journal=journal, limit_bytes=int(config.coordinator.journal_gb * 2**30)
        )
        self.watchdog = Watchdog(seconds=config.coordinator.watch_seconds, now=now)
        self._drained_at: float | None = None
        self._finish_reason = ""
        self._status = State.FINISHED
        self.state = State.STARTING
        self.message = ""
        self._recalled = False
        self._evaluated = False
        if not config.trains:
            # What the engines have loaded is what there is.
            self.weights.published = BASE_VERSION
            self.fleet.published(BASE_VERSION)
            self.leases.expect_version(BASE_VERSION)
        if (reason := journal.stop_reason()) is not None:
            self._recall_stop(reason)

    # --- messages -------------------------------------------------------------------------------

    def handle(self, peer: bytes, message: wire.ToCoordinator, now: float) -> None:
        """One message from `peer`."""
        if self.state.final:
            self._see_off(peer, message, now)
            return
        match message:
            case wire.GeneratorHello():
                self._welcome_generator(peer, message, now)
            case wire.LearnerHello():
                self._welcome_learner(peer, message, now)
            case wire.Stop(reason=reason, failed=failed):
                self.stop(reason, failed=failed)
            case _:
                if self.learner.has(peer):
                    self._from_learner(peer, message, now)
                elif member := self.fleet.by_peer(peer):
                    self._from_generator(member, message, now)
                else:
                    self._send(peer, wire.Identify())

    def reject(self, peer: bytes, reason: str, now: float) -> None:
        """A frame that is not a message, or says what its sender can't say. Every one is counted,
        and one a minute of each sender logged."""
        self.rejected_frames += 1
        if self._log_limiter.allows(peer.hex(), now):
            # As a literal, since it may quote the frame.
            log.warning("frame from %s rejected: %.300r", peer[:40], reason)

    def _refuse(self, peer: bytes, name: str, reason: str, now: float) -> None:
        """Somebody introduced himself who can't take part."""
        self.reject(peer, f"{name[:40]} is refused: {reason}", now)
        self._send(peer, wire.Refused(reason=reason))

    def _from_generator(self, member: Member, message: wire.ToCoordinator, now: float) -> None:
        self.fleet.seen(member.name, now)
        match message:
            case wire.GeneratorHeartbeat(leases=leases, stats=stats):
                member.stats = stats
                self.leases.mentioned(member, leases, now)
                self._send(member.peer, wire.Ack(leases=[]))
            case wire.Delivered():
                self._delivered(member, message, now)
            case wire.LeaseFailed():
                self._send(member.peer, self.leases.failed(member, message))
            case wire.Prepared():
                self.weights.prepared(member.name, message, now)
            case wire.Applied():
                self.weights.applied(member.name, message, now)
            case wire.SyncFailed():
                self.weights.failed(member.name, message, now)
            case wire.Bye(reason=reason):
                log.info("%s leaves: %s", member.name, reason)
                self._forget(member, f"left ({reason})", AttemptOutcome.LEFT, now)
            case _:
                self.reject(member.peer, f"a generator said {type(message).__name__}", now)

    def _delivered(self, member: Member, message: wire.Delivered, now: float) -> None:
        before = self.leases.counts.events["delivered"]
        unverified = self.weights.unverified(member.name)
        answer = self.leases.delivered(member, message, now, unverified=unverified)
        if answer is None:
            self._unverified.add(member, message)
            return
        self._send(member.peer, answer)
        if self.leases.counts.events["delivered"] > before:
            self.watchdog.moved(now)

    def _from_learner(self, peer: bytes, message: wire.ToCoordinator, now: float) -> None:
        self.learner.spoke(now)
        match message:
            case wire.LearnerHeartbeat():
                self._send(peer, self._learner_ack())
                if message.rank == 0:
                    # One of before may come late.
                    self.weights.staged = max(self.weights.staged, message.staged)
                    self.learner.phase = message.phase
                    if self.checkpoints.saved(message.checkpoint):
                        self.watchdog.moved(now)
            case wire.BatchRequest():
                self._batch_request(peer, message, now)
            case wire.Prepared():
                self.weights.prepared(LEARNER, message, now)
            case wire.Sent():
                self.weights.sent(message, now)
            case wire.SyncFailed():
                self.weights.failed(LEARNER, message, now)
            case wire.Bye(reason=reason):
                log.info("a learner rank leaves: %s", reason)
                self._learner_leaves(peer, now)
            case _:
                self.reject(peer, f"a learner said {type(message).__name__}", now)

    def _learner_ack(self) -> wire.LearnerAck:
        round = self.leases.round
        keep = self.checkpoints.keep([self._plan.next_step, round.step if round else None])
        return wire.LearnerAck(
            keep=keep if self.config.checkpoint.keep_best else [], evaluating=round is not None
        )

    def _learner_leaves(self, peer: bytes, now: float) -> None:
        self.learner.leave(peer)
        if 0 not in self.learner.peers:
            self.weights.learner_lost(now)

    def _see_off(self, peer: bytes, message: wire.ToCoordinator, now: float) -> None:
        """The run is over: whoever says a word, the first `Drain` may be lost, is told to leave."""
        member = self.fleet.by_peer(peer)
        match message:
            case wire.Bye() if member is not None:
                self.fleet.leave(member.name)
            case wire.Bye():
                self._learner_leaves(peer, now)
            case wire.GeneratorHello() | wire.LearnerHello():
                self._send(peer, self._welcome)
                self._send(peer, self._drain())
            case _:
                self._send(peer, self._drain())

    def _drain(self) -> wire.Drain:
        return wire.Drain(reason=self.message or "the run is finished")

    def _batch_request(self, peer: bytes, message: wire.BatchRequest, now: float) -> None:
        if self.learner.peers.get(message.rank) != peer:
            self.reject(peer, f"asks for the batch of rank {message.rank}, which it is not", now)
            return
        trained = self.batches.request(peer, message)
        if trained is not None:
            self.watchdog.moved(now)
            self._steps.trained(trained, now)

    # --- introductions --------------------------------------------------------------------------

    def _welcome_generator(self, peer: bytes, hello: wire.GeneratorHello, now: float) -> None:
        reason = self._objection(hello.protocol, hello.tokenizer) or self._data_objection(hello)
        if not reason and self.fleet.buried(hello.incarnation):
            if not self.fleet.taken(hello.name, hello.incarnation):
                silent = "its silence was taken for its death, and its leases went to others"
                self._send(peer, wire.GivenUp(reason=silent))
                return
            reason = "another of its name took its place: give every generator a name of its own"
        if reason:
            self._refuse(peer, hello.name, reason, now)
            return
        known = self.fleet.get(hello.name)
        if known is None or known.incarnation != hello.incarnation:
            if known is not None and known.health is not Health.DEAD:
                self._forget(known, "was replaced by a new process", AttemptOutcome.DIED, now)
            self._tokenizer, self._data = hello.tokenizer, hello.data
            self.leases.rows = hello.rows
            self.leases.multiplicity = hello.multiplicity
            member = Member(
                name=hello.name,
                incarnation=hello.incarnation,
                peer=peer,
                workers=hello.workers,
                capacity=hello.capacity,
                joined=now,
                last_seen=now,
                metrics=hello.metrics,
            )
            self.fleet.join(member)
            if not self.config.trains:
                self.fleet.verified(member.name, BASE_VERSION)
            self.leases.adopt(member, hello.leases, now)
            log.info("%s joined", hello.name)
        else:
            self.fleet.reached(known.name, peer)
            self.fleet.seen(known.name, now)
        self._send(peer, self._welcome)

    def _data_objection(self, hello: wire.GeneratorHello) -> str:
        if self._data and hello.data != self._data:
            return (
                "its task data differs from the other generators': give every generator the same "
                "task configuration and data set"
            )
        for split in ("train", self.config.eval.split):
            if hello.rows.get(split, 0) < 1:
                return f"its task has no rows in the split {split!r}: give the task some"
        return ""

    def _welcome_learner(self, peer: bytes, hello: wire.LearnerHello, now: float) -> None:
        gangs = json.loads(self._journal.meta("learners") or "[]")
        reason = self._objection(hello.protocol, hello.tokenizer)
        if hello.incarnation in gangs[:-1]:
            reason = "another learner took over this run; restart it to go on from a checkpoint"
        if not self.config.trains:
            reason = "this run trains nothing (steps is 0) and has no learner"
        if not reason and hello.rank >= hello.ranks:
            reason = f"it says it is rank {hello.rank} of {hello.ranks}"
        if reason:
            self._refuse(peer, hello.name, reason, now)
            return
        self.learner.spoke(now)
        if hello.rank == 0 and self.learner.incarnation != hello.incarnation:
            self._adopt_learner(hello, gangs, now)
        elif hello.incarnation != self.learner.incarnation:
            return  # rank 0 introduces the gang; this rank will ask again
        self._tokenizer = hello.tokenizer
        self.learner.peers[hello.rank] = peer
        if hello.rank == 0:
            self.weights.learner_peer = peer
        self._send(peer, self._welcome)

    def _adopt_learner(self, hello: wire.LearnerHello, gangs: list[str], now: float) -> None:
        """A gang that is known goes on where the journal stands: it has the batch that was selected
        last or will ask for it, and will report the one it trained last. Another gang starts from
        a checkpoint; what was trained after that is available again."""
        if hello.incarnation not in gangs:
            if hello.step < self.checkpoints.newest:
                log.warning(
                    "the learner starts at step %d although step %d was saved: that checkpoint is "
                    "damaged or gone, and what came after is trained again",
                    hello.step,
                    self.checkpoints.newest,
                )
            self._journal.set_meta("learners", json.dumps([*gangs, hello.incarnation]))
            self.weights.learner_replaced(now)
            self._drop_round()
            self._journal.rewind(hello.step)
            self._journal.drop_evaluations(from_step=hello.step)
            self.checkpoints.restarted(hello.step)
            self._plan = self._remaining_evaluations()
            if self.state is State.FINISHING and self._status is State.FINISHED:
                self.state = State.RUNNING  # what it has lost since its checkpoint is trained again
        trained, selected = self._journal.progress()
        if hello.incarnation not in gangs:
            trained = selected = hello.step
        self.leases.vocab_size = hello.vocab_size
        self.leases.restore(selected)
        self.batches.restore(trained, hello.ranks)
        self._on_rewind()
        self.learner.replace(hello.incarnation)
        log.info("the learner joined at step %d with %d ranks", hello.step, hello.ranks)

    def _objection(self, protocol: int, tokenizer: str) -> str:
        if protocol != wire.PROTOCOL:
            return (
                f"it speaks protocol {protocol}, this coordinator {wire.PROTOCOL}: install the "
                "same version of asyncds everywhere"
            )
        if self._tokenizer and tokenizer != self._tokenizer:
            return (
                "its tokenizer differs from the one of those that joined before: give learner and "
                "generators the same model and tokenizer"
            )
        return ""

    def _remaining_evaluations(self) -> EvaluationPlan:
        e = self.config.eval
        plan = EvaluationPlan(
            every=e.every,
            n_samples=e.n_samples,
            interim_samples=e.interim_samples,
            steps=self.config.steps,
        )
        plan.skip_done([done.step for done in self._journal.evaluations()])
        return plan

    def _forget(self, member: Member, reason: str, outcome: AttemptOutcome, now: float) -> None:
        self.fleet.leave(member.name)
        self.leases.reclaim(member, outcome)
        self.weights.lost(member, reason, now)

    # --- time -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Everything that follows from what is known, and from time passing."""
        for member in self.fleet.tick(now):
            log.warning("%s is dead: silent for %.0f s", member.name, now - member.last_seen)
            self.leases.reclaim(member, AttemptOutcome.DIED)
            self.weights.lost(member, "died", now)
        silent = self.learner.silent(now)
        if self.learner.here and silent > self.config.coordinator.dead_seconds:
            log.warning("the learner has been silent for %.0f s", silent)
            self.learner.replace("")
            self.weights.learner_lost(now)
        complete = self.learner.here or not self.config.trains
        if self.state is State.STARTING and complete and self.fleet.healthy():
            self.state = State.RUNNING
        trained = self.batches.trained
        begun = self.state is State.RUNNING or (
            self.state is State.STARTING and not self._plan.base_is_due
        )
        if begun and trained >= self.config.steps:
            self._finish("all steps are done", State.FINISHED)
            self.leases.end_surplus()
        if self.state is State.FINISHING:
            self._dismiss()
        if not self.state.final:
            self._watch(now)
            for member, message in self._unverified.take():
                self._delivered(member, message, now)
            self.leases.expire(now)
            self._evaluate(now)
            if self.leases.round is None:
                self.weights.reconcile(now)
            self.leases.grant(now)
            # Until the base model is evaluated the learner keeps its weights, so that they can be
            # sent again, whoever dies meanwhile.
            if not (self._plan.base_is_due and self.batches.trained == 0):
                self.batches.fill()
            self.retention.turn()
            self._end(now)

    def _evaluate(self, now: float) -> None:
        round = self.leases.round
        if round is None:
            self._due = self._due_evaluation()
            if self._due is not None and self.leases.rows and self.fleet.healthy():
                published = self.weights.published * self.config.weights.publish_every
                step = min(published, self.config.steps)
                self.leases.open_round(
                    version=self.weights.published, step=step, n_samples=self._due.n_samples
                )
                self.watchdog.moved(now)
            return
        if round.complete:
            results = round.results(
                split=self.config.eval.split,
                pass_at=self.config.eval.pass_at,
                multiplicity=self.leases.multiplicity,
            )
            for result in results:
                self._journal.finish_evaluation(result)
            self.leases.close_round()
            self._evaluated = True
            self._plan.done()
            self.checkpoints.evaluated()
            self.watchdog.moved(now)
            for result in results:
                self._on_evaluation(result)
        elif not any(m.health in (Health.HEALTHY, Health.SUSPECT) for m in self.fleet):
            log.warning("evaluation of version %d given up: no generator has it", round.version)
            self._journal.drop_evaluations()
            self.leases.close_round()

    def _due_evaluation(self) -> Due | None:
        if self.weights.current is not None or not self.leases.accepting:
            return None
        published = self.weights.published
        if published < 0:
            return None
        steps = self.config.steps
        last = published == self.scheduler.version_at(steps)
        step = published * self.config.weights.publish_every
        return self._plan.due(steps if last else step, base=published == 0)

    # --- the end --------------------------------------------------------------------------------

    def stop(self, reason: str, *, failed: bool = False) -> None:
        """End in good order before all steps are done. A coordinator that dies before `ended` still
        knows it. failed: the run can't go on; otherwise it was interrupted."""
        status = State.FAILED if failed else State.INTERRUPTED
        if not self.state.final:
            self._journal.remember_stop(reason)
        if not self.learner.here:
            self._conclude(status, reason)
        elif self.state in (State.STARTING, State.RUNNING):
            self._finish(reason, status)
            self._drop_round()
            self.leases.cancel_all()
        elif self.state is State.FINISHING and self._status is State.FINISHED:
            self._status, self.message = status, reason
            self._drop_round()
            self.leases.cancel_all()

    def _recall_stop(self, reason: str) -> None:
        """The coordinator before this one was told to stop and died before it had."""
        log.warning("the run was told to stop (%s) before this coordinator started", reason)
        self._recalled = True
        self._finish(reason, State.INTERRUPTED)
        self.leases.cancel_all()

    def ended(self, now: float) -> None:
        """The process ends, the run is over: who starts the coordinator again resumes the run."""
        self._journal.forget_stop()
        if not self.found_finished:
            self.pace.keep(now)

    def _drop_round(self) -> None:
        if self.leases.round is not None:
            self._journal.drop_evaluations()
            self.leases.close_round()

    def _finish(self, reason: str, status: State) -> None:
        self.state, self._status, self._finish_reason = State.FINISHING, status, reason
        self.message = "" if status is State.FINISHED else reason

    def _dismiss(self) -> None:
        """Tell waiting ranks that there are no more batches; a rank in a step asks again later."""
        for peer in self.batches.dismiss():
            self._send(peer, wire.Finish(reason=self._finish_reason))

    def _watch(self, now: float) -> None:
        if not self.watchdog.barks(now):
            return
        reason = f"no progress for {self.watchdog.still(now):.0f} s: {self.waiting_for()}"
        log.error("%s", reason)
        for peer in [*self.learner.peers.values(), *(m.peer for m in self.fleet.alive())]:
            self._send(peer, wire.Dump(reason=reason))
        self._on_stall(reason)

    def _end(self, now: float) -> None:
        limit = self.config.coordinator.stall_seconds
        if self.watchdog.still(now) > limit:
            self._conclude(
                State.FAILED,
                f"no progress for {limit:g} s: {self.waiting_for()}",
            )
        elif self.state is State.FINISHING:
            stopped, here = self._status is not State.FINISHED, self.learner.here
            dead = not here and self.learner.silent(now) > self.config.coordinator.dead_seconds
            saved = self.checkpoints.newest >= self.batches.trained or not self.config.trains
            if stopped and dead:
                # Nobody has steps to save any more, like in `stop`.
                self._conclude(self._status, self.message)
            elif self._recalled and not here:
                pass  # it may be there, and has to be told
            elif saved and (stopped or self._plan.finished):
                self._conclude(self._status, self.message)

    def _conclude(self, state: State, message: str) -> None:
        if self.state.final:
            return
        self._drop_round()
        self.state, self.message = state, message
        for peer in [*self.learner.peers.values(), *(m.peer for m in self.fleet)]:
            self._send(peer, self._drain())

    def over(self, now: float) -> bool:
        """The run is over and everybody has left, or had time enough to."""
        if not self.state.final:
            return False
        if self._drained_at is None:
            self._drained_at = now
        left = not self.learner.here and all(m.health is Health.DEAD for m in self.fleet)
        return left or now - self._drained_at > DRAIN_SECONDS

    @property
    def found_finished(self) -> bool:
        """The run was finished before this coordinator started: it has nothing of it to tell."""
        return self.state is State.FINISHED and not (self.learner.heard or self._evaluated)

    # --- for people -----------------------------------------------------------------------------

    def waiting_for(self) -> str:
        """Who waits for whom, in a sentence."""
        return waiting_for(self)

    def status(self, now: float) -> RunStatus:
        """The run at a glance, as far as it is known here."""
        return status(self, now)
