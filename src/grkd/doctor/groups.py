"""Groups of responses to 32 prompts: cut or equal ones, the teacher's position bias, how rankers agree."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from grkd import objectives
from grkd.data.chat import decode_response, encode_prompt, stop_token_ids
from grkd.data.language import vocabulary_size
from grkd.doctor.finding import Finding, note, warning
from grkd.doctor.sides import Encoded, Sides
from grkd.language.examples import from_data, groups_from_data
from grkd.language.scorer import panel_of
from grkd.models.generate import generate_responses
from grkd.rankers import PER_GROUP, PER_RESPONSE, Panel, Resources, agreement
from grkd.recipe import LanguageRecipe
from grkd.teacher.local import LocalTeacher

_PROMPTS = 32
_AT_A_TIME = (2, 6, 8, 8, 8)  # prompts answered between two looks at the clock: the first ones show the pace
_MOST = 4  # responses per prompt
_LONGEST = {"cpu": 64, "cuda": 128}  # new tokens
_CUT, _SAME, _BIAS, _TAU, _ABSTAINS = 0.2, 0.3, 0.1, 0.2, 0.5


def look_at_groups(sides: Sides, teacher: Any, reader: LocalTeacher, *, deadline: float) -> Iterator[Finding]:
    """deadline: of the clock, after which no more prompts are answered."""
    recipe = sides.recipe
    if from_data(recipe.responses) and not groups_from_data(recipe.responses):
        return
    if groups_from_data(recipe.responses):
        known = [(one, one.answers[: recipe.responses.n]) for one in sides.encoded if len(one.answers) > 1]
        groups = known[:_PROMPTS]
    else:
        groups = list(_written(sides, teacher, deadline))
        yield from _cut(sides, groups, longest(teacher))
    groups = [(one, answers) for one, answers in groups if all(answers)]
    if compares(recipe) and groups:
        yield from _rankers(sides, reader, groups)


def compares(recipe: LanguageRecipe) -> bool:
    """Whether the order of a prompt's responses is read by any method."""
    return any("response" in objectives.load(one.name, **one.options).levels for one in recipe.methods)


Groups = list[tuple[Encoded, list[list[int]]]]


def _written(sides: Sides, teacher: Any, deadline: float) -> Iterator[tuple[Encoded, list[list[int]]]]:
    """Responses of the teacher, in its own tokens, to as many prompts as the time allows."""
    settings, tokenizer = sides.recipe.responses, sides.tokenizer if sides.shared else sides.teacher_tokenizer
    assert tokenizer is not None
    n = min(_MOST, max(settings.n, 2 if compares(sides.recipe) else 1))
    stops = stop_token_ids(tokenizer, teacher.generation_config)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    left = iter(sides.encoded[:_PROMPTS])
    for number, at_a_time in enumerate(_AT_A_TIME):
        part = list(itertools.islice(left, at_a_time))
        if not part or (number and time.monotonic() > deadline):
            return
        prompts = [
            ids for one in part for ids in [encode_prompt(tokenizer, one.example, system=sides.recipe.data.system)] * n
        ]
        found: list[list[int]] = [[] for _ in prompts]
        for answers in generate_responses(
            teacher,
            prompts,
            max_new_tokens=min(settings.max_new_tokens, longest(teacher)),
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop_ids=stops,
            pad_token_id=pad,
            seed=sides.recipe.seeds[0],
            method="dynamic",
            vocabulary=vocabulary_size(tokenizer),
        ):
            for answer in answers:
                found[answer.index] = answer.response_ids
        for place, one in enumerate(part):
            yield one, found[place * n : (place + 1) * n]


def longest(model: Any) -> int:
    """New tokens that there is time for."""
    return _LONGEST.get(model.device.type, 64)


def _cut(sides: Sides, groups: Groups, most: int) -> Iterator[Finding]:
    limit = sides.recipe.responses.max_new_tokens
    answers = [ids for _, each in groups for ids in each]
    cut = sum(len(ids) >= min(limit, most) for ids in answers)
    if answers and cut > _CUT * len(answers):
        text = f"{cut} of {len(answers)} responses of the teacher do not end within {min(limit, most)} tokens"
        if limit <= most:
            yield warning(
                "cut responses",
                text,
                "raise responses.max_new_tokens; truncated responses teach the student not to stop",
            )
        else:
            do = f"no action if they end within responses.max_new_tokens ({limit}); the doctor stops at {most}"
            yield note("cut responses", text, do)
    several = [each for _, each in groups if len(each) > 1]
    same = sum(len({tuple(ids) for ids in each}) == 1 for each in several)
    if several and same > _SAME * len(several):
        text = f"to {same} of {len(several)} prompts all responses of the teacher are equal"
        yield warning("equal responses", text, "raise responses.temperature or responses.candidates")


def _rankers(sides: Sides, reader: LocalTeacher, groups: Groups) -> Iterator[Finding]:
    """The recipe's rankers, and the teacher's log-probability and choice beside them."""
    recipe = sides.recipe
    with panel_of(recipe.score, recipe.teacher) as panel:
        if "endpoint" in panel.needs:
            return  # look_at_judges says more
        if panel.reads - {*PER_GROUP, *PER_RESPONSE}:
            yield note("rankers", "they read columns of the records and were not tested", "nothing")
            return
        panel.open(Resources(teacher=lambda: reader, device=reader.model.device, batch_size=reader.batch_size))
        yield from _opinions(sides, panel, groups)


def _opinions(sides: Sides, panel: Panel, groups: Groups) -> Iterator[Finding]:
    foreign = not sides.shared and not groups_from_data(sides.recipe.responses)
    tokenizer = sides.teacher_tokenizer if foreign else sides.tokenizer
    assert tokenizer is not None
    stops = set(stop_token_ids(tokenizer, None)) | set(sides.stop_ids)
    texts = [[decode_response(tokenizer, ids, stops) for ids in each] for _, each in groups]
    columns: dict[str, Sequence[Any]] = {
        "group": [one.example.id for one, _ in groups],
        "prompt_ids": [one.prompt_ids for one, _ in groups],
        "response_ids": [each for _, each in groups],
        "finished": [[True] * len(each) for _, each in groups],
        "data_score": [_scores(one, each) for one, each in groups],
    }
    system = sides.recipe.data.system
    ranked = panel([one.example.asked(system) for one, _ in groups], texts, columns)
    width = max(map(len, texts))
    exists = np.array([[place < len(each) for place in range(width)] for each in texts])
    found = agreement(ranked.by_ranker, exists, tallies=panel.tallies())
    for label, values in found["rankers"].items():
        if (values["abstentions"] or 0) > _ABSTAINS or (values["ties"] or 0) > _ABSTAINS:
            text = f"{label} has no opinion on {values['abstentions']:.0%} of the responses, and ties "
            text += f"{values['ties'] or 0:.0%} of the pairs"
            yield warning("rankers", text, "give it the data it needs, or name another ranker")
        if abs(bias := values.get("position_bias", 0.0)) > _BIAS:
            text = f"{label}: the teacher prefers the {'first' if bias > 0 else 'second'} place by {abs(bias):.0%}"
            yield warning(
                "position bias", text, "no action: asking in both orders cancels it; log_prob has no such bias"
            )
    for pair in found["pairs"]:
        if pair["kendall_tau"] is not None and pair["kendall_tau"] < _TAU:
            text = f"{' and '.join(pair['rankers'])} hardly agree: Kendall's tau {pair['kendall_tau']:.2f}"
            yield warning("agreement", text, "inspect groups with `grkd groups`, and keep the ranker that you trust")


def _scores(one: Encoded, answers: list[list[int]]) -> list[float | None]:
    """The data's scores of the first responses."""
    given: list[float | None] = list(one.example.scores or [])
    return given[: len(answers)] or [None] * len(answers)
