"""The teacher as annotator: which of two responses is better, asked over all pairs of a group in both orders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.conversation import Messages, shown
from grkd.data.language import forward_parameters, left_padded, model_inputs
from grkd.data.prompts import Example
from grkd.data.template import NotRendered
from grkd.errors import UserError
from grkd.groups import wide

_FLOOR = 1e-6  # of the mean win probability, so that its logarithm is finite
_SHORTEST = 16  # tokens that must be left of each response; with less there is nothing to judge

_QUESTION = """\
Here are a conversation and two responses to its last message. Judge which response serves the user better: whether \
it is correct, does what was asked, is honest and harmless, and is clear. A longer response is not better for its \
length, and it does not matter which of the two stands first.

## Conversation

{conversation}

## Response A

{first}

## Response B

{second}

## Your judgement

Which response is better? Reply with one letter, A or B, and nothing else."""
_PLAIN_END = "\n\nThe better response is"  # a model without a chat template completes the sentence
_SPEAKERS = {"system": "Instructions", "developer": "Instructions", "user": "User", "assistant": "Assistant"}
_SPEAKERS["tool"] = "Tool"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Responses, as text, to one conversation; `id` names it in errors."""

    id: str
    conversation: Messages
    responses: tuple[str, ...]


def comparisons_of(
    prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
) -> list[Comparison]:
    """Groups as rankers give them: prompts as text or messages. Column group: ids for errors."""
    return [
        Comparison(
            id=str(name),
            conversation=[{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt),
            responses=tuple(texts),
        )
        for name, prompt, texts in zip(columns.get("group", range(len(prompts))), prompts, responses, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """log_wins: of each response, in nats; None if nothing was asked. cut: responses were shown without their ends.

    first: mean probability of the response shown first, over all pairs in both orders; 1/2 without a position bias.
    Nothing is asked about fewer than two responses, nor where the conversation leaves no room for them.
    """

    log_wins: tuple[float, ...] | None
    cut: bool = False
    first: float | None = None


def choice_scores(
    model: Any, tokenizer: Any, comparisons: Sequence[Comparison], *, batch_size: int, context: int | None
) -> list[Verdict]:
    """The log of each response's mean win probability, by a question of multiple choice: one verdict a comparison.

    Shown i as option A and j as option B, the teacher prefers i with probability p_ij = softmax(logits of "A" and
    "B")_A, read from the token that it would write next. Over the n - 1 opponents and both orders

        score_i = log max(1e-6, 1 / (2 (n - 1)) * sum over j != i of (p_ij + 1 - p_ji))

    so that a preference for one of the letters cancels. After PAD (Gu et al., arXiv 2502.14272); our own wording.
    Where a pair does not fit into `context` tokens (None: no limit), all responses of the comparison keep only so many
    tokens from their start that every pair fits.
    batch_size: questions at a time, the longest first. Raises UserError for a tokenizer to which A and B are the same
    and for a chat template that refuses the question; a score is NaN if the model's logits are.
    """
    stop_ids = stop_token_ids(tokenizer, getattr(model, "generation_config", None))

    def preferences(prompts: list[list[int]], letters: Letters) -> list[float]:
        return _preferences(model, prompts, letters, batch_size)

    return verdicts(tokenizer, comparisons, stop_ids=stop_ids, context=context, preferences=preferences)


def verdicts(
    tokenizer: Any,
    comparisons: Sequence[Comparison],
    *,
    stop_ids: list[int],
    context: int | None,
    preferences: Callable[[list[list[int]], "Letters"], list[float]],
) -> list[Verdict]:
    """`choice_scores` of a teacher wherever it is: `preferences` gives p_ij of each question, given as token ids."""
    labels = _labels(tokenizer, stop_ids)
    limit = None if context is None else context - len(labels.before) - 1
    questions = [_questions(tokenizer, comparison, limit) for comparison in comparisons]
    prompts = [[*prompt, *labels.before] for asked in questions for prompt in asked.prompts]
    found = iter(preferences(prompts, labels))
    given = []
    for asked in questions:
        preferred = [next(found) for _ in asked.pairs]
        if not asked.pairs:
            given.append(Verdict(log_wins=None))
            continue
        log_wins, first = _log_wins(asked.pairs, preferred), sum(preferred) / len(preferred)
        given.append(Verdict(log_wins=log_wins, cut=asked.cut, first=first))
    return given


def calibrated(log_prob: float, choice: float, *, ratio: float) -> float:
    """ratio * log_prob + (1 - ratio) * choice: the reward of PAD, arXiv 2502.14272, with its calibration ratio.

    log_prob: mean token log-probability of a response under the teacher, nats per token; choice: of choice_scores, in
    nats.
    """
    return ratio * log_prob + (1 - ratio) * choice


@dataclass(frozen=True, kw_only=True)
class Letters:
    """Token ids of the two letters, with and without a space before them, and what the teacher writes before either."""

    before: list[int]
    first: list[int]
    second: list[int]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The questions about one comparison, as token ids, beside the pair (shown as A, shown as B) of each."""

    pairs: list[tuple[int, int]]
    prompts: list[list[int]]
    cut: bool = False


def _labels(tokenizer: Any, stop_ids: list[int]) -> Letters:
    """The first ids in which the replies A and B differ, as they follow a question.

    Where the tokenizer writes something before the letter (a space of its own, a template's empty thoughts), that
    belongs to the prompt. Raises UserError if both letters are one token.
    """
    probe = _example(tokenizer, "the question of multiple choice", [{"role": "user", "content": "1"}], "2", "3")
    found: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    # The usual form of a reply comes first: it decides what is before the letter.
    for space in ("", " ") if tokenizer.chat_template else (" ", ""):
        first, second = (_reply_ids(tokenizer, replace(probe, completion=space + letter), stop_ids) for letter in "AB")
        place = next((n for n, ids in enumerate(zip(first, second, strict=False)) if ids[0] != ids[1]), None)
        if place is None or tokenizer.unk_token_id in (first[place], second[place]):
            continue
        firsts, seconds = found.setdefault(tuple(first[:place]), ([], []))
        if first[place] not in firsts and second[place] not in seconds:
            firsts.append(first[place])
            seconds.append(second[place])
    if not found:
        raise UserError("teacher: its tokenizer has no tokens for the letters A and B; use the ranker log_prob")
    before, (firsts, seconds) = next(iter(found.items()))
    return Letters(before=list(before), first=firsts, second=seconds)


def _reply_ids(tokenizer: Any, probe: Example, stop_ids: list[int]) -> list[int]:
    """The ids of a reply of one letter; of its text alone where the chat template writes finished turns otherwise."""
    try:
        return encode_response(tokenizer, probe, stop_ids=stop_ids)
    except NotRendered:
        encode_prompt(tokenizer, probe)  # a template that refuses the question refuses the letter for that reason
        ids: list[int] = tokenizer(probe.completion, add_special_tokens=False)["input_ids"]
        return [*ids, stop_ids[0]]


def _example(tokenizer: Any, name: str, conversation: Messages, first: str, second: str) -> Example:
    turns = "\n\n".join(f"{_SPEAKERS[turn['role']]}: {shown(turn)}" for turn in conversation)
    text = _QUESTION.format(conversation=turns, first=first, second=second)
    return Example(id=name, prompt=text if tokenizer.chat_template else text + _PLAIN_END)


def _questions(tokenizer: Any, comparison: Comparison, limit: int | None) -> _Asked:
    """All ordered pairs; responses are cut to one length where a pair exceeds the limit, nothing asked if too short."""
    pairs = list(permutations(range(len(comparison.responses)), 2))

    def prompts(responses: Sequence[str]) -> list[list[int]]:
        return [
            encode_prompt(
                tokenizer,
                _example(tokenizer, comparison.id, comparison.conversation, responses[first], responses[second]),
            )
            for first, second in pairs
        ]

    asked = prompts(comparison.responses)
    if limit is None or max(map(len, asked), default=0) <= limit:
        return _Asked(pairs=pairs, prompts=asked)
    tokens = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in comparison.responses]
    keep = max(map(len, tokens))
    while (over := max(map(len, asked)) - limit) > 0:
        keep -= (over + 1) // 2  # each of two long responses gives half; where one is short, the next round takes more
        if keep < _SHORTEST:
            return _Asked(pairs=[], prompts=[])
        asked = prompts([_start(tokenizer, ids, keep) for ids in tokens])
    return _Asked(pairs=pairs, prompts=asked, cut=True)


def _start(tokenizer: Any, ids: list[int], keep: int) -> str:
    """The text of the first `keep` tokens, marked as cut where there are more."""
    text: str = tokenizer.decode(ids[:keep])
    return text if len(ids) <= keep else text.rstrip("\ufffd ") + " ..."  # half a character decodes to U+FFFD


def _log_wins(pairs: Sequence[tuple[int, int]], preferred: Sequence[float]) -> tuple[float, ...]:
    """Log of each response's mean win probability; preferred: of each pair, the probability that A is better."""
    responses = max(first for first, _ in pairs) + 1
    as_first = torch.zeros(responses, responses, dtype=torch.float64)
    for (first, second), probability in zip(pairs, preferred, strict=True):
        as_first[first, second] = probability
    # Both orders of a pair are added first: equal letters then give exactly equal scores.
    wins = (as_first + (1 - as_first.T)).fill_diagonal_(0).sum(-1) / (2 * (responses - 1))
    return tuple(wins.clamp_min(_FLOOR).log().tolist())


@torch.no_grad()
def _preferences(model: nn.Module, prompts: list[list[int]], labels: Letters, batch_size: int) -> list[float]:
    """The probability of the first letter against the second, after each prompt."""
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    found = [0.0] * len(prompts)
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        logits = wide(next_logits(model, [prompts[number] for number in chosen])).double()
        margins = logits[:, labels.first].logsumexp(-1) - logits[:, labels.second].logsumexp(-1)
        for number, probability in zip(chosen, margins.sigmoid().tolist(), strict=True):
            found[number] = probability
    return found


def next_logits(model: Any, prompts: Sequence[list[int]]) -> Float[Tensor, "prompts vocabulary"]:
    """The logits of the token after each prompt; prompts are padded on the left, others are not computed."""
    ids, mask = left_padded(prompts, pad_token_id=0, device=model.device)  # any id will do where nobody looks
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    inputs = model_inputs(model, {"input_ids": ids, "attention_mask": mask, "position_ids": positions})
    if "logits_to_keep" in forward_parameters(model):
        inputs["logits_to_keep"] = 1
    logits: Tensor = model(**inputs).logits
    return logits[:, -1]
