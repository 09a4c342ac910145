"""What the data of a language recipe hold: overlap of the splits, lengths, answers that are cut or all the same."""

from collections import Counter
from collections.abc import Iterator

from grkd.data.conversation import shown
from grkd.data.prompts import Example, shared_prompts
from grkd.doctor.finding import Finding, error, note, warning
from grkd.doctor.settings import few_steps
from grkd.doctor.sides import Sides
from grkd.language.examples import from_data

_FEW_HELD_OUT = 30
_SHARE = 0.05  # of the examples, above which a loss is worth a warning
_SAME = 0.3


def look_at_overlap(sides: Sides) -> Iterator[Finding]:
    """Prompts on both sides, prompts that come several times, splits that are too small."""
    train = [example for split, example in sides.examples if split == "train"]
    heldout = [example for split, example in sides.examples if split == "heldout"]
    exact = shared_prompts(heldout, train)
    if exact:
        text = f"{exact} of {len(heldout)} held-out prompts are also in the training data"
        yield warning("overlap", text, "remove them from one of the files; otherwise metrics reward memorisation")
    known = {_loose(example) for example in train}
    near = sum(_loose(example) in known for example in heldout) - exact
    if near > 0:
        text = f"{near} of {len(heldout)} held-out prompts differ from a training prompt only by case or punctuation"
        yield warning("near overlap", text, "remove them from one of the files")
    repeated = len(train) - len({_loose(example) for example in train})
    if repeated > _SHARE * len(train):
        text = f"{repeated} of {len(train)} training prompts occur more than once"
        yield warning(
            "repeated prompts", text, "keep one of each; several answers to a prompt can be given as `responses`"
        )
    if len(heldout) < _FEW_HELD_OUT:
        text = f"{len(heldout)} held-out prompts: intervals will be wide"
        yield note("held out", text, "hold out more, with data.heldout or data.heldout_fraction")
    yield from few_steps(len(train), sides.recipe)


def look_at_answers(sides: Sides) -> Iterator[Finding]:
    """Lengths against limits and contexts, answers that the template cannot write, answers that are all the same."""
    recipe, encoded = sides.recipe, sides.encoded
    total = len(encoded) + sum(sides.left_out.values())
    for reason, count in sides.left_out.most_common(1):
        report = error if count == total else warning
        yield report(
            "left out", f"{count} of {total} examples cannot be rendered: {reason}", "fix the data or template"
        )
    if sides.context and sides.teacher_context and sides.context < sides.teacher_context:
        text = f"the student reads {sides.context} tokens, the teacher {sides.teacher_context}: the smaller one is used"
        yield note("context", text, "no action, unless your prompts are longer")
    new, most = recipe.responses.max_new_tokens, recipe.data.max_prompt_tokens
    room = min([sides.context or 10**9, sides.teacher_context or 10**9]) - new
    lengths = [len(one.prompt_ids) for one in encoded]
    if (long := sum(length > min(most, room) for length in lengths)) > _SHARE * len(lengths):
        what = f"data.max_prompt_tokens ({most})" if most <= room else f"the context less max_new_tokens ({room})"
        report = error if long == len(lengths) else warning
        text = f"{long} of {len(lengths)} prompts are longer than {what} and are skipped"
        yield report("long prompts", text, "lower responses.max_new_tokens, raise the limit, or shorten the prompts")
    answers = [answer for one in encoded for answer in one.answers]
    if from_data(recipe.responses):
        cut = sum(len(answer) > new for answer in answers)
        if cut > _SHARE * len(answers):
            text = f"{cut} of {len(answers)} answers in the data are truncated at responses.max_new_tokens ({new})"
            yield warning("cut answers", text, f"set it to {max(map(len, answers))}, or drop the long ones")
    yield from _sameness(sides)


def _sameness(sides: Sides) -> Iterator[Finding]:
    texts = Counter(
        answer if isinstance(answer, str) else shown(answer)
        for _, example in sides.examples
        for answer in example.answers[:1]
    )
    total = sum(texts.values())
    if total >= 10 and (most := texts.most_common(1)[0])[1] > _SAME * total:
        text = f"{most[1]} of {total} answers are the same: {' '.join(most[0].split())[:60]!r}"
        yield warning("same answers", text, "remove most of them, or the student learns to give this answer always")
    groups = [example for _, example in sides.examples if example.responses]
    tied = [example for example in groups if example.scores and len(set(example.scores)) == 1]
    if groups and len(tied) > _SAME * len(groups):
        text = f"{len(tied)} of {len(groups)} groups have only equal scores, so they have no order to learn from"
        yield warning("tied groups", text, "drop them, or let another ranker order them (score.rankers)")


def _loose(example: Example) -> str:
    """The conversation without case, spaces and signs."""
    words = " ".join(message["content"] for message in example.conversation).lower()
    return "".join(character for character in words if character.isalnum())
