"""A teacher in this process, as the score stage and rankers ask it: log-probabilities of responses, and its choice."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from grkd.data.chat import stop_token_ids
from grkd.data.language import Item, captured_hidden, collate, response_logits
from grkd.kernels.response_log_probs import selected_log_probs
from grkd.models.load import context_length
from grkd.teacher.annotator import Verdict, choice_scores, comparisons_of
from grkd.teacher.in_own_words import means_of_groups
from grkd.teacher.signal import check_head, final_hidden, mean_log_probs


class LocalTeacher:
    """A model with its tokenizer, on the model's device. (It is a grkd.rankers.Teacher.)

    vocabulary: how many of its logits mean a token. batch_size: sequences at a time, the longest first.
    reads_text: its vocabulary is not the student's, so it scores the text of responses in its own tokens.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, vocabulary: int, batch_size: int, reads_text: bool = False
    ) -> None:
        self.model, self.tokenizer, self.reads_text = model, tokenizer, reads_text
        self.vocabulary, self.batch_size = vocabulary, batch_size
        self.context = context_length(model)
        self._from_hidden: bool | None = None  # not looked at yet

    def mean_log_probs(
        self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
    ) -> list[list[float]]:
        """Mean token log-probability of each response, nats per token, from columns prompt_ids and response_ids.

        A teacher that reads text takes prompts and responses instead, and the columns finished (per response), tools
        and chat_template_kwargs if they are known.
        Raises UserError without the ids, and for text over the teacher's context.
        """
        stop_ids = stop_token_ids(self.tokenizer, self.model.generation_config) if self.reads_text else []
        return means_of_groups(self, prompts, responses, columns, stop_ids=stop_ids)

    def choices(
        self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
    ) -> list[Verdict]:
        """Its choice between the responses of each group: see choice_scores. Column group: ids for errors."""
        comparisons = comparisons_of(prompts, responses, columns)
        return choice_scores(self.model, self.tokenizer, comparisons, batch_size=self.batch_size, context=self.context)

    @torch.no_grad()
    def scored(self, items: Sequence[Item], *, keep: Collection[str] = ()) -> tuple[list[float], dict[str, Tensor]]:
        """Mean log-probability of each response, and hidden states [response, hidden] of the items in `keep`, by id."""
        if self._from_hidden is None and items:
            self.probe_head(items)
        order = sorted(range(len(items)), key=lambda at: -(len(items[at].prompt_ids) + len(items[at].response_ids)))
        means = [math.nan] * len(items)
        hidden: dict[str, Tensor] = {}
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            part = [items[place] for place in places]
            wanted = any(item.id in keep for item in part)
            found, states = self._log_probs(self._batch(part), hidden=wanted)
            for row, (place, mean) in enumerate(zip(places, found.tolist(), strict=True)):
                means[place] = mean
                if states is not None and items[place].id in keep:
                    hidden[items[place].id] = states[row, : len(items[place].response_ids)].cpu()
        return means, hidden

    @torch.no_grad()
    def probe_head(self, items: Sequence[Item], *, required: bool = False) -> bool:
        """Find out on a few items whether logits can be recomputed from hidden states; False: logits are not finite.

        required: hidden states are to be stored. Raises UserError if they give other logits and are required.
        """
        batch = self._batch(items[:2])  # few: these logits are made whole
        self._from_hidden = None
        own, _ = self._log_probs(batch)
        if not own.isfinite().all():
            return False  # the caller reports the response by its id
        if required:
            check_head(self.model, batch)
        self._from_hidden = True
        rounding = 1e-3 if self.model.dtype in (torch.float32, torch.float64) else 0.1  # 16-bit logits are coarse
        self._from_hidden = torch.allclose(self._log_probs(batch)[0], own, rtol=rounding, atol=rounding)
        return True

    def _log_probs(
        self, batch: dict[str, Tensor], *, hidden: bool = False
    ) -> tuple[Float[Tensor, " batch"], Tensor | None]:
        """Mean token log-probabilities, nats per token; hidden states [batch, response, hidden] where asked for.

        From hidden states no logits of the whole batch are made: at 256,000 entries they would take gigabytes.
        """
        ids, mask = batch["response_ids"], batch["response_mask"]
        captured = captured_hidden(self.model, batch) if self._from_hidden else None
        if captured is None:
            logits = response_logits(self.model, batch)[..., : self.vocabulary]
            return mean_log_probs(logits, ids, mask), final_hidden(self.model, batch) if hidden else None
        states, head, softcap = captured
        tokens = selected_log_probs(
            states[mask], head.weight, ids[mask], bias=head.bias, softcap=softcap, vocabulary=self.vocabulary
        )
        means = torch.zeros(mask.shape, dtype=tokens.dtype, device=mask.device).masked_scatter(mask, tokens).sum(-1)
        return means / mask.sum(-1), states

    def _batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = send_to_device(collate(items, pad_token_id=0), self.model.device)  # any id will do
        return found
