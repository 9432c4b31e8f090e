"""The coordinator's metrics of each task, where a run has several, and of its problems."""

from functools import partial

from asyncds.telemetry.metrics.declaration import Chart, Metric, Section

_DIFFICULTY = Chart(
    title="Difficulty of the problems",
    note="Of those that came so far, by their last groups. Mixed: their last group was right and "
    "wrong; what a curriculum adds is how far the groups that are mixed lie above it.",
    section=Section.TASKS,
    top=1.0,
)

_of_run = partial(Metric, role="coordinator", record="batch", unit="fraction", chart=_DIFFICULTY)
_of_task = partial(Metric, role="coordinator", record="batch", labels={"task": ()})

TASKS: tuple[Metric, ...] = (
    _of_task(
        name="task_groups",
        help="Groups of a task in the last batch",
        unit="groups",
        key="task/{task}/groups",
        chart=Chart(
            title="Groups of each task",
            note="How many of a batch; over many batches, by the tasks' weights.",
            section=Section.TASKS,
            least_parts=2,
        ),
        curve="{task}",
    ),
    _of_task(
        name="task_reward",
        help="Mean reward of a task's completions in the last batch",
        unit="reward",
        key="task/{task}/reward",
        chart=Chart(
            title="Reward of each task",
            note="Mean of each batch. One that falls while others rise pays for them.",
            section=Section.TASKS,
            least_parts=2,
        ),
        curve="{task}",
    ),
    _of_task(
        name="task_correct_fraction",
        help="Correct completions of a task in the last batch: Pass@1",
        unit="fraction",
        key="task/{task}/correct",
        chart=Chart(
            title="Right completions of each task",
            note="Pass@1 on training prompts, of each batch.",
            section=Section.TASKS,
            top=1.0,
            least_parts=2,
        ),
        curve="{task}",
    ),
    _of_task(
        name="task_length",
        help="Mean number of sampled tokens in a task's completions, last batch",
        unit="tokens",
        key="task/{task}/length",
        chart=Chart(
            title="Length of each task's completions",
            note="Tokens that the policy sampled. Long ones have more of a batch's loss.",
            section=Section.TASKS,
            least_parts=2,
        ),
        curve="{task}",
    ),
    _of_task(
        name="task_zero_groups",
        help="Groups of a task in the last batch in which no completion has an advantage",
        unit="fraction",
        key="task/{task}/zero_groups",
        chart=Chart(
            title="Groups without an advantage, of each task",
            note="Nothing is learnt from them. Near 1: the task is solved, or too hard.",
            section=Section.TASKS,
            top=1.0,
            least_parts=2,
        ),
        curve="{task}",
    ),
    _of_run(
        name="solved_problems",
        help="Problems whose last groups were right, of those that came so far",
        key="curriculum/solved",
        curve="solved",
    ),
    _of_run(
        name="hopeless_problems",
        help="Problems whose last groups were wrong, of those that came so far",
        key="curriculum/hopeless",
        curve="hopeless",
    ),
    _of_run(
        name="problems_between",
        help="Problems that are neither, or came too seldom to say, of those that came so far",
        key="curriculum/between",
        curve="in between",
    ),
    _of_run(
        name="mixed_problems",
        help="Problems whose last group had right and wrong completions, of those that came so far",
        key="curriculum/mixed",
        curve="mixed",
    ),
    Metric(
        role="coordinator",
        record="batch",
        key="curriculum/problems",
        help="Problems that came so far",
        unit="problems",
    ),
)
