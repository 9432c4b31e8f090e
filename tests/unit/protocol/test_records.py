"""Records come back from the JSON that people read, which keeps its keys."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.protocol.records import (
    BatchFacts,
    CurriculumFacts,
    EvaluationRecord,
    RecordError,
    RunStatus,
    StepRecord,
    TaskBatch,
)
from tests.support.records import evaluation_record, run_status, step_record

numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.dictionaries(st.text(min_size=1, max_size=9), numbers, max_size=3)
WHOLE = {"step", "version", "groups", "sequences", "tokens", "lag_max", "outstanding", "buffered"}


def records(kind: type[msgspec.Struct], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    drawn = {
        name: st.integers(0) if name in {*WHOLE, "healthy"} else numbers
        for name in kind.__struct_fields__
    }
    return st.builds(kind, **(drawn | fields))


tasks = st.dictionaries(st.text(min_size=1, max_size=9), records(TaskBatch), max_size=3)
facts = records(BatchFacts, distinct=names, parts=names, top_share=st.none() | numbers, tasks=tasks)
curricula = st.none() | records(CurriculumFacts, problems=st.integers(0))
steps = records(StepRecord, batch=st.none() | facts, learner=names, curriculum=curricula)


@given(steps)
def test_a_step_comes_back_from_its_line(record: StepRecord) -> None:
    line = json.loads(json.dumps(record.line(), allow_nan=False))
    assert line["step"] == record.step + 1, "people count from one"
    assert not any(isinstance(value, dict | list) for value in line.values()), "it is flat"
    assert StepRecord.from_line(line) == record


def test_a_line_keeps_its_keys() -> None:
    line = step_record({"step": 3, "learner/ess/lag=0": math.nan, "distinct/written": 2.0}).line()
    assert line["step"] == 3
    assert line["distinct/written"] == 2.0
    assert line["learner/ess/lag=0"] is None, "JSON has no such number"
    assert {"reward", "correct", "lag_mean", "tokens_per_second", "wall_seconds"} <= line.keys()
    assert math.isnan(StepRecord.from_line(line).learner["ess/lag=0"])


def test_a_step_whose_samples_are_gone_has_no_facts() -> None:
    line = msgspec.structs.replace(step_record({"step": 1}), batch=None).line()
    assert not {"reward", "groups", "lag_max"} & line.keys()
    assert StepRecord.from_line(line).batch is None


def test_an_evaluation_comes_back_from_its_result() -> None:
    record = evaluation_record(7, {"pass@k": {"1": 0.5}, "pass@k_interval": {"1": [0.4, 0.6]}})
    result = json.loads(json.dumps(record.result()))
    assert (result["id"], result["pass@k"]) == (7, {"1": 0.5})
    assert (result["made_by"], result["sets"]) == ("", {})
    assert EvaluationRecord.from_result(result) == record


@pytest.mark.parametrize("line", [{}, {"step": 1}, {"step": "one"}])
def test_what_is_no_record_is_refused(line: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        StepRecord.from_line(line)
    with pytest.raises(RecordError):
        EvaluationRecord.from_result(line)


def test_a_status_has_the_keys_of_the_live_page() -> None:
    plain = run_status({"pass": {"1": 0.5}, "history": {"reward": [None, 0.5]}}).plain()
    assert plain["pass"] == {"1": 0.5}
    assert plain["history"] == {"reward": [None, 0.5]}
    assert run_status(plain) == run_status({"pass": {"1": 0.5}, "history": plain["history"]})
    assert RunStatus().plain()["learner"]["phase"] == "not here"
