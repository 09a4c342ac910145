"""What the page of the on-policy experiments says of each, before its results."""

# Newest first, as the page has them.
HEADINGS = {
    "full": "Fourth experiment: ten methods side by side, for about 1,000 steps or more",
    "long": "Third experiment: smaller steps, and more of them",
    "mixed": "Second experiment: the same stored responses for every method",
    "first": "First experiment: groups sampled from the current student alone",
}
# Short names in sentences.
ORDINALS = {"first": "first", "mixed": "second", "long": "third", "full": "fourth"}
ABOUT = {
    "first": (
        "`kd` learns from stored responses of teacher, student and data. `gkd` learns from these for half of the\n"
        "prompts, and from responses sampled from the current student for the other half. All other methods learn\n"
        "from sampled responses alone. For `kd`, the teacher's hidden states were stored before training; the\n"
        "other methods run the teacher in every step, if they need it. The time to make stored responses and\n"
        "hidden states is not counted. Each learning rate is the best of three on validation questions, by short\n"
        "trials."
    ),
    "mixed": (
        "Designed after the test results of the first experiment were known, so its evidence is weaker. All\n"
        "methods learn from the same stored responses of teacher, student and data. The methods named `-mixed`\n"
        "sample new responses from the current student for half of the prompts, four steps at a time. `kd` and\n"
        "`kd-mixed` match the teacher's token probabilities (forward KL, T = 2). `grkd-stored` and `grkd-mixed`\n"
        "add pairs of responses, ordered by the verifier and then by the teacher (preset `responses`). Nothing was\n"
        "searched: learning rates and forms are those of the first experiment. Sampling counts as training time;\n"
        "making the stored responses does not. Methods named `-long` were to take 1,000 steps with one seed, if\n"
        "time was left."
    ),
    "long": (
        "Designed after the test results of the first two experiments were known, so its evidence is weaker. The\n"
        "methods of one seed trained side by side on one GPU ({processes} processes), each for the same time by\n"
        "the clock, so each slows the others. `kd` learns from stored responses alone (forward KL, T = 2). `opd`\n"
        "and `grpo-teacher-kl` learn from responses of the current student alone, sampled four steps at a time.\n"
        "`grkd` samples new groups for a quarter of the prompts and keeps the stored groups of the others. All\n"
        "groups are ordered by the verifier and then by the teacher; the anchor is the reverse KL to the teacher.\n"
        "So `grkd` and `kd` differ in the divergence too. The form of `grkd` was chosen on a toy problem before\n"
        "any run (LOG.md). All methods have the learning rate of the first experiment times the square root of the\n"
        "ratio of the batch sizes. A fault of the code slowed `grkd`: the recorded decoding step was rebuilt\n"
        "whenever the number of prompts changed much, so that sampling for a quarter of the prompts took as long\n"
        "as for all. It was fixed afterwards."
    ),
    "full": (
        "Designed after the test results of the other experiments were known, so its evidence is weaker. The\n"
        "methods of one seed train side by side on {gpus} ({processes} processes), each for the same time by\n"
        "the clock, so each slows the others. {pace}\n\n"
        "- `kd`: stored responses of teacher, student and data; forward KL, T = 2.\n"
        "- `gkd`: stored responses for half of the prompts, responses of the current student for the other half.\n"
        "- `opd`, `grpo`, `grpo-teacher-kl`, `dpo`: responses of the current student alone.\n"
        "- `grkd-*`: stored groups for three quarters of the prompts, groups of the current student for the\n"
        "  others. Pairs of responses (tau = 0.1), whose weight alpha rises from 0 to .5, beside the soft targets\n"
        "  of `kd`. So `grkd` and `kd` differ in the pairs and in a quarter of the responses. The name says who\n"
        "  orders a group, stored groups included.\n\n"
        "Responses are sampled for 16 steps at a time. The teacher's hidden states of stored responses come from\n"
        "the score stage; for new responses the teacher runs once per 16 steps. Nothing was searched: the learning\n"
        "rate is that of the third experiment, and the form of `grkd` was fixed before any run of this experiment,\n"
        "from a toy problem and the third experiment. The time to make the stored responses and their hidden\n"
        "states is not counted."
    ),
}
PACE = (
    "The time was chosen by a pace test of {seconds:g} s per method before the first run: in it the slowest method\n"
    "(`{slowest}`, {ms:.0f} ms per step) would take {steps:,.0f} steps. The pace test trained students without asking\n"
    "them anything; no measure of quality was looked at."
)
