"""A classifier's teacher that gives an order of classes and no scores: the data's, or a served model's."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from grkd import objectives
from grkd.classify.context import ClassifierContext
from grkd.console import console
from grkd.data.rankings import tier_scores
from grkd.endpoint.client import Budget, Endpoint
from grkd.endpoint.journal import Journal
from grkd.errors import UserError
from grkd.files import digest, whole_file, write_json
from grkd.recipe import ClassifierRecipe, RankedLabels

PROMPT_VERSION = 1
_PROMPT = """\
Which of the classes below fit the text? Name the {top} classes that fit best, the best one first, one per line, \
exactly as they are written in the list. Write nothing else.

## Classes

{classes}

## Text

{text}"""
_TOKENS_PER_CLASS = 32
_MARK = re.compile(r"\s*(?:[-*•]|\(?\d+[.):])\s+")  # one mark of a list: a class may begin with a number itself
_BEFORE, _AROUND = "-*•0123456789.) \t", " `\"'*."


def check_ranked(recipe: ClassifierRecipe) -> None:
    """Raises UserError for methods that need scores of all classes, by name, and for copies of texts."""
    if not isinstance(recipe.teacher, RankedLabels):
        return
    for method in recipe.methods:
        objective = objectives.load(method.name, **method.options)
        if objective.needs_features or (objective.needs_teacher and objective.least_teacher != "tiers"):
            raise UserError(
                f"{method.label}: needs scores of all classes, and the teacher orders some; choose grkd with anchor: "
                "[], plackett_luce, ranknet or ce"
            )
    if recipe.data.copies:
        raise UserError("data.copies: an order of classes belongs to the text as it is; set copies: 0")


def write_ranked_scores(context: ClassifierContext, work: Path) -> None:
    """The orders as scores.safetensors ("train", "heldout"), places as scores, and what could not be read."""
    teacher = context.recipe.teacher
    assert isinstance(teacher, RankedLabels)
    data, classes = context.data, len(context.class_names)
    if teacher.url is None:
        if data.train_ranking is None or data.heldout_ranking is None:
            raise UserError(f"teacher.ranking: {context.recipe.data.train} has no orders; give JSONL with that column")
        train, heldout = data.train_ranking, data.heldout_ranking
    else:
        if data.kind != "text":
            raise UserError("teacher.url: a served model is asked about texts, and these are none")
        asked = _Asked(context, teacher)
        train, heldout = asked(data.train_inputs, "train"), asked(data.heldout_inputs, "heldout")
        write_json(work / "ranking.json", {"version": PROMPT_VERSION, "top": teacher.top, **asked.counts})
        asked.say()
    found = {"train": tier_scores(train, classes), "heldout": tier_scores(heldout, classes)}
    with whole_file(work / "scores.safetensors") as aside:
        save_file(found, aside)


class _Asked:
    """Orders by a served model. Every answer is a line of a journal in the run's folder teacher/labels."""

    def __init__(self, context: ClassifierContext, teacher: RankedLabels) -> None:
        assert teacher.url is not None
        assert teacher.served_model is not None
        self.teacher, self.names = teacher, list(context.class_names)
        self.by_text = {name.casefold(): at for at, name in enumerate(self.names)}
        self.by_text |= {name: at for at, name in enumerate(self.names)}  # classes may differ by capitals alone
        self.journal = Journal(context.run.path / "teacher" / "labels" / "answers.jsonl")
        self.endpoint = Endpoint(
            teacher.url,
            teacher.served_model,
            role="teacher",
            key_env=teacher.key_env,
            timeout_seconds=teacher.timeout_seconds,
            budget=Budget(max_requests=teacher.max_requests),
        )
        self.counts = {"asked": 0, "unreadable": 0, "fewer_than_top": 0}

    def __call__(self, texts: Sequence[Any] | Tensor, what: str) -> list[list[int]]:
        """Numbers of the classes, best first, of each text; none for an answer that names no class."""
        prompts = [self._prompt(str(text)) for text in texts]
        keys = [digest(["labels", PROMPT_VERSION, self.teacher.served_model, prompt]) for prompt in prompts]
        calls = {
            key: partial(self._ask, key, prompt)
            for key, prompt in zip(keys, prompts, strict=True)
            if key not in self.journal
        }
        if calls:
            concurrency = self.teacher.concurrency
            from grkd.served.teacher import fetch_all  # imports transformers, which takes seconds

            fetch_all(self.endpoint, calls, concurrency=concurrency, description=f"score (labels, {what})")
        found = [self._read(self.journal[key]["answer"]) for key in keys]
        self.counts["asked"] += len(found)
        self.counts["unreadable"] += sum(not order for order in found)
        self.counts["fewer_than_top"] += sum(0 < len(order) < self.teacher.top for order in found)
        return found

    def say(self) -> None:
        """What could not be read, if anything."""
        for name, words in (
            ("unreadable", "name no class and teach nothing"),
            ("fewer_than_top", "name fewer classes"),
        ):
            if self.counts[name]:
                asked = self.counts["asked"]
                console.print(f"[yellow]teacher: {self.counts[name]} of {asked} answers {words}[/yellow]")

    def _prompt(self, text: str) -> str:
        return _PROMPT.format(top=self.teacher.top, classes="\n".join(self.names), text=text)

    async def _ask(self, key: str, prompt: str) -> None:
        messages = [{"role": "user", "content": prompt}]
        reply = await self.endpoint.complete(messages, max_tokens=_TOKENS_PER_CLASS * self.teacher.top)
        self.journal.add(key, {"answer": reply.text})

    def _read(self, answer: str) -> list[int]:
        """The classes that lines name, without list marks; lines that name none are passed over."""
        found: list[int] = []
        for line in answer.splitlines():
            bare = _MARK.sub("", line).strip()
            names = (line.strip(), bare, bare.strip(_AROUND), line.lstrip(_BEFORE).strip(_AROUND))
            known = [self.by_text[key] for name in names for key in (name, name.casefold()) if key in self.by_text]
            if known and known[0] not in found:
                found.append(known[0])
        return found[: self.teacher.top]
