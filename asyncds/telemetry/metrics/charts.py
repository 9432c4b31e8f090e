"""The charts that several metrics share, or that are drawn with more than their curves.

A metric that has a chart of its own declares it on the spot.
"""

from asyncds.telemetry.metrics.declaration import Chart, Section

RIGHT = Chart(
    title="Right completions and groups",
    note="Solved: with a right completion. Groups that are all right or all wrong teach nothing; "
    "mixed ones do.",
    section=Section.REWARD,
    top=1.0,
)
REWARD_PARTS = Chart(
    title="Parts of the reward",
    note="Mean of each reward function, before its weight. One that does not move teaches nothing.",
    section=Section.REWARD,
    least_parts=2,
)
LENGTH = Chart(
    title="Length of completions",
    note="Tokens that the policy sampled and that an environment gave, and the policy's turns.",
    section=Section.REWARD,
)
PASS_AT_K = Chart(
    title="Pass@k while training",
    note="Held-out problems, on pinned weights. k = 1 up and the largest k down: right answers are "
    "sharpened, not found.",
    section=Section.HELD_OUT,
    top=1.0,
)
PASS_AT_K_BOUND = Chart(
    title="95 % interval of Pass@k",
    note="Over the choice of problems, not over training seeds. Curves that stay within it have "
    "not moved.",
    section=Section.HELD_OUT,
)
PASS_BY_SET = Chart(
    title="Pass@k by evaluation set",
    note="Each set of held-out problems alone; the pooled curve hides a small one behind a large.",
    section=Section.HELD_OUT,
    top=1.0,
)
HELD_OUT_DISTINCT = Chart(
    title="Distinct correct answers, held out",
    note="Per held-out problem, by what counts as the same; they grow with the number of samples.",
    section=Section.HELD_OUT,
)
HELD_OUT_SAMENESS = Chart(
    title="Sameness, held out",
    note="Chance that two right samples of a problem are the same, and share of the most frequent "
    "one. Both rise in a collapse.",
    section=Section.HELD_OUT,
    top=1.0,
)
SAMENESS = Chart(
    title="Sameness",
    note="Among the right ones of a training group: chance that two are the same, and share of the "
    "most frequent one. Rising for long: the policy collapses.",
    section=Section.DIVERSITY,
    top=1.0,
)
ENTROPY = Chart(
    title="Entropy",
    note="Of the policy, nats per token. Falling on right answers alone: they are being sharpened.",
    section=Section.DIVERSITY,
)
CLIPPED = Chart(
    title="Clipped, truncated, masked",
    note="Shares of tokens, by the sign of their advantage. Large: much is sampled and little is "
    "learned from it.",
    section=Section.OBJECTIVE,
)
LAG = Chart(
    title="Lag at consumption",
    note="Weight versions between the oldest token and the learner; dashed: the bound.",
    section=Section.STALENESS,
    bound="rollout.max_lag",
)
ESS = Chart(
    title="Effective sample size",
    note="Share of a batch's tokens that the importance weights leave, by lag of the token. "
    "Falling with the lag: old tokens count for little.",
    section=Section.STALENESS,
    top=1.0,
    least_parts=2,
)
THROUGHPUT = Chart(
    title="Throughput",
    note="Tokens per second over the last steps. Generated well above trained: groups are thrown "
    "away.",
    section=Section.TIME,
)
LEARNER_TIME = Chart(
    title="Time of a step",
    note="What the learner's seconds went to: waiting for rollouts, training, bringing out "
    "weights, writing checkpoints.",
    section=Section.TIME,
)
WEIGHT_SYNC = Chart(
    title="Weight sync",
    note="Seconds from prepare to verified, and how long generation stood still.",
    section=Section.TIME,
)
