"""One evaluation's folder, model and judge, shared by its tasks."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from grkd.answers.local import LocalModel, Question, RemoteModel, Sampling, Text, answer
from grkd.endpoint.client import Endpoint
from grkd.endpoint.judge import Budget, Judge, Outcome, Request
from grkd.errors import UserError
from grkd.evaluation.options import JUDGED, Options
from grkd.files import digest
from grkd.run.device import device, dtype


class Session:
    """Answers and judgements of one run. The model and the judge are made when they are first needed.

    answers.jsonl and judgements.jsonl in `folder` hold every prompt, answer and judgement with its cost.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        assert options.model is not None
        self.options, self.folder, self.name = options, folder, options.model
        self.stopped: str | None = None  # why no more judgements are asked for

    @property
    def data(self) -> Path:
        assert self.options.data is not None
        return self.options.data

    @cached_property
    def source(self) -> LocalModel | RemoteModel:
        options = self.options
        if self.name.startswith(("http://", "https://")):
            return RemoteModel(self._model_endpoint(), concurrency=options.concurrency)
        where = device(options.device)
        return LocalModel(
            self.name,
            device=where,
            dtype=dtype(options.dtype, where),
            batch_size=options.batch_size,
            trust_remote_code=options.trust_remote_code,
        )

    @property
    def generator(self) -> str:
        """The model's short name in annotations and tables."""
        if isinstance(self.source, RemoteModel):
            return self.source.endpoint.model
        path = Path(self.name)
        if path.is_dir():  # a trained student is RUN/train/<label>-seed<n>/student: all of them have the same last name
            path = path.resolve()
            path = path.parent if path.name == "student" else path
        return path.name or self.name

    @cached_property
    def judge(self) -> Judge:
        options = self.options
        assert options.judge is not None
        assert options.judge_model is not None
        return Judge(
            options.judge,
            options.judge_model,
            store=self.folder / "judgements.jsonl",
            key_env=options.judge_key_env,
            concurrency=options.concurrency,
            timeout_seconds=options.timeout_seconds,
            budget=Budget(max_requests=options.max_requests, max_tokens=options.max_tokens),
        )

    def check(self) -> None:
        """Find a model, key, URL or judge that cannot work before hours are spent. Raises UserError."""
        _ = self.source
        if any(task in JUDGED for task in self.options.tasks):
            self.judge.check()

    def answers(self, questions: Sequence[Question], *, task: str, max_new_tokens: int) -> dict[str, list[Text]]:
        """The model's answers by question id, one a turn."""
        sampling = Sampling(max_new_tokens=self.options.answer_tokens or max_new_tokens, seed=self.options.seed)
        return answer(
            self.source,
            questions,
            sampling=sampling,
            store=self.folder / "answers.jsonl",
            description=f"{task}: answers",
        )

    def judgements(self, requests: Sequence[Request], *, task: str) -> Outcome:
        """The judge's answers; a used-up budget is remembered for the tasks after this one."""
        outcome = self.judge.ask_all(requests, description=f"{task}: judgements")
        self.stopped = self.stopped or outcome.stopped
        return outcome

    def judged(
        self, requests: Sequence[Request], outcome: Outcome, *, benchmark_judge: str, prompt: Any
    ) -> dict[str, Any]:
        """What belongs to every judged result: whether it is whole, who judged, and what it cost.

        prompt: the texts that the judge is asked with, before questions and answers are put in.
        """
        same = self.judge.model == benchmark_judge
        return {
            "complete": outcome.complete,
            "judged": len(outcome.judgements),
            "to_judge": len(requests),
            "failures": outcome.failures,
            "stopped": outcome.stopped,
            "judge": self.judge.model,
            "benchmark_judge": benchmark_judge,
            "comparable": same and self.options.limit is None,
            "note": _note(self.judge.model, benchmark_judge, self.options.limit),
            "conditions": {
                "judge": self.judge.model,
                "judge's prompt": digest(prompt)[:16],
                "judge_tokens": self.options.judge_tokens,
                "answer_tokens": self.options.answer_tokens,
            },
            "cost": self.judge.cost(requests),
        }

    def _model_endpoint(self) -> Endpoint:
        options = self.options
        name = options.model_name
        made = Endpoint(
            self.name,
            name or "",
            role="model",
            key_env=options.model_key_env,
            timeout_seconds=options.timeout_seconds,
        )
        if name is None:
            served = made.served() or []
            if len(served) != 1:
                raise UserError(f"model: {made.url} serves {', '.join(served) or 'no list'}; choose with --model-name")
            made.model = served[0]
        return made


def asked(*texts: str) -> str:
    """What an item is known by besides its id: runs on other questions are never taken for paired ones."""
    return digest(texts)[:16]


def cost_of_answers(answers: dict[str, list[Text]]) -> dict[str, int]:
    """Answers and their tokens, prompts that did not fit the context, and answers that ended at the limit."""
    texts = [text for turns in answers.values() for text in turns]
    return {
        "answers": len(texts),
        "too_long": sum(text.too_long for text in texts),
        "unfinished": sum(not text.finished and not text.too_long for text in texts),
        "answer_tokens": sum(text.tokens for text in texts),
    }


def _note(judge: str, benchmark_judge: str, limit: int | None) -> str | None:
    """What a reader must know before comparing the figure with a published one."""
    notes = []
    if judge != benchmark_judge:
        notes.append(
            f"judged by {judge}, not by the benchmark's judge {benchmark_judge}: figures of another judge are not "
            "comparable with published ones, and a weak judge's may mean nothing"
        )
    if limit is not None:
        notes.append(f"only {limit} questions were asked (--limit)")
    return "; ".join(notes) or None
