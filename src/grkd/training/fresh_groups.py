"""Groups that the student samples in training: which prompts, their responses, and the order that rankers give them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grkd.data.language import Group, Item, Matrix
from grkd.errors import UserError
from grkd.models.shard import in_turns
from grkd.objectives import Objective
from grkd.rankers import Panel, Tally
from grkd.rankers.combine import votes
from grkd.training.groups_file import GroupsFile
from grkd.training.groups_of_responses import chosen, scores_of
from grkd.training.on_policy import answered_anew, group_seeds, mixed
from grkd.training.rows import REPEATED, Places, moved
from grkd.training.teacher_ahead import SampledPart, hear, learns_tokens
from grkd.training.vllm_sampler import VllmSampler

if TYPE_CHECKING:
    from grkd.training.language_rows import LanguageRows

Reference = Callable[[dict[str, Any]], Tensor]


@dataclass(kw_only=True)
class FreshGroups:
    """How groups of responses are sampled from the student as it is, and put in order.

    panel: the rankers, opened. n: responses per group. stored_share: share of the prompts that keep their stored
    responses. decode: token ids to the text that rankers read. reference: mean log-probabilities [groups, width] of a
    batch's responses under the student before training. file: where the groups are kept; None: nowhere. teachers: the
    models that rankers ask. stop_ids: tokens that end a response, from which rankers know whether it ended by itself.
    """

    panel: Panel
    decode: Callable[[Sequence[int]], str]
    n: int = 8
    stored_share: float = 0.0
    reference: Reference | None = None
    file: GroupsFile | None = None
    teachers: Sequence[Any] = ()
    stop_ids: frozenset[int] | None = None
    scored: dict[str, Tally] = field(default_factory=dict)  # each ranker's scores since the last log
    unordered: Tally = field(default_factory=lambda: Tally(0.0, 0))  # of the new groups since then: without an order

    def __post_init__(self) -> None:
        if self.n < 2:
            raise UserError(f"a group needs 2 responses or more to be ranked, got n = {self.n}")
        if not 0 <= self.stored_share < 1:
            raise UserError(f"stored_share must be 0 or more and below 1, got {self.stored_share}")

    def share(self, objective: Objective) -> float:
        """Share of the prompts that are answered again: of methods that compare responses, or sample by themselves."""
        return 1.0 - self.stored_share if orders(objective) else objective.on_policy

    def taken(self) -> dict[str, Tally]:
        """Each ranker's scores since the last call; groups/no_order: new groups in which no response is better."""
        found = {f"score/{label}": self.scored.get(label, Tally(0.0, 0)) for label in self.panel.labels}
        found["groups/no_order"] = self.unordered
        self.scored, self.unordered = {}, Tally(0.0, 0)
        return found


def orders(objective: Objective) -> bool:
    """Whether a method learns from the order of responses; others ask no ranker, which may cost money."""
    return "response" in objective.levels


def renewed(
    rows: "LanguageRows",
    model: nn.Module,
    batches: Sequence[dict[str, Any]],
    objective: Objective,
    *,
    seed: int,
    places: Places,
) -> list[dict[str, Any]]:
    """The batches with their share of prompts answered again by the student, ranked where `rows` has fresh groups.

    Draws depend on (seed, step, number of the group in the step): not on how a step is split.
    """
    ordered = rows.fresh is not None and orders(objective)
    opened_sampler(rows, model)
    share = rows.fresh_share(objective)
    with in_turns(*rows.asked_teachers):  # processes ask them about different numbers of responses
        parts = sampled_parts(rows, model, batches, objective, seed=seed, places=places, share=share)
        if rows.fresh is not None and ordered:
            with _timed(rows.seconds, "rank"):
                order_parts(rows, rows.fresh, parts, tokens=learns_tokens(rows, objective))
        else:
            hear(rows, parts, tokens=learns_tokens(rows, objective), responses=False)
    if rows.fresh is not None and ordered:
        with _timed(rows.seconds, "rank"):  # a sharded student's reference: equally often on all processes
            _finish(rows, rows.fresh, parts, objective)
    else:
        for part in parts:
            if len(part.asked) < len(part.groups):  # weights of a method that has them need all tokens
                del part.batch["sampled_log_probs"]
    return [part.batch for part in parts]


def opened_sampler(rows: "LanguageRows", model: nn.Module) -> None:
    """Open a sampler that all processes of a launch must open together, though not all of them have prompts."""
    if isinstance(rows.sampler, VllmSampler):
        rows.sampler.open(model)


def sampled_parts(
    rows: "LanguageRows",
    model: nn.Module,
    batches: Sequence[dict[str, Any]],
    objective: Objective,
    *,
    seed: int,
    places: Places,
    share: float,
) -> list[SampledPart]:
    """The batches' groups with `share` of them answered again, not ranked yet."""
    parts, prompts, seeds = [], [], []
    for batch, (step, first) in zip(batches, places, strict=True):
        of_groups = group_seeds(seed, step, first, len(batch["groups"]))
        asked = answered_anew(of_groups, share)
        part = SampledPart(groups=list(batch["groups"]), asked=asked, step=step, repeated=REPEATED in batch)
        for number in part.asked:
            group = part.groups[number]
            part.groups[number] = replace(group, items=_places(group, rows.fresh), reference_log_probs=None)
            prompts += [item.prompt_ids for item in part.groups[number].items]
            seeds += [mixed(of_groups[number], place) for place in range(len(part.groups[number].items))]
        parts.append(part)
    assert rows.sampler is not None
    with _timed(rows.seconds, "sample"):
        answers = iter(rows.sampler(model, prompts, objective.teacher_mixed_in, seeds) if prompts else [])
        for part in parts:
            _answer(part, answers)
    device = batches[0]["input_ids"].device
    for part in parts:
        part.batch = moved(rows.collate_all(part.groups), device)
        part.batch["sampled_log_probs"] = _token_log_probs(part).to(device)
    return parts


def _places(group: Group, fresh: FreshGroups | None) -> tuple[Item, ...]:
    """Items for the new responses: as many as the group had, or n."""
    if fresh is None:
        return group.items
    first = group.items[0]
    return tuple(replace(first, id=f"{group.id}#fresh{number}") for number in range(fresh.n))


def _answer(part: SampledPart, answers: Iterator[tuple[list[int], list[float]]]) -> None:
    for number in part.asked:
        group, items = part.groups[number], []
        part.sampled[number] = []
        for item in group.items:
            response_ids, log_probs = next(answers)
            items.append(replace(item, response_ids=response_ids))
            part.sampled[number].append(log_probs)
        scores = group.teacher_scores if len(group.teacher_scores) == len(items) else (0.0,) * len(items)
        sources = ("student",) * len(items)
        part.groups[number] = replace(group, items=tuple(items), teacher_scores=scores, sources=sources)


def _token_log_probs(part: SampledPart) -> Tensor:
    """Log-probabilities with which tokens were drawn, item by item; NaN for stored responses."""
    found: list[float] = []
    for number, group in enumerate(part.groups):
        for place, item in enumerate(group.items):
            drawn = part.sampled.get(number)
            found += [float("nan")] * len(item.response_ids) if drawn is None else drawn[place]
    return torch.tensor(found)


def order_parts(rows: "LanguageRows", fresh: FreshGroups, parts: Sequence[SampledPart], *, tokens: bool) -> None:
    """Ask the rankers about the new groups and note their scores and votes; the groups are kept.

    tokens: the batches are learnt from by token, so the teacher's hidden states go into them.
    """
    heard = hear(rows, parts, tokens=tokens, responses="teacher" in fresh.panel.needs)
    own = [(at, number) for at, part in enumerate(parts) if not part.repeated for number in part.asked]
    if own:
        _order(fresh, [(parts[at], number) for at, number in own], [heard[place] for place in own] if heard else None)


def _finish(rows: "LanguageRows", fresh: FreshGroups, parts: Sequence[SampledPart], objective: Objective) -> None:
    """Scores, votes and reference of every batch."""
    for part in parts:
        if fresh.panel.combine == "votes":
            part.groups = [_with_votes(group) for group in part.groups]
            part.batch["groups"] = part.groups
        if objective.trains_on != "all":  # a choice by the new scores, so other tokens than those above
            device = part.batch["input_ids"].device
            part.batch = moved(rows.collate_all([_compared(group, objective) for group in part.groups]), device)
        else:
            part.batch |= moved(scores_of(part.groups), part.batch["input_ids"].device)
        if objective.needs_reference:
            if fresh.reference is None:
                raise UserError("this method compares the student with itself before training; there is no reference")
            part.batch["reference"] = fresh.reference(part.batch)


def _compared(group: Group, objective: Objective) -> Group:
    """The responses that the method is trained on; of a group that no ranker has an opinion on, one without a place."""
    found = chosen(group, objective.trains_on)
    return found if found.items else chosen(replace(group, teacher_scores=(0.0,) * len(group.items)), "best")


def _order(fresh: FreshGroups, asked: Sequence[tuple[SampledPart, int]], teacher: Sequence[list[float]] | None) -> None:
    """Ask the panel about all new groups at once, and note its scores; teacher: its mean log-probabilities, if any."""
    groups = [part.groups[number] for part, number in asked]
    texts = [[fresh.decode(item.response_ids) for item in group.items] for group in groups]
    columns = _columns(groups)
    if fresh.stop_ids is not None:
        stops = fresh.stop_ids
        columns["finished"] = [[item.response_ids[-1] in stops for item in group.items] for group in groups]
    if teacher is not None:
        columns["teacher_log_prob"] = list(teacher)
    prompts = [group.columns["prompt"] if group.columns else "" for group in groups]
    ranked = fresh.panel(prompts, texts, columns)
    for label, values in ranked.by_ranker.items():
        known = values[~np.isnan(values)]
        fresh.scored[label] = fresh.scored.get(label, Tally(0.0, 0)) + Tally(float(known.sum()), len(known))
    for at, (part, number) in enumerate(asked):
        group, size = part.groups[number], len(part.groups[number].items)
        scores, given = ranked.order.scores[at][:size].tolist(), ranked.order.votes
        own = None if given is None else (_square(given.share[at], size), _square(given.weight[at], size))
        each = {label: tuple(values[at][:size].tolist()) for label, values in ranked.by_ranker.items()}
        part.groups[number] = replace(group, teacher_scores=tuple(scores), votes=own, by_ranker=each)
        fresh.unordered += Tally(float(not part.groups[number].has_pair), 1)
    if fresh.file is not None:
        sampled = [part.sampled[number] for part, number in asked]
        before = [[float(np.mean(values)) for values in group] for group in sampled]
        now = [part.groups[number] for part, number in asked]
        fresh.file.add([part.step for part, _ in asked], now, prompts, texts, before)


def _columns(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """The records' columns, one value per group, and the token ids that the teacher would read."""
    known: dict[str, None] = dict.fromkeys(name for group in groups for name in (group.columns or {}))
    found: dict[str, list[Any]] = {
        name: [(group.columns or {}).get(name) for group in groups] for name in known if name != "prompt"
    }
    found["prompt_ids"] = [group.items[0].prompt_ids for group in groups]
    found["response_ids"] = [[item.response_ids for item in group.items] for group in groups]
    return found


def _square(values: Any, size: int) -> Matrix:
    return tuple(map(tuple, values[:size, :size].tolist()))


def _with_votes(group: Group) -> Group:
    """A stored group beside new ones that have votes: its own scores as those of one ranker."""
    if group.votes is not None:
        return group
    own, size = votes([np.array([group.teacher_scores], dtype=np.float64)]), len(group.items)
    return replace(group, votes=(_square(own.share[0], size), _square(own.weight[0], size)))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of a block to a counter."""
    start = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - start
