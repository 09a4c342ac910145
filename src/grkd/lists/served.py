"""A ranker behind an API, asked for a permutation or about one candidate; answers are stored as they come."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.console import console
from grkd.endpoint.client import Messages
from grkd.endpoint.judge import Judge, Judgement, Request
from grkd.errors import UserError
from grkd.lists.context import RankContext, pairs_of, texts_of
from grkd.lists.listwise import answer_tokens, note_unread, permuted

PROMPT = "Document: {document}\n\nQuestion: {query}\n\nDoes the document answer the question? Answer Yes or No."
_TOP_LOGPROBS = 20


def judge_of(context: RankContext) -> Judge:
    """The client of teacher.served; its answers lie in the run's folder, outside the stages.

    Raises UserError for a missing key or a URL that is none.
    """
    served = context.recipe.teacher.served
    assert served is not None
    return Judge(
        served.url,
        served.model,
        store=context.run.path / "teacher" / "answers.jsonl",
        key_env=served.key_env,
        concurrency=served.concurrency,
        timeout_seconds=served.timeout_seconds,
    )


def scored_by_server(context: RankContext) -> Float[Tensor, "queries candidates"]:
    """The served model's scores: minus the place in its permutation, or log p(Yes) - log p(No); NaN for no opinion."""
    judge = judge_of(context)
    judge.check()
    lists = context.lists
    found = torch.full(lists.candidates.shape, torch.nan, dtype=torch.float64)
    if context.recipe.teacher.asks == "permutation":
        for row, order in enumerate(_orders(context, judge)):
            found[row, order] = -torch.arange(len(order), dtype=torch.float64)
        return found
    found[lists.exists] = torch.tensor(_one_by_one(context, judge), dtype=torch.float64)
    return found


def _orders(context: RankContext, judge: Judge) -> list[list[int]]:
    teacher = context.recipe.teacher

    def complete(prompts: Sequence[Messages]) -> list[str | None]:
        requests = [
            Request(id=str(number), messages=messages, max_tokens=answer_tokens(teacher.window))
            for number, messages in enumerate(prompts)
        ]
        return [judged.text for judged in _asked(judge, requests)]

    orders, unread = permuted(texts_of(context), complete, window=teacher.window, stride=teacher.stride)
    note_unread(unread)
    return orders


def _one_by_one(context: RankContext, judge: Judge) -> list[float]:
    prompt = context.recipe.teacher.prompt or PROMPT
    pairs = pairs_of(context)
    requests = [
        Request(
            id=str(number),
            messages=[{"role": "user", "content": prompt.replace("{query}", query).replace("{document}", document)}],
            max_tokens=1,
            logprobs=_TOP_LOGPROBS,
        )
        for number, (query, document) in enumerate(pairs)
    ]
    scores = [yes_or_no(judged) for judged in _asked(judge, requests)]
    unread = sum(math.isnan(score) for score in scores)
    if unread:
        console.print(
            f"teacher: {unread} of {len(scores)} answers are neither Yes nor No: no opinion on these candidates"
        )
    return scores


def yes_or_no(judged: Judgement) -> float:
    """log p(Yes) - log p(No) of the answer's first token; of these likeliest tokens the least stands for one missing.

    Without log-probabilities 1 for Yes and 0 for No. NaN for an answer that is neither.
    """
    said = {"yes": judged.text.strip().lower().startswith("yes"), "no": judged.text.strip().lower().startswith("no")}
    top: list[dict[str, Any]] = (judged.logprobs or [{}])[0].get("top_logprobs") or []
    known = {word: [one["logprob"] for one in top if one["token"].strip().lower() == word] for word in said}
    if not any(known.values()):
        return float(said["yes"]) if any(said.values()) else math.nan
    least = min(one["logprob"] for one in top)
    yes, no = (max(known[word], default=least) for word in ("yes", "no"))
    return float(yes - no)


def _asked(judge: Judge, requests: Sequence[Request]) -> list[Judgement]:
    """All answers, in the order of the requests. Raises UserError if some could not be had."""
    found = judge.ask_all(requests, description="teacher")
    if not found.complete:
        reason = found.stopped or next(iter(found.failures.values()))
        missing = len(requests) - len(found.judgements)
        raise UserError(
            f"teacher.served: {missing} of {len(requests)} answers are missing ({reason}); run the same command "
            "again: those that came are kept"
        )
    return [found.judgements[request.id] for request in requests]
