"""What a language model costs to use: its size, and how fast it wrote the evaluation's answers."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from grkd.answers.kept import Answers
from grkd.run.cost import peak_bytes
from grkd.training.run_files import size_of


@dataclass(kw_only=True)
class Pace:
    """Tokens written and the time it took, over all answers of one model; batch_size: the largest of them."""

    tokens: int = 0
    milliseconds: int = 0
    batch_size: int = 0

    def add(self, answers: Answers) -> None:
        """Count some answers; those that an earlier process wrote say nothing of this one's pace."""
        if not answers.kept:
            self.tokens += sum(len(one.response_ids) for one in answers.responses)
            self.milliseconds += answers.milliseconds
            self.batch_size = max(self.batch_size, len(answers.responses))


def cost_of(model: nn.Module, pace: Pace) -> dict[str, Any]:
    """Its size; tokens_per_second with batch_size; peak_bytes of a GPU, or null."""
    return {
        **size_of(model),
        "tokens_per_second": 1000 * pace.tokens / pace.milliseconds if pace.milliseconds else None,
        "batch_size": pace.batch_size or None,
        "peak_bytes": peak_bytes(next(model.parameters()).device),
    }
