"""A served teacher and judges, asked a few things: a stated number of short requests, and only with --ask."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from grkd.data.chat import encode_prompt
from grkd.data.language import Item
from grkd.doctor.finding import Finding, error, note, warning
from grkd.doctor.sides import Encoded, Sides
from grkd.endpoint.client import Endpoint, RequestFailed
from grkd.endpoint.loop import wait_for
from grkd.errors import UserError
from grkd.language.endpoint import endpoint_of
from grkd.language.scorer import panel_of
from grkd.rankers import Panel, Resources
from grkd.recipe import LanguageRecipe, ServedModel
from grkd.served.same_model import check_vocabulary
from grkd.served.server import Server

_SCORED, _LONGEST = 3, 64  # answers of the data whose log-probabilities are asked for, and their tokens
_WORDS = 8  # tokens that a chat server is asked to write
_DO = "`grkd doctor --ask` asks it"


def requests_of(recipe: LanguageRecipe) -> tuple[int, int]:
    """How many requests `ask` makes of the teacher, and of judges; the list of models is one of the first."""
    teacher = recipe.teacher
    of_teacher = 0 if not isinstance(teacher, ServedModel) else 1 + (_SCORED if teacher.log_probs else 1)
    judges = [one.ranker for one in panel_of(recipe.score, teacher).members if one.ranker.needs == "endpoint"]
    return of_teacher, 3 * len(judges)  # whether it is there, and one pair of responses in both orders


def look_at_server(sides: Sides, *, ask: bool) -> Iterator[Finding]:
    """A served teacher's model, vocabulary, BOS and template. Nothing is asked without `ask`."""
    spec = sides.recipe.teacher
    assert isinstance(spec, ServedModel)
    number, _ = requests_of(sides.recipe)
    if not ask:
        text = f"it is behind a server and was not asked: {number} short requests, which may cost money"
        yield note("teacher", text, _DO)
        return
    client = endpoint_of(spec)
    try:
        Server(client).open()
        asked = _scores(sides, client) if spec.log_probs else _chat(sides, client)
        yield from asked
    except (UserError, RequestFailed) as mistake:
        yield error("teacher", str(mistake), "correct teacher in the recipe, or the server")
        return
    yield note("teacher", f"the server answered {number} requests", "nothing")


def _scores(sides: Sides, client: Endpoint) -> Iterator[Finding]:
    """Log-probabilities of a few texts by token ids: ids that the server extends or reads otherwise are an error."""
    server, tokenizer = Server(client), sides.teacher_tokenizer or sides.tokenizer
    for one in sides.encoded[:_SCORED]:
        prompt = encode_prompt(tokenizer, one.example, system=sides.recipe.data.system)
        text = one.example.answers[0] if one.example.answers else "yes"
        ids = list(tokenizer(str(text), add_special_tokens=False)["input_ids"])[:_LONGEST]
        found = wait_for(server.scores(prompt, ids, k=0))
        check_vocabulary(tokenizer, Item(id=one.example.id, prompt_ids=prompt, response_ids=ids), found.texts)
    yield from ()


def _chat(sides: Sides, client: Endpoint) -> Iterator[Finding]:
    """One short answer to a conversation: how many tokens the server read says whether its template is this one."""
    one = sides.encoded[0].example
    asked: Any = one.asked(sides.recipe.data.system)
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    reply = wait_for(client.complete(messages, max_tokens=_WORDS, temperature=0.0))
    if not reply.text.strip():
        text = f"its answer of {_WORDS} tokens has no text: reasoning may have used them up"
        yield warning("teacher", text, "turn reasoning off on the server, or raise responses.max_new_tokens")
    if sides.teacher_tokenizer is None or not reply.prompt_tokens:
        return
    own = len(encode_prompt(sides.teacher_tokenizer, one, system=sides.recipe.data.system))
    if reply.prompt_tokens != own:
        text = f"the server read {reply.prompt_tokens} tokens where the tokenizer's template writes {own}: another "
        text += "template, a system message of its own, or another BOS"
        yield warning("template", text, "serve the model with the template of teacher.tokenizer")


def look_at_judges(sides: Sides, *, ask: bool) -> Iterator[Finding]:
    """Whether judges can be read: one group of two responses, of which one is the other cut short."""
    recipe, (_, number) = sides.recipe, requests_of(sides.recipe)
    if not number:
        return
    if not ask:
        text = f"a judge was not asked: up to {number} short requests, which may cost money"
        yield note("rankers", text, _DO)
        return
    with panel_of(recipe.score, recipe.teacher) as panel:
        for member in panel.members:
            if member.ranker.needs == "endpoint":
                yield from _judge(sides, Panel([member]))


def _judge(sides: Sides, judge: Panel) -> Iterator[Finding]:
    one = sides.encoded[0]
    try:
        judge.open(Resources())
        ranked = judge([one.example.asked(sides.recipe.data.system)], [_pair(one)], {"group": [one.example.id]})
    except UserError as mistake:
        yield error("rankers", str(mistake), "correct the judge in score.rankers, or its server")
        return
    label = judge.labels[0]
    if np.isnan(ranked.by_ranker[label]).all():  # no opinion
        text = f"{label}: its answers about one group cannot be parsed"
        yield warning("rankers", text, "raise answer_tokens (reasoning models need more), or name another judge")
    else:
        yield note("rankers", f"{label} ordered a group of two", "nothing")


def _pair(one: Encoded) -> Sequence[str]:
    text = str(one.example.answers[0]) if one.example.answers else "The answer in one whole sentence."
    return [text, text[: max(1, len(text) // 4)] + " ..."]
