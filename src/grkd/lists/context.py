"""What the stages of a list's task share: the recipe, its folders and device, and the prepared lists."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from grkd.compare.task import TaskContext
from grkd.errors import UserError
from grkd.files import read_json
from grkd.recipe import RankRecipe, Training

TRAIN, VALIDATION, HELDOUT = 0, 1, 2  # parts of the queries
NONE = -1  # in the place of a candidate that does not exist


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedLists:
    """What the prepare stage left, on the CPU.

    candidates: numbers of documents, NONE behind the last. word: what the data say of them, NaN for nothing.
    grades: people's judgements, NaN if there is none. part: TRAIN, VALIDATION or HELDOUT, per query.
    judged: rows of (query, document, grade). left_out: rows of (query, document).
    """

    queries: list[str]
    documents: list[str]
    candidates: Int[Tensor, "queries candidates"]
    word: Float[Tensor, "queries candidates"]
    grades: Float[Tensor, "queries candidates"]
    part: Int[Tensor, " queries"]
    judged: Float[Tensor, "judgements 3"]
    left_out: Int[Tensor, "pairs 2"]
    kind: str | None  # of the word: scores, order or tiers

    @property
    def exists(self) -> Bool[Tensor, "queries candidates"]:
        return self.candidates != NONE

    def of(self, *parts: int) -> Int[Tensor, " queries"]:
        """Numbers of the queries of these parts."""
        return torch.isin(self.part, torch.tensor(parts)).nonzero().squeeze(-1)


class RankContext(TaskContext):
    """Everything that a stage needs; another process opens it by the recipe alone."""

    recipe: RankRecipe
    no_value = "its validation queries give no value"

    @property
    def metric(self) -> str:
        """What the search goes by: NDCG by people's grades, or without any Kendall's tau with the teacher."""
        if self.recipe.search is not None and self.recipe.search.metric is not None:
            return self.recipe.search.metric
        return "list_ndcg10" if bool(self.lists.grades.isfinite().any()) else "kendall_tau"

    @property
    def shared_inputs(self) -> dict[str, Any]:
        teacher = self.recipe.teacher
        return {"seen": {name: getattr(teacher, name) for name in ("says", "top", "places_as_scores")}, **self.keys()}

    @property
    def search_inputs(self) -> dict[str, Any]:
        search = self.recipe.search
        assert search is not None
        return {"metric": self.metric, "fraction": search.validation_fraction, "share": search.steps_share}

    @cached_property
    def lists(self) -> PreparedLists:
        folder = self.run.path / "prepare"
        found: dict[str, Any] = {**load_file(folder / "lists.safetensors"), **read_json(folder / "lists.json")}
        return PreparedLists(**found)

    @cached_property
    def search_queries(self) -> tuple[Tensor, Tensor]:
        """(fit, validation): queries that trials are trained and measured on; the data's own if it has one."""
        assert self.recipe.search is not None
        train, validation = self.lists.of(TRAIN), self.lists.of(VALIDATION)
        if len(validation):
            return train, validation
        queries = [self.lists.queries[row] for row in train.tolist()]
        different = len(set(queries))
        if different < 2:
            raise UserError("search: one training query is too few to validate on others; add lists, or remove it")
        count = min(max(1, round(different * self.recipe.search.validation_fraction)), different - 1)
        of_validation = drawn(queries, count, seed=self.seed)
        return train[~of_validation], train[of_validation]

    def keys(self) -> dict[str, str]:
        """What the students' lists and the teacher's order were made from."""
        return {name: self.run.key(name) for name in ("prepare", "score")}

    def training_at(self, learning_rate: float, *, search: bool) -> Training:
        """The recipe's training section at another learning rate; a trial may be shorter."""
        training = dataclasses.replace(self.recipe.training, learning_rate=learning_rate)
        share = self.recipe.search.steps_share if search and self.recipe.search is not None else 1.0
        if share == 1.0:
            return training
        if training.minutes is not None:
            return dataclasses.replace(training, minutes=share * training.minutes)
        if training.steps is not None:
            return dataclasses.replace(training, steps=max(1, round(share * training.steps)))
        return dataclasses.replace(training, epochs=share * training.epochs)


def drawn(queries: Sequence[str], count: int, *, seed: int) -> Bool[Tensor, " queries"]:
    """Which of the lists belong to `count` of the different queries; lists of one query stay together."""
    different = list(dict.fromkeys(queries))
    places = torch.randperm(len(different), generator=torch.Generator().manual_seed(seed))[:count]
    chosen = {different[place] for place in places.tolist()}
    return torch.tensor([query in chosen for query in queries], dtype=torch.bool)


def pairs_of(context: RankContext) -> list[tuple[str, str]]:
    """(query, document) of every candidate, list by list."""
    lists = context.lists
    rows, columns = lists.exists.nonzero(as_tuple=True)
    documents = lists.candidates[rows, columns].tolist()
    return [(lists.queries[row], lists.documents[one]) for row, one in zip(rows.tolist(), documents, strict=True)]


def texts_of(context: RankContext) -> list[tuple[str, list[str]]]:
    """(query, candidates) of every list."""
    lists = context.lists
    return [
        (query, [lists.documents[one] for one in own[there].tolist()])
        for query, own, there in zip(lists.queries, lists.candidates, lists.exists, strict=True)
    ]
