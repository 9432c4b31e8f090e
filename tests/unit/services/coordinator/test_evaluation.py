"""Evaluation rounds: leases at every temperature, and results against brute force."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, count, pairwise
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields
from pydantic import ValidationError

from asyncds.protocol.codec import GroupArrays, encode, pack_group
from asyncds.protocol.records import EvaluationRecord
from asyncds.protocol.wire import Lease
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import Purpose
from asyncds.rollout.open_leases import OpenLeases
from asyncds.telemetry.metrics.registry import build_metrics
from services.coordinator.batch_facts import batch_facts
from services.coordinator.coordinator import Coordinator
from services.coordinator.evaluation import (
    PART_SAMPLES,
    PART_TOKENS,
    EvaluationRound,
    best_step,
    parts,
)
from services.coordinator.events import EvaluationFinished
from services.coordinator.leases import LeaseBook
from services.coordinator.parts import make_parts
from services.coordinator.rejected_frames import RejectedFrames
from services.coordinator.telemetry import CoordinatorTelemetry
from tests.simulation.simulated_config import make_config
from tests.support.records import evaluation_record
from tests.support.rollout_groups import make_group

Samples = list[tuple[str, bool]]
MULTIPLICITY = {"written": [6, 0, 3], "loose": [2, 0, 1]}


def group(samples: Samples, logprob: float = -0.5) -> GroupArrays:
    """Answers as written and, under a looser equivalence, in lower case."""
    made = make_group(n=len(samples), correct=tuple(ok for _, ok in samples))
    answers = {
        "written": [key for key, _ in samples],
        "loose": [key.lower() for key, _ in samples],
    }
    logprobs = np.full_like(made.logprobs, logprob)
    return GroupArrays(**(vars(made) | {"answers": answers, "logprobs": logprobs}))


def evaluate(
    problems: list[Samples],
    *,
    order: list[int] | None = None,
    cuts: tuple[int, ...] = (),
    sets: Sequence[tuple[str, int]] = (),
) -> EvaluationRecord:
    """The result where each problem's samples come in parts, cut at these places.

    A problem without samples is one that failed.
    """
    table = OpenLeases()
    leases = [
        (table.make(purpose=Purpose.EVAL, row=row, evaluation=1), samples[a:b])
        for row, samples in enumerate(problems)
        for a, b in pairwise([0, *cuts, len(samples)])
    ]
    round = EvaluationRound(
        version=4,
        step=4,
        n_samples=4,
        rows=range(len(problems)),
        temperatures={1: 0.7},
        leases=table,
    )
    for place in order or range(len(leases)):
        assert not round.complete
        lease, samples = leases[place]
        table.remove(lease)
        if samples:
            round.add(lease, group(samples))
        else:
            round.failed("the prompt is too long")
    assert round.complete
    assert round.done == round.total == len(leases)
    (result,) = round.results(
        split="eval", pass_at=(1, 2, 4, 5), multiplicity=MULTIPLICITY, sets=sets
    )
    assert result.id == 1
    return result


def pairs_that_agree(samples: Samples) -> float | None:
    right = [key for key, ok in samples if ok]
    pairs = list(combinations(right, 2))
    return fmean(a == b for a, b in pairs) if pairs else None


problems = st.lists(
    st.lists(st.tuples(st.sampled_from("abcABC"), st.booleans()), min_size=4, max_size=6),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(problems, st.randoms(use_true_random=False))
def test_a_result_is_what_counting_by_hand_gives(some: list[Samples], random: Any) -> None:
    result = evaluate(some)
    order = list(range(len(some)))
    random.shuffle(order)
    assert result == evaluate(some, order=order), "the order of arrival counts for nothing"
    assert (result.version, result.temperature, result.split) == (4, 0.7, "eval")
    assert (result.n_problems, result.n_samples) == (len(some), 4)
    taken = min(map(len, some))
    assert list(result.pass_at_k) == [str(k) for k in (1, 2, 4, 5) if k <= taken]
    for k, chance in result.pass_at_k.items():
        by_hand = fmean(
            fmean(any(ok for _, ok in drawn) for drawn in combinations(samples, int(k)))
            for samples in some
        )
        assert chance == pytest.approx(by_hand)
        low, high = result.pass_at_k_interval[k]
        assert low - 1e-12 <= chance <= high + 1e-12
    distinct = [len({key for key, ok in samples if ok}) for samples in some]
    loose = [len({key.lower() for key, ok in samples if ok}) for samples in some]
    assert result.equivalence == "written"
    assert result.distinct_correct == pytest.approx(fmean(distinct))
    assert result.distinct == pytest.approx({"written": fmean(distinct), "loose": fmean(loose)})
    low, high = result.distinct_correct_interval
    assert 0 <= low <= fmean(distinct) + 1e-12
    assert fmean(distinct) - 1e-12 <= high <= max(distinct) + 1
    overlaps = [pairs_that_agree(samples) for samples in some]
    known = [o for o in overlaps if o is not None]
    assert result.n_defined["self_overlap"] == len(known)
    assert result.self_overlap == (pytest.approx(fmean(known)) if known else None)
    exist = [*MULTIPLICITY["written"], 0, 0]
    variances = [
        float(Fraction(o).limit_denominator(1000) / m - Fraction(1, m * m))
        for o, m in zip(overlaps, exist, strict=False)
        if o is not None and m
    ]
    assert result.n_defined["normalised_variance"] == len(variances)
    assert result.normalised_variance == (
        pytest.approx(fmean(variances), abs=1e-9) if variances else None
    )
    shares = [
        Counter(right).most_common(1)[0][1] / len(right)
        for samples in some
        if (right := [key for key, ok in samples if ok])
    ]
    assert result.n_defined["top_share"] == len(shares)
    assert result.top_share == (pytest.approx(fmean(shares)) if shares else None)
    assert result.entropy == pytest.approx(0.5)
    exist_here = {
        name: fmean(m for m in counts[: len(some)] if m) for name, counts in MULTIPLICITY.items()
    }
    assert result.multiplicity == exist_here, "of the problems where it is known"
    assert result.solution_multiplicity == exist_here["written"]


@settings(deadline=None)
@given(problems, st.sets(st.integers(1, 3)), st.randoms(use_true_random=False))
def test_in_parts_a_result_is_the_same(some: list[Samples], cuts: set[int], random: Any) -> None:
    whole = evaluate(some)
    order = list(range(len(some) * (1 + len(cuts))))
    random.shuffle(order)
    in_parts = evaluate(some, order=order, cuts=tuple(sorted(cuts)))
    assert in_parts == whole


@given(st.integers(1, 100_000), st.integers(1, 3_000_000))
def test_parts_are_all_samples_and_none_is_larger_than_it_may_be(n: int, longest: int) -> None:
    found = parts(n, max_tokens=longest)
    assert [i for part in found for i in part] == list(range(n))
    sizes = [len(part) for part in found]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == 1 or max(sizes) * longest <= PART_TOKENS
    assert max(sizes) <= PART_SAMPLES
    fewer = -(-n // (len(found) - 1)) if len(found) > 1 else None
    assert fewer is None or fewer > PART_SAMPLES or fewer * longest > PART_TOKENS, "too many"


def test_the_papers_largest_evaluation_is_in_parts_that_fit() -> None:
    found = parts(8192, max_tokens=4096)
    assert (len(found), {len(part) for part in found}) == (34, {240, 241})


SOLVED: Samples = [("a", True), ("b", True), ("c", False), ("d", False)]
FAILED: Samples = [("a", False)] * 4


def test_every_set_has_a_result_of_its_own() -> None:
    some = [SOLVED, FAILED, FAILED, SOLVED, SOLVED]
    result = evaluate(some, sets=[("AIME", 2), ("MATH", 3), ("AMC", 7)])
    assert list(result.sets) == ["AIME", "MATH"], "of AMC nothing is evaluated"
    for name, its in (("AIME", some[:2]), ("MATH", some[2:])):
        alone, found = evaluate(its), result.sets[name]
        assert found.pass_at_k == alone.pass_at_k
        assert found.pass_at_k_interval == alone.pass_at_k_interval
        assert found.distinct == alone.distinct
        assert (found.n_problems, found.n_failed) == (len(its), 0)
    assert result.sets["AIME"].multiplicity == {"written": 6, "loose": 2}
    assert result.sets["MATH"].multiplicity == {"written": 3, "loose": 1}
    assert result.pass_at_k["1"] == pytest.approx(0.3)
    again = EvaluationRecord.from_result(result.result())
    assert again == result


def test_parts_of_one_name_are_one_set() -> None:
    result = evaluate([SOLVED, FAILED, SOLVED], sets=[("AIME", 1), ("MATH", 1), ("AIME", 1)])
    assert {name: its.n_problems for name, its in result.sets.items()} == {"AIME": 2, "MATH": 1}
    assert result.sets["AIME"].pass_at_k["4"] == 1.0


def test_problems_that_failed_are_counted_with_the_reason() -> None:
    result = evaluate([SOLVED, [], FAILED, []], sets=[("AIME", 2), ("MATH", 2)])
    assert (result.n_problems, result.n_failed) == (2, 2)
    assert result.failure == "the prompt is too long"
    assert {name: its.n_failed for name, its in result.sets.items()} == {"AIME": 1, "MATH": 1}
    assert result.result()["n_failed"] == 2


def test_an_evaluation_of_an_earlier_version_has_no_sets_and_none_that_failed() -> None:
    earlier = {k: v for k, v in evaluate([SOLVED]).result().items() if k not in ("sets", "failure")}
    record = EvaluationRecord.from_result(earlier)
    assert (record.sets, record.failure, record.n_failed) == ({}, "", 0)


def test_a_round_in_which_no_problem_could_be_evaluated() -> None:
    result = evaluate([[]])
    assert (result.n_problems, result.pass_at_k, result.distinct_correct) == (0, {}, 0.0)
    assert result.self_overlap is result.entropy is None


def open_round(
    path: Path, *, n_problems: int = 3, n_samples: int = 2, **config: Any
) -> tuple[LeaseBook, Journal]:
    settings = make_config(**config)
    journal = Journal(path / "journal.db")
    made = make_parts(
        config=settings,
        journal=journal,
        rejected=RejectedFrames(),
        send=lambda peer, message: None,
        tell=lambda event: None,
        now=0.0,
    )
    made.leases.open_round(version=0, step=0, n_samples=n_samples, rows=range(n_problems))
    return made.leases, journal


def test_a_problem_of_many_samples_is_leased_in_parts_with_the_seeds_of_the_whole(
    tmp_path: Path,
) -> None:
    member: Any = type("Member", (), {"name": "g"})

    def granted(where: str, max_tokens: int) -> tuple[list[Lease], LeaseBook, Journal]:
        (tmp_path / where).mkdir()
        book, journal = open_round(
            tmp_path / where, n_problems=2, n_samples=5, sampling={"max_tokens": max_tokens}
        )
        return [book.hand(e, member, version=0, now=0.0) for e in book.open], book, journal

    whole, _, journal = granted("whole", 8)
    journal.close()
    some, book, journal = granted("parts", 500_000)
    assert [(lease.row, lease.group_size) for lease in whole] == [(0, 5), (1, 5)]
    assert [(lease.row, lease.group_size) for lease in some] == [
        *[(0, 1), (0, 2), (0, 2)],
        *[(1, 1), (1, 2), (1, 2)],
    ]
    for one in whole:
        mine = [lease for lease in some if lease.row == one.row]
        seeds = [lease.seed + i for lease in mine for i in range(lease.group_size)]
        assert seeds == [one.seed + i for i in range(5)]
    entry = book.open.get(some[1].id)
    assert entry is not None
    book.retry(entry, "the prompt is too long", permanent=True, now=0.0)
    assert {e.row for e in book.open} == {1}, "the other parts have the same prompt"
    assert book.round is not None
    for lease in some[3:]:
        left = book.open.get(lease.id)
        assert left is not None
        arrays, sent = group([("a", True)] * lease.group_size), SimpleNamespace(name="g")
        payload = encode(pack_group(arrays))
        book.deliver(left, arrays, payload=payload, by=sent, attempt=1)  # type: ignore[arg-type]
    assert book.round.complete
    (result,) = book.round.results(split="eval", pass_at=(5,), multiplicity={})
    assert (result.n_problems, result.n_failed, result.pass_at_k) == (1, 1, {"5": 1.0})
    journal.finish_evaluation(result)
    assert journal.evaluation_counts(result.id) == [(1, 5, 5)]
    journal.close()


def test_every_problem_is_sampled_at_every_temperature(tmp_path: Path) -> None:
    book, journal = open_round(tmp_path, eval__temperatures=(1.0, 0.6))
    member: Any = type("Member", (), {"name": "g"})
    granted = [book.hand(entry, member, version=0, now=0.0) for entry in book.open]
    journal.close()
    assert [(g.temperature, g.row) for g in granted] == [
        (t, row) for t in (1.0, 0.6) for row in range(3)
    ]
    assert {g.split for g in granted} == {"eval"}
    assert len({g.seed for g in granted}) == 6, "two temperatures share no random numbers"
    assert book.round is not None
    for lease in granted:
        right = lease.temperature == 1.0
        entry = book.open.get(lease.id)
        assert entry is not None
        book.round.add(entry, group([("a", right), ("b", right)]))
    results = book.round.results(split="eval", pass_at=(1,), multiplicity={})
    assert [(r.temperature, r.pass_at_k["1"]) for r in results] == [(1.0, 1.0), (0.6, 0.0)]


def test_the_validation_split_is_evaluated_where_it_is_asked_for(tmp_path: Path) -> None:
    book, journal = open_round(
        tmp_path,
        n_problems=2,
        eval__split="validation",
        task={"kind": "countdown", "n_validation": 2},
    )
    member: Any = type("Member", (), {"name": "g"})
    granted = [book.hand(entry, member, version=0, now=0.0) for entry in book.open]
    journal.close()
    assert [(g.split, g.row) for g in granted] == [("validation", 0), ("validation", 1)]


def test_every_number_of_an_evaluation_is_a_gauge(tmp_path: Path) -> None:
    config, metrics = make_config(eval__temperatures=(0.7,)), build_metrics("coordinator")
    journal = Journal(tmp_path / "journal.db")
    telemetry = CoordinatorTelemetry(
        coordinator=Coordinator(
            config=config, journal=journal, send=lambda peer, message: None, now=0.0
        ),
        config=config,
        run_dir=tmp_path,
        journal=journal,
        metrics=metrics,
    )

    ids = count(1)

    def finish(problems: list[Samples], sets: Sequence[tuple[str, int]] = ()) -> None:
        record = replace_fields(evaluate(problems, sets=sets), id=next(ids))
        telemetry.tell([EvaluationFinished(record=record)], now=0.0)

    finish([[("a", True), ("A", True), ("a", True), ("x", False)]])

    def gauge(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"asyncds_coordinator_{name}", labels)

    assert gauge("pass_at_k", k="1", temperature="0.7") == pytest.approx(0.75)
    low = gauge("pass_at_k_bound", k="1", temperature="0.7", bound="low")
    assert low is not None
    assert 0 < low < 0.75
    assert gauge("evaluation_distinct", equivalence="written", temperature="0.7") == 2
    assert gauge("evaluation_distinct", equivalence="loose", temperature="0.7") == 1
    assert gauge("evaluation_multiplicity", equivalence="written") == 6.0
    assert gauge("evaluation_self_overlap", temperature="0.7") == pytest.approx(1 / 3)
    assert gauge("evaluation_top_share", temperature="0.7") == pytest.approx(2 / 3)
    variance = gauge("evaluation_normalised_variance", temperature="0.7")
    assert variance == pytest.approx(1 / 18 - 1 / 36)
    assert gauge("evaluation_entropy", temperature="0.7") == pytest.approx(0.5)
    assert gauge("evaluation_failed_problems", temperature="0.7") == 0
    finish([SOLVED, FAILED, []], sets=[("AIME", 1), ("MATH", 2)])
    assert gauge("set_pass_at_k", set="AIME", k="4", temperature="0.7") == 1.0
    assert gauge("set_pass_at_k", set="MATH", k="4", temperature="0.7") == 0.0
    assert gauge("set_distinct", set="AIME", equivalence="written", temperature="0.7") == 2
    assert gauge("set_problems", set="MATH", temperature="0.7") == 1
    assert gauge("set_failed_problems", set="MATH", temperature="0.7") == 1
    assert gauge("evaluation_problems", temperature="0.7") == 2
    assert gauge("evaluation_failed_problems", temperature="0.7") == 1
    shown = telemetry.status(0.0).held_out
    assert [(s.name, s.n_problems, s.n_failed) for s in shown] == [
        *[("", 2, 1), ("AIME", 1, 0), ("MATH", 1, 1)]
    ]
    assert (shown[1].pass_["4"], shown[0].base_pass["1"]) == (1.0, 0.75)
    finish([[("a", False)] * 4])
    assert gauge("evaluation_failed_problems", temperature="0.7") == 0
    assert math.isnan(gauge("evaluation_self_overlap", temperature="0.7") or 0.0)
    telemetry.close()
    journal.close()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperatures", (), "at least 1 item"),
        ("temperatures", (1.0, 0.6, 1.0), "has one twice"),
        ("temperatures", (0.0,), "greater than or equal to 0.01"),
        ("temperatures", (float("inf"),), "finite"),
        ("split", "test", "'eval' or 'validation'"),
        ("pass_at", (0,), "greater than or equal to 1"),
    ],
)
def test_what_the_configuration_refuses(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_config(**{f"eval__{field}": value})


def test_an_evaluation_of_a_split_without_problems_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"task\.n_validation 0 holds no problems out"):
        make_config(eval__split="validation")


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9), st.sampled_from([0.6, 1.0]), st.sampled_from([None, 0.0, 0.5, 1.0])
        ),
        max_size=8,
        unique_by=lambda found: found[:2],
    )
)
def test_the_best_step_is_the_newest_with_the_highest_chance(
    found: list[tuple[int, float, float | None]],
) -> None:
    results = [
        evaluation_record(
            1, {"step": step, "temperature": t, "pass@k": {} if p is None else {"1": p}}
        )
        for step, t, p in found
    ]
    best = best_step(results, temperature=1.0, k=1)
    candidates = {step: p for step, t, p in found if t == 1.0 and p is not None}
    if best is None:
        assert not candidates
    else:
        assert all(
            p < candidates[best] or (p == candidates[best] and step <= best)
            for step, p in candidates.items()
        )


def test_diversity_of_a_training_batch() -> None:
    groups = [
        group([("a", True), ("A", True), ("a", True), ("x", False)]),
        group([("b", True), ("y", False), ("y", False), ("z", False)]),
        group([("y", False)] * 4),
    ]
    facts = batch_facts(groups, lags=[0, 2, 1])
    assert facts.solved_groups == facts.mixed_groups == pytest.approx(2 / 3)
    assert facts.distinct == pytest.approx({"written": 1.0, "loose": 2 / 3})
    assert facts.distinct_correct == 1.0, "under the first"
    assert facts.top_share == pytest.approx((2 / 3 + 1) / 2)
    assert facts.self_overlap == pytest.approx(1 / 3)
    assert (facts.lag_mean, facts.lag_max) == (1.0, 2)
    assert batch_facts(groups[2:], lags=[0]).top_share is None


def test_parts_of_rewards_are_means_over_the_completions_that_have_them() -> None:
    ones, halves = np.ones(2, dtype=np.float32), np.array([0, 0.5], dtype=np.float32)
    groups = [
        replace(make_group(), parts={"exact": ones, "brief": halves}),
        replace(make_group(), parts={"exact": 0 * ones}),
    ]
    assert batch_facts(groups, lags=[0, 0]).parts == {"exact": 0.5, "brief": 0.25}
