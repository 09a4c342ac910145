"""From a language model and groups of responses to rows: tokens, and prompts whose candidates are responses."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grkd.data.language import Group, Item, collate, unwrapped
from grkd.data.packed import SHARING_ATTENTION, attention_of, bins, is_packed, own_tokens, pack, part_of
from grkd.errors import UserError
from grkd.models.packed_attention import take_packed_attention
from grkd.models.packing_check import check_packing
from grkd.models.shard import is_sharded
from grkd.objectives import Batch, Choice, Level, Objective
from grkd.teacher.rank_cache import RankCache
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.teacher.stored_scores import StoredScores
from grkd.training.cached_ranks import cached_batch
from grkd.training.fresh_groups import FreshGroups, renewed
from grkd.training.groups_of_responses import chosen, group_of, padded, response_rows, same_prompts, scores_of
from grkd.training.on_policy import Sampler
from grkd.training.rows import Counts, Forward, Places, RowSource
from grkd.training.several_teachers import TokenOrder, opinions_of, weights_of_items
from grkd.training.token_rows import (
    OFFSETS,
    arrived,
    both_heads,
    log_probs_of_head,
    log_probs_of_logits,
    stored_hidden,
    teacher_hidden,
    token_hidden,
    token_labels,
    token_log_probs,
    token_logits,
    token_offsets,
    token_seeds,
)


class LanguageRows(RowSource):
    """Level "row": a row is a response token, a candidate a vocabulary entry. "response": a prompt and its responses.

    The teacher of tokens is a live model, or a cache of its hidden states with its head, or stored scores, or absent;
    that of responses is the scores of the groups. Candidates beyond `vocabulary` are padding of the embedding matrices
    and are cut on both sides. trains_on: which responses of a group are used, see grkd.objectives.Objective.
    sampler: writes the responses of on-policy methods. fresh: groups sampled in training, and who ranks them.
    tokens_per_batch: batches are packed in rows without padding (grkd.data.packed), and one with more tokens than this
    is learnt from in several passes, groups staying together; None: they are padded. share_prompts: in a packed row the
    responses of a group share one copy of their prompt if the student's attention can.
    teacher_in_training: False: the live teacher's scores of tokens are only measured with, when no gradient is taken.
    token_order: of several teachers (PooledModel, PooledScores), see grkd.training.several_teachers.
    kept: the live teacher's hidden states of the stored responses, by item id: beside responses that are sampled in
    training it computes the new ones alone.
    """

    unit = "tokens"

    def __init__(
        self,
        *,
        pad_token_id: int,
        vocabulary: int,
        teacher: Any = None,
        cache: HiddenCache | None = None,
        head: TeacherHead | None = None,
        stored: StoredScores | None = None,
        trains_on: Choice = "all",
        sampler: Sampler | None = None,
        fresh: FreshGroups | None = None,
        tokens_per_batch: int | None = None,
        share_prompts: bool = True,
        teacher_in_training: bool = True,
        token_order: TokenOrder = "log_probs",
        kept: HiddenCache | None = None,
    ) -> None:
        if (cache is None) != (head is None) or (cache is not None and teacher is not None):
            raise ValueError("give a live teacher, or a cache and its head, or neither")
        if stored is not None and (cache is not None or teacher is not None):
            raise ValueError("stored scores of tokens take the place of a teacher and of a cache")
        self.pad_token_id, self.vocabulary = pad_token_id, vocabulary
        self.teacher, self.cache, self.head, self.stored = teacher, cache, head, stored
        self.trains_on, self.sampler, self.fresh = trains_on, sampler, fresh
        self.tokens_per_batch, self._packing_checked = tokens_per_batch, False
        self.shares_prompts = False  # until the student's attention is known
        self.share_prompts, self.teacher_in_training = share_prompts, teacher_in_training
        self.token_order, self.kept = token_order, kept
        self.ranks: RankCache | None = None  # in place of a teacher of tokens: grkd.training.cached_ranks
        self.pairs_of_ranks = True  # whether the method compares pairs of tokens
        self.seconds: dict[str, float] = defaultdict(float)  # of sampling and ranking since the last log

    def collate(self, examples: Sequence[Group | Item]) -> dict[str, Any]:
        """A batch of the chosen responses, one item after the other; an Item is a group of one."""
        return self.collate_all([chosen(group_of(example), self.trains_on) for example in examples])

    def collate_all(self, groups: Sequence[Group]) -> dict[str, Any]:
        """A batch of all responses of these groups."""
        items = [item for group in groups for item in group.items]
        if self.tokens_per_batch is None:
            batch: dict[str, Any] = dict(collate(items, pad_token_id=self.pad_token_id))
        else:
            shared = same_prompts(groups) if self.shares_prompts else None
            batch = pack(items, pad_token_id=self.pad_token_id, shared=shared)
        if self.cache is not None and self.head is not None:
            # Rows in the order of response_mask: item by item, each token of its response.
            batch["teacher_hidden"] = stored_hidden(self.cache, self.head, [item.id for item in items])
        if self.stored is not None:
            batch |= self.stored.collate(items)
        batch |= weights_of_items(self.teacher, groups)
        if self.ranks is not None:
            batch["teacher_ranks"] = self.ranks.rows(items)
        batch |= scores_of(groups)
        if self.tokens_per_batch is not None:
            batch["group_sizes"] = [len(group.items) for group in groups]
            batch[OFFSETS] = token_offsets([sum(len(item.response_ids) for item in group.items) for group in groups])
        width = batch["group_mask"].shape[-1]
        if all(group.reference_log_probs is not None for group in groups):
            batch["reference"] = padded([group.reference_log_probs or () for group in groups], width)
        if self.sampler is not None:
            batch["groups"] = groups  # the prompts, for those that are answered again
        return batch

    def rows_of(self, group: Group) -> list[int]:
        """Rows of tokens that each response of a group makes."""
        return [len(item.response_ids) for item in group.items]

    def count(self, batch: dict[str, Any]) -> Counts:
        # Of a packed batch without a look at the device, which would wait for it.
        packed = sum(response for _, response in batch["lengths"]) if is_packed(batch) else None
        tokens = int(batch["response_mask"].sum()) if packed is None else packed
        return {"row": tokens, "response": len(batch["group_mask"])}

    def forward(
        self,
        model: nn.Module,
        batch: dict[str, Any],
        *,
        levels: Sequence[Level],
        fused: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Forward:
        """Token rows from logits, or as inputs of the fused head; responses from hidden states, without logits."""
        arrived(batch)
        if is_packed(batch) and not self._packing_checked:
            self._packing_checked = True
            for side in filter(None, (model, self.teacher)):
                check_packing(side, vocabulary=self.vocabulary, device=batch["input_ids"].device)
        labels = token_labels(batch)
        if "row" in levels:
            inputs = self._head_inputs(model, batch, dtype) if fused else None
            if inputs is None:
                student = token_logits(model, batch, self.vocabulary)
                rows = self._token_rows(student, batch, labels)
                batches: dict[Level, Batch] = {"row": rows}
                if "response" in levels:
                    batches["response"] = response_rows(log_probs_of_logits(student, labels), batch)
                return Forward(batches=batches)
            batches = {}
            if "response" in levels:
                batches["response"] = response_rows(log_probs_of_head(inputs, labels, self.vocabulary), batch)
            return Forward(batches=batches, head_inputs=inputs)
        log_probs = token_log_probs(model, batch, self.vocabulary, dtype)
        return Forward(batches={"response": response_rows(log_probs, batch)})

    def fresh_share(self, objective: Objective) -> float:
        """Share of the prompts that the student answers again for this method.

        Raises UserError for a method that would compare new responses which nobody ranks.
        """
        share = objective.on_policy if self.fresh is None else self.fresh.share(objective)
        if share and self.fresh is None and "response" in objective.levels:
            raise UserError(
                "this method compares responses that are sampled in training, and nothing ranks them; give GRKDTrainer "
                "rankers, set responses.when: in_training in a recipe, or choose a method of stored responses"
            )
        return share

    def renew(
        self, model: nn.Module, batches: Sequence[dict[str, Any]], objective: Objective, *, seed: int, places: Places
    ) -> list[dict[str, Any]]:
        """The batches with the on-policy share of their prompts answered again."""
        if self.sampler is None:
            raise ValueError("an on-policy method needs a sampler")
        if self.cache is not None or self.stored is not None:
            raise ValueError("a cache knows nothing of new responses: an on-policy method needs a live teacher")
        return renewed(self, model, batches, objective, seed=seed, places=places)

    @property
    def asked_teachers(self) -> tuple[Any, ...]:
        """The models that are asked about new responses: for scores of tokens, and by rankers."""
        return (self.teacher, *(() if self.fresh is None else self.fresh.teachers))

    def teacher_head(self) -> TeacherHead | None:
        """What makes the teacher's scores of its hidden states; None if there is no such way, as of several as one."""
        if self.head is not None or self.teacher is None or self.teacher.get_output_embeddings() is None:
            return self.head
        return TeacherHead.of(self.teacher)

    def to(self, device: torch.device, *, student: nn.Module | None = None, dtype: torch.dtype | None = None) -> None:
        for module in (self.teacher, self.head):
            if module is not None and not is_sharded(module):
                module.to(device).eval().requires_grad_(False)
        if self.tokens_per_batch is not None and student is not None:
            sides = [(unwrapped(student), dtype)] + ([] if self.teacher is None else [(self.teacher, None)])
            options: dict[str, Any] = {"device": device, "share": self.share_prompts}
            if not all(take_packed_attention(model, dtype=of or model.dtype, **options) for model, of in sides):
                self.tokens_per_batch = None
            self.shares_prompts = self.share_prompts and attention_of(student).startswith(SHARING_ATTENTION)

    def passes(self, batch: dict[str, Any], *, whole: bool = False) -> list[dict[str, Any]]:
        """The batch in parts of at most tokens_per_batch, whole groups each; a group of more is a part of its own.

        whole: not in parts, for methods that compare the rows of a batch.
        """
        if self.tokens_per_batch is None or whole:
            return [batch]
        of_items = own_tokens(batch)
        ends = list(accumulate(batch["group_sizes"]))
        sizes = [sum(of_items[end - size : end]) for size, end in zip(batch["group_sizes"], ends, strict=True)]
        parts = bins(sizes, self.tokens_per_batch)
        if len(parts) == 1:
            return [batch]
        arrived(batch)
        return [part_of(batch, part, pad_token_id=self.pad_token_id) for part in parts]

    def taken(self) -> dict[str, tuple[float, int]]:
        return {} if self.fresh is None else dict(self.fresh.taken())

    def _token_rows(self, student: Tensor, batch: dict[str, Any], labels: Tensor) -> Batch:
        mask = batch["response_mask"]
        items = torch.arange(len(mask), device=mask.device)
        response = items.repeat_interleave(mask.sum(-1), output_size=len(labels))  # without asking the device
        if self.ranks is not None:
            ranks, records = self.ranks, batch["teacher_ranks"]
            temperature, pairs = ranks.origin.temperature, self.pairs_of_ranks
            return cached_batch(student, records, ranks.codec, temperature=temperature, pairs=pairs, response=response)
        read = self.teacher_in_training or not torch.is_grad_enabled()
        asked = (self.teacher, self.stored, batch, self.token_order)
        opinions = opinions_of(*asked, vocabulary=self.vocabulary) if read else None
        return Batch(
            seeds=token_seeds(batch),
            student=student,
            teacher=opinions.pooled() if opinions is not None else self._teacher_scores(batch) if read else None,
            votes=None if self.token_order == "log_probs" else opinions,
            labels=labels,
            response=response,
            sampled_log_probs=batch.get("sampled_log_probs"),
        )

    def _head_inputs(self, model: nn.Module, batch: dict[str, Any], dtype: torch.dtype | None) -> dict[str, Any] | None:
        """What grkd.kernels.distillation_head reads: both sides' hidden states and heads; None if one is special."""
        if self.ranks is not None or (self.cache is None and self.teacher is None):
            return None
        teacher = self.teacher_head()
        captured = token_hidden(model, batch) if teacher is not None and teacher.scale == 1.0 else None
        if teacher is None or captured is None:
            return None
        if "teacher_hidden" in batch:
            of_teacher = batch["teacher_hidden"]
        else:
            with torch.no_grad():
                of_teacher = teacher_hidden(self.teacher, batch)
        sides = captured, (of_teacher, teacher)
        return {"seeds": token_seeds(batch), "vocabulary": self.vocabulary, **both_heads(*sides, dtype=dtype)}

    @torch.no_grad()
    def _teacher_scores(self, batch: dict[str, Any]) -> Tensor | None:
        if self.stored is not None:
            return self.stored.scores(batch, vocabulary=self.vocabulary)
        head = self.teacher_head() if "teacher_hidden" in batch else None
        if head is not None:
            return head(batch["teacher_hidden"])[:, : self.vocabulary]
        if self.teacher is not None:
            return token_logits(self.teacher, batch, self.vocabulary)
        return None


@torch.no_grad()
def mean_log_probs_of(rows: LanguageRows, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "groups width"]:
    """Mean log-probability of every response of a batch under a model, such as the student before training."""
    return rows.forward(model, batch, levels=("response",)).batches["response"].student
