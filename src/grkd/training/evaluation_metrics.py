"""What an evaluation measures beside the loss: named metrics, and what compute_metrics reads."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import EvalPrediction

from grkd.errors import UserError
from grkd.metrics.rank_measures import against_teacher, response_measures
from grkd.metrics.registry import SCORES, higher_is_better
from grkd.objectives import Batch, Level
from grkd.ranks import gathered

TOKENS = ("kendall_tau", "pair_accuracy", "top1_agreement", "ndcg", "forward_kl_nats", "reverse_kl_nats")
RESPONSES = ("response_kendall_tau", "response_pair_accuracy", "response_top1_agreement", "response_ndcg")
SAMPLED = ("score",)
NAMES = (*TOKENS, *RESPONSES, *SAMPLED)


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """The names. Raises UserError for one that is unknown.

    Of TOKENS, against a teacher: the order of its top candidates, divergences over the whole vocabulary, per token.
    Of RESPONSES: the student's mean log-probabilities against the order of the groups, per prompt.
    score: the mean score, by every ranker, of responses that the student samples for the evaluation.
    """
    if isinstance(names, str):
        raise UserError(f"eval_metrics must be a list of names, got {names!r}")
    if unknown := [name for name in names or () if name not in NAMES]:
        raise UserError(f"eval_metrics: unknown metric {unknown[0]!r}; known: {', '.join(NAMES)}")
    return tuple(names or ())


def less_is_better(name: str | None) -> bool:
    """Whether a metric of an evaluation is one of ours of which less is better, such as eval_forward_kl_nats."""
    return name is not None and any(name.endswith(each) for each in TOKENS if not higher_is_better(each))


def check_best(name: str | None, measured: Sequence[str], sets: object) -> None:
    """Raises UserError for a metric_for_best_model that no evaluation gives; training would stop at its first one.

    measured: args.eval_metrics. sets: eval_dataset; each data set of a dict has metrics of its own.
    """
    if name is None:
        return
    wanted = name.removeprefix("eval_")
    begins = [f"{each}_" for each in sets] if isinstance(sets, Mapping) else [""]
    known = [f"{begin}{metric}" for begin in begins for metric in ("loss", *measured)]
    if wanted in known or ("score" in measured and any(wanted.startswith(f"{begin}{SCORES}") for begin in begins)):
        return
    if any(wanted == f"{begin}{metric}" for begin in begins for metric in NAMES):
        raise UserError(f"metric_for_best_model {name!r}: add it to eval_metrics")
    raise UserError(
        f"metric_for_best_model {name!r} is measured by no evaluation; these are: {', '.join(map(repr, known))}"
    )


class Measured:
    """Sums and counts of named metrics over an evaluation's batches, and what compute_metrics is given.

    compute_metrics: as transformers'. Of methods that compare only responses, predictions are the student's mean
    log-probabilities [prompts, n] and label_ids the scores that order them (NaN: no response). Of others predictions
    are the student's logits of every response token [tokens, vocabulary] and label_ids the tokens.
    preprocess: as transformers' preprocess_logits_for_metrics, which keeps predictions small.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        top_k: int,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        preprocess: Callable[[Tensor, Tensor], Tensor] | None = None,
        level: Level = "row",
    ) -> None:
        self.names = [name for name in names if name not in SAMPLED]
        self.top_k, self.level = top_k, level
        self.compute_metrics, self.preprocess = compute_metrics, preprocess
        self._sums = torch.zeros(len(self.names), 2, dtype=torch.float64)
        self._predictions: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels that it needs beside the objective's own."""
        needed: list[Level] = ["row" if name in TOKENS else "response" for name in self.names]
        if self.compute_metrics is not None:
            needed.append(self.level)
        return tuple(dict.fromkeys(needed))

    @torch.no_grad()
    def add(self, batches: dict[Level, Batch]) -> None:
        """Measure one batch of each level."""
        found: dict[str, Tensor] = {}
        if any(name in TOKENS for name in self.names):
            rows = batches["row"]
            found |= against_teacher(rows.student, rows.required_teacher(), top_k=self.top_k)
        if any(name in RESPONSES for name in self.names):
            groups = batches["response"]
            assert groups.mask is not None
            measured = response_measures(groups.student.double(), groups.required_teacher().double(), groups.mask)
            found |= {f"response_{name}": values for name, values in measured.items()}
        for place, name in enumerate(self.names):
            known = found[name][~found[name].isnan()].double()
            self._sums[place] += torch.tensor([float(known.sum()), len(known)], dtype=torch.float64)
        if self.compute_metrics is not None:
            self._keep(batches[self.level])

    def _keep(self, batch: Batch) -> None:
        if batch.level == "response":
            assert batch.mask is not None
            scores = batch.required_teacher().masked_fill(~batch.mask, torch.nan)
            self._predictions += list(zip(_plain(batch.student), _plain(scores), strict=True))
            return
        assert batch.labels is not None
        logits = batch.student if self.preprocess is None else self.preprocess(batch.student, batch.labels)
        self._predictions.append((_plain(logits), batch.labels.cpu().numpy()))

    def reduced(self, accelerator: Accelerator) -> dict[str, float]:
        """The metrics over all ranks; a metric that no row has a value of is left out."""
        sums = accelerator.reduce(self._sums.to(accelerator.device), reduction="sum").tolist()
        found = {name: total / count for name, (total, count) in zip(self.names, sums, strict=True) if count}
        if self.compute_metrics is not None:
            found |= self.compute_metrics(self._prediction())
        return found

    def _prediction(self) -> EvalPrediction:
        parts = gathered(self._predictions, "predictions")
        if self.level == "response":
            width = max((len(student) for student, _ in parts), default=0)
            student, labels = (
                np.stack([np.pad(part[at], (0, width - len(part[at])), constant_values=np.nan) for part in parts])
                for at in (0, 1)
            )
        else:
            student, labels = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        return EvalPrediction(predictions=student, label_ids=labels)


def _plain(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
