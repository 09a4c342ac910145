"""One evaluation's folder, model and judge, shared by its benchmarks."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from grkd.answers.local import LocalModel
from grkd.answers.question import Question, Sampling, Text
from grkd.answers.remote import RemoteModel
from grkd.answers.stored import answer
from grkd.benchmarks._settings import Settings
from grkd.endpoint.client import Budget, Endpoint
from grkd.endpoint.judge import Judge, Judgements, Request
from grkd.errors import UserError
from grkd.files import digest, read_json, write_json


class Session:
    """Answers and judgements of one evaluation. The model and the judge are made when they are first needed.

    answers.jsonl and judgements.jsonl in `folder` hold every prompt, answer and judgement with its cost.
    device, dtype: of a local model's answers.
    """

    def __init__(self, settings: Settings, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        assert settings.model.model is not None
        self.settings, self.folder, self.name = settings, folder, settings.model.model
        self.device, self.dtype = device, dtype
        self.stopped: str | None = None  # why no more judgements are asked for

    @cached_property
    def source(self) -> LocalModel | RemoteModel:
        model = self.settings.model
        if self.is_remote:
            return RemoteModel(self._model_endpoint(), concurrency=self.settings.concurrency)
        return LocalModel(
            self.name,
            device=self.device,
            dtype=self.dtype,
            batch_size=model.batch_size,
            trust_remote_code=model.trust_remote_code,
            template_options=model.chat_template_kwargs,
        )

    @property
    def is_remote(self) -> bool:
        """Whether the model is behind a URL: its answers can be read, its log-probabilities cannot."""
        return self.name.startswith(("http://", "https://"))

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
        judge = self.settings.judge
        assert judge.judge is not None
        assert judge.judge_model is not None
        return Judge(
            judge.judge,
            judge.judge_model,
            store=self.folder / "judgements.jsonl",
            key_env=judge.judge_key_env,
            concurrency=self.settings.concurrency,
            timeout_seconds=self.settings.timeout_seconds,
            budget=Budget(max_requests=judge.max_requests, max_tokens=judge.max_tokens),
        )

    def check(self, *, judged: bool) -> None:
        """Find a model, key, URL or judge that cannot work before hours are spent. Raises UserError."""
        _ = self.source
        if judged:
            self.judge.check()

    def answers(self, questions: Sequence[Question], *, task: str, max_new_tokens: int) -> dict[str, list[Text]]:
        """The model's answers by question id, one per turn."""
        sampling = Sampling(max_new_tokens=self.settings.model.answer_tokens or max_new_tokens, seed=self.settings.seed)
        return answer(
            self.source,
            questions,
            sampling=sampling,
            store=self.folder / "answers.jsonl",
            description=f"{task}: answers",
        )

    def judgements(self, requests: Sequence[Request], *, task: str) -> Judgements:
        """The judge's answers; a used-up budget is remembered for the tasks after this one."""
        outcome = self.judge.ask_all(requests, description=f"{task}: judgements")
        self.stopped = self.stopped or outcome.stopped
        return outcome

    def judged(
        self, requests: Sequence[Request], outcome: Judgements, *, benchmark_judge: str, prompt: Any
    ) -> dict[str, Any]:
        """What belongs to every judged result: whether it is complete, who judged, and what it cost.

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
            "comparable": same and self.settings.limit is None,
            "note": _note(self.judge.model, benchmark_judge, self.settings.limit),
            "conditions": {
                "judge": self.judge.model,
                "judge's prompt": digest(prompt)[:16],
                "judge_tokens": self.settings.judge.judge_tokens,
                "answer_tokens": self.settings.model.answer_tokens,
            },
            "cost": self.judge.cost(requests),
        }

    def once(self, task: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored result of a benchmark that is made in one piece, or a new one if model or settings changed.

        inputs: all that the result depends on besides the model, its device, --limit and --batch-size.
        """
        settings = self.settings
        # These benchmarks choose their precision by the device.
        known = [self.source.identity, self.device.type, settings.limit, settings.model.batch_size, dict(inputs)]
        key = digest(known)
        path = self.folder / "results" / f"{task}.json"
        if path.is_file():
            stored: dict[str, Any] = read_json(path)
            if stored.get("key") == key:
                return stored
        found = {"complete": True, **make(), "key": key}
        write_json(path, found)
        return found

    def _model_endpoint(self) -> Endpoint:
        name = self.settings.model.model_name
        made = Endpoint(
            self.name,
            name or "",
            role="model",
            key_env=self.settings.model.model_key_env,
            timeout_seconds=self.settings.timeout_seconds,
        )
        if name is None:
            served = made.served() or []
            if len(served) != 1:
                raise UserError(f"model: {made.url} serves {', '.join(served) or 'no list'}; choose with --model-name")
            made.model = served[0]
        return made


def _note(judge: str, benchmark_judge: str, limit: int | None) -> str | None:
    """What a reader must know before comparing the metric with a published one."""
    notes = []
    if judge != benchmark_judge:
        notes.append(
            f"judged by {judge}, not by the benchmark's judge {benchmark_judge}: scores of another judge are not "
            "comparable with published ones, and a weak judge's may mean nothing"
        )
    if limit is not None:
        notes.append(f"only {limit} questions were asked (--limit)")
    return "; ".join(notes) or None
