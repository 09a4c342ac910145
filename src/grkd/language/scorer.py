"""The teacher's log-probability, choice and reward of responses, and its hidden states where they are kept."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.conversation import Messages
from grkd.data.language import Item, captured_hidden, collate, response_logits
from grkd.data.prompts import restored
from grkd.data.template import NotRendered
from grkd.errors import UserError
from grkd.files import parse_json
from grkd.kernels.response_log_probs import selected_log_probs
from grkd.language.context import LanguageModels
from grkd.models.load import context_length, vocabulary_size
from grkd.recipe import LanguageRecipe, Score
from grkd.teacher.annotator import Comparison, Verdict, calibrated, choice_scores
from grkd.teacher.signal import HiddenCache, TeacherHead, check_head, final_hidden, mean_log_probs

Record = dict[str, Any]

ASKING = ("calibrated", "choice")  # rewards for which the teacher compares responses


class Scorer:
    """Scores chunks of whole groups, given as records of the respond stage.

    cached: splits whose hidden states are stored in work/hidden, with the teacher's head beside it.
    """

    def __init__(self, recipe: LanguageRecipe, models: LanguageModels, work: Path, *, cached: Sequence[str]) -> None:
        self.recipe, self.models, self.work, self.cached = recipe, models, work, cached
        self.size = recipe.score.batch_size
        self.teacher = models.teacher()
        own = models.teacher_tokenizer
        self.tokenizer = models.tokenizer if own is None else own
        self.stop_ids = [] if own is None else stop_token_ids(own, self.teacher.generation_config)
        self.vocabulary = models.numbers["vocabulary"] if own is None else vocabulary_size(own)
        self.context = context_length(self.teacher)
        in_16_bits = self.teacher.dtype == torch.bfloat16
        self.cache = HiddenCache(work / "hidden", dtype="bfloat16" if in_16_bits else "float32") if cached else None
        self.from_hidden: bool | None = None  # not looked at yet

    def __call__(self, number: int, groups: Sequence[Sequence[Record]]) -> list[Record]:
        """A record a response, of language_scores.SCORES, in order; `number` names the chunk's hidden states."""
        records = [record for group in groups for record in group]
        items = [self._item(record) for record in records]
        if self.from_hidden is None:
            self._look_at_head(items)
        means, hidden = self._means(items, {record["id"] for record in records if record["split"] in self.cached})
        for record, mean in zip(records, means, strict=True):
            finite(mean, "the teacher's mean log-probability", record)
        verdicts = self._verdicts(groups)
        if self.cache is not None:
            # A kill may have come between the two files of a chunk.
            new = {item_id: states for item_id, states in hidden.items() if item_id not in self.cache}
            if new:
                self.cache.write_shard(new, number=number)
        wins = [win for group, one in zip(groups, verdicts, strict=True) for win in one.log_wins or [None] * len(group)]
        cuts = [one.cut for group, one in zip(groups, verdicts, strict=True) for _ in group]
        return [self._scored(*row) for row in zip(records, means, wins, cuts, strict=True)]

    def _scored(self, record: Record, mean: float, win: float | None, cut: bool) -> Record:
        if win is not None:
            finite(win, "the teacher's choice", record)
        return {
            "id": record["id"],
            "group": record["group"],
            "tokens": len(record["response_ids"]),
            "teacher_mean_log_prob_nats": mean,
            "teacher_choice_log_win": win,
            "teacher_choice_cut": cut,
            "teacher_reward": reward(self.recipe.score, log_prob=mean, choice=win, data=record["data_score"]),
        }

    def _item(self, record: Record) -> Item:
        """Prompt and response in the teacher's tokens: the very tokens that the student trains on, where they share."""
        if self.models.teacher_tokenizer is None:
            return Item(id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"])
        system = self.recipe.data.system
        example = restored(record, completion=record["response"])
        try:
            response_ids = encode_response(self.tokenizer, example, stop_ids=self.stop_ids, system=system)
        except NotRendered:  # such as a thought without an end: the text itself, of which the likelihood is asked
            text = self.tokenizer(record["response"], add_special_tokens=False, split_special_tokens=True)
            response_ids = [*text["input_ids"], self.stop_ids[0]]
        if not record["finished"] and len(response_ids) > 1:
            response_ids = response_ids[:-1]  # it was cut by the limit of length, so the student wrote no stop token
        prompt_ids = encode_prompt(self.tokenizer, example, system=system)
        length = len(prompt_ids) + len(response_ids)
        if self.context is not None and length > self.context:
            raise UserError(
                f"teacher: prompt and response {record['id']} are {length} of its tokens, its context is "
                f"{self.context}; lower data.max_prompt_tokens or responses.max_new_tokens"
            )
        return Item(id=record["id"], prompt_ids=prompt_ids, response_ids=response_ids)

    @torch.no_grad()
    def _look_at_head(self, items: Sequence[Item]) -> None:
        """Whether logits can be had from hidden states. They must where those are stored; the head is stored too."""
        batch = self._batch(items[:2])  # few: these logits are made whole
        own, _ = self._log_probs(batch)
        if not own.isfinite().all():
            return  # an error that names the response comes of it
        if self.cache is not None:
            check_head(self.teacher, batch)
            head = self.work / "head.safetensors"
            if not head.exists():  # every rank writes the same file, whole
                TeacherHead.of(self.teacher, vocabulary=self.vocabulary).save(head)
        self.from_hidden = True
        rounding = 1e-3 if self.teacher.dtype in (torch.float32, torch.float64) else 0.1  # 16-bit logits are coarse
        self.from_hidden = torch.allclose(self._log_probs(batch)[0], own, rtol=rounding, atol=rounding)

    @torch.no_grad()
    def _means(self, items: Sequence[Item], keep: set[str]) -> tuple[list[float], dict[str, Tensor]]:
        """Mean log-probability of each response, and hidden states of those in `keep`; the longest are first."""
        order = sorted(range(len(items)), key=lambda at: -(len(items[at].prompt_ids) + len(items[at].response_ids)))
        means = [math.nan] * len(items)
        hidden: dict[str, Tensor] = {}
        for start in range(0, len(order), self.size):
            places = order[start : start + self.size]
            part = [items[place] for place in places]
            found, states = self._log_probs(self._batch(part))
            for row, (place, mean) in enumerate(zip(places, found.tolist(), strict=True)):
                means[place] = mean
                if states is not None and items[place].id in keep:
                    hidden[items[place].id] = states[row, : len(items[place].response_ids)].cpu()
        return means, hidden

    def _log_probs(self, batch: dict[str, Tensor]) -> tuple[Float[Tensor, " batch"], Tensor | None]:
        """Mean token log-probabilities, nats a token, and hidden states [batch, response, hidden] where any are kept.

        From hidden states no logits of the whole batch are made: at 256,000 entries they would take gigabytes.
        """
        ids, mask = batch["response_ids"], batch["response_mask"]
        captured = captured_hidden(self.teacher, batch) if self.from_hidden else None
        if captured is None:
            logits = response_logits(self.teacher, batch)[..., : self.vocabulary]
            states = None if self.cache is None else final_hidden(self.teacher, batch)
            return mean_log_probs(logits, ids, mask), states
        states, head, softcap = captured
        tokens = selected_log_probs(
            states[mask], head.weight, ids[mask], bias=head.bias, softcap=softcap, vocabulary=self.vocabulary
        )
        means = torch.zeros(mask.shape, dtype=tokens.dtype, device=mask.device).masked_scatter(mask, tokens).sum(-1)
        return means / mask.sum(-1), states

    def _batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        batch = collate(items, pad_token_id=0)  # masked, so any id will do
        return {name: value.to(self.models.device) for name, value in batch.items()}

    def _verdicts(self, groups: Sequence[Sequence[Record]]) -> list[Verdict]:
        if self.recipe.score.reward not in ASKING:
            return [Verdict(log_wins=None)] * len(groups)
        comparisons = [
            Comparison(
                id=group[0]["group"],
                conversation=self._conversation(group[0]),
                responses=tuple(record["response"] for record in group),
            )
            for group in groups
        ]
        return choice_scores(self.teacher, self.tokenizer, comparisons, batch_size=self.size, context=self.context)

    def _conversation(self, record: Record) -> Messages:
        messages: Messages = parse_json(record["messages"])
        system = self.recipe.data.system
        if system is None or messages[0]["role"] in ("system", "developer"):
            return messages
        return [{"role": "system", "content": system}, *messages]


def reward(settings: Score, *, log_prob: float, choice: float | None, data: float | None) -> float:
    """The reward of a response by score.reward. A response that the teacher was not asked about keeps log_prob.

    log_prob: the teacher's mean token log-probability; choice: its log mean win probability; data: the data's score.
    """
    if settings.reward == "data":
        assert data is not None
        return data
    if settings.reward == "log_prob" or choice is None:
        return log_prob
    return choice if settings.reward == "choice" else calibrated(log_prob, choice, ratio=settings.calibration)


def finite(value: float, what: str, record: Record) -> float:
    """The value; raises UserError, with the response and its prompt, where it is NaN or infinite."""
    if math.isfinite(value):
        return value
    prompt = " ".join(record["prompt"].split())
    cure = "mend the data" if what.startswith("the data") else "try teacher.dtype: float32, or take the prompt out"
    raise UserError(f"{what} of the response {record['id']} is {value} (prompt: {prompt[:60]!r}); {cure}")
