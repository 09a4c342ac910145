"""What the page of the on-policy experiment says of each look, before its figures."""

HEADINGS = {
    "first": "First look: groups of the student alone",
    "mixed": "Second look: the same stored responses for every method",
    "long": "Third look: smaller steps, and more of them",
    "pilot": "Forms for the fourth look, by validation questions",
    "kept": "Fourth look: the teacher computes new responses alone",
}
# Looks whose methods are trained side by side on one GPU.
SIDE_BY_SIDE = ("long", "kept")
# Of each kind the pilot takes one form.
PILOT_KINDS = (
    ("kd", "kd-t1"),
    ("kd-mixed", "opd-mixed"),
    ("grkd-light", "grkd-forward", "grkd-reverse", "grkd-eighth"),
)
ABOUT = {
    "first": (
        "`kd` learns from stored responses of teacher, student and data, `gkd` from those and the student's own\n"
        "in halves, all others from the student's own. A teacher that is needed is in the GPU's memory; `kd` has its\n"
        "hidden states in the host's, and what making them took is not in its time."
    ),
    "mixed": (
        "This look was designed after the test figures of the first were seen, and asks the same questions: what\n"
        "it finds is weaker for that. All methods learn from the same stored responses of teacher, student and data;\n"
        "for those named `-mixed` the student answers half of each step's prompts anew, for four steps at once. `kd`\n"
        "and `kd-mixed` match the teacher's tokens (T = 2); `grkd-stored` and `grkd-mixed` are the same with pairs of\n"
        "responses, in the order of verifier, then teacher (preset `responses`). Rows are packed, and share their\n"
        "prompts where the attention kernel can. Nothing was searched: rates and forms are those of the first look.\n"
        "Sampling is in a method's time; making the stored responses is in nobody's. Methods named `-long` take 1,000\n"
        "steps, with one seed, in time that is left."
    ),
    "long": (
        "This look was designed after the test figures of both others were seen, and asks the same question\n"
        "with a quarter of the prompts per step: what it finds is weaker for that. The methods of a seed are\n"
        "trained side by side on one GPU ({processes} processes), each for the same time by the clock. So a\n"
        "second of training is not a second of the whole GPU: each slows the others, and what a method did not\n"
        "use of the GPU, others had. `kd` learns from stored responses of teacher, student and data alone (T =\n"
        "2), `opd` and `grpo-teacher-kl` from the student's own alone, sampled for four steps at once. `grkd`\n"
        "samples the groups of a quarter of its prompts and takes the others from the store; all are ordered by\n"
        "the verifier, then the teacher, and the reverse KL to the teacher over the same tokens holds them. So\n"
        "`grkd` and `kd` differ in the divergence, too. `opd-mixed` is `grkd` without its pairs, in time that\n"
        "is left. The form of `grkd` was chosen on a toy of two-digit sums on a CPU, before any run, from one\n"
        "or two seeds: there the reverse KL was better than the forward KL, pairs beside it better than none,\n"
        "and a quarter of own groups better than half; stored groups alone were better still. No learning rate\n"
        "was searched: all methods have that of the first look, times the square root of the batches' ratio.\n"
        "Making the stored responses is in nobody's time. A fault of these runs is against `grkd`: its number\n"
        "of prompts changes from step to step, and where it fell below half, or rose again, the recorded decode\n"
        "step was rebuilt. It took as long to sample a quarter of the prompts as `opd` to sample all,\n"
        "probably for that. Mended since; not measured again."
    ),
    "pilot": (
        "Eight forms, side by side on one GPU ({processes} processes), before any run of the fourth look: which\n"
        "temperature `kd` takes there (`kd`: T = 2, `kd-t1`: T = 1), which divergence the mix without pairs\n"
        "(`kd-mixed`: forward KL at T = 2, `opd-mixed`: reverse KL), and which form `grkd`: `grkd-forward` has pairs\n"
        "beside kd-mixed's divergence with a weight that rises to .5, `grkd-light` to .125, `grkd-reverse` has the\n"
        "reverse KL and .125, `grkd-eighth` is `grkd-light` where the student answers an eighth of the prompts in\n"
        "place of a quarter. The highest of each is taken, whatever the difference; one seed cannot tell close ones\n"
        "apart. No test question was answered. `grkd` had four forms to choose from, the others two or one. A toy of\n"
        "two-digit sums on a CPU (LOG.md) and three looks' test figures were known when these forms were chosen."
    ),
    "kept": (
        "This look was designed after the test figures of the three others were seen, and asks the third's question\n"
        "again: what it finds is weaker for that. What differs from the third look: in a mix of stored and new\n"
        "responses the teacher computes the new ones alone, since the hidden states of the stored ones come from\n"
        "the score stage, as those of `kd` do; sixteen steps are sampled together in place of four, and one pass of\n"
        "the teacher serves them; the decode step is no longer rebuilt; training is longer. Every method that\n"
        "samples has all of that. The methods of a seed are trained side by side on one GPU ({processes} processes),\n"
        "each for the same time by the clock: each slows the others. `kd` learns from stored responses of teacher,\n"
        "student and data alone, `opd` and `grpo-teacher-kl` from the student's own alone. `grkd` and the mix\n"
        "without pairs learn from both; `grkd` orders them by the verifier, then the teacher. Their forms, in\n"
        "recipes/on-policy-kept.yaml, were chosen on validation questions. No learning rate was searched.\n"
        "Making the stored responses is in nobody's time."
    ),
}
