"""Responses in a teacher's own tokens, and a teacher in this process that scores them in every step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grkd.data.chat import decode_response, encode_response
from grkd.data.language import Group, Item, collate
from grkd.data.prompts import Example
from grkd.teacher.crossing import Crossing
from grkd.teacher.in_own_words import items_in_own_words
from grkd.teacher.rank_cache import content_key
from grkd.training.token_rows import token_hidden, token_logits

PLACES = "places"


class OwnTokens:
    """The teacher's tokens of the responses of groups, made of their text. Groups need `columns` with the prompt.

    stop_ids: of student and teacher, the tokens that end a response. context: the teacher's, in its tokens.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase,
        *,
        stop_ids: tuple[Sequence[int], Sequence[int]],
        context: int | None,
    ) -> None:
        self.student, self.teacher, self.context = student, teacher, context
        self.stop_ids, self.teacher_stop_ids = stop_ids
        self._kept: dict[str, Item] = {}

    def __call__(self, group: Group) -> list[Item]:
        """Of each response of a group; ids are digests of the student's tokens. Raises UserError as `keep`."""
        keys = [content_key(item) for item in group.items]
        return [self._kept[key] for key in keys] if all(key in self._kept for key in keys) else self._made(group, keys)

    def keep(self, groups: Iterable[Group]) -> None:
        """Make those of stored groups once. Raises UserError for text over the teacher's context."""
        for group in groups:
            self._kept |= {item.id: item for item in self(group)}

    def crossing(self) -> Crossing:
        """What both vocabularies spell; the tokens that end a short answer are the same text on both sides."""
        probe = Example(id="probe", prompt="Hello", completion="Hello")
        ends = [
            encode_response(side, probe, stop_ids=list(stops))[-1]
            for side, stops in ((self.student, self.stop_ids), (self.teacher, self.teacher_stop_ids))
        ]
        return Crossing(self.student, self.teacher, student_stop=ends[0], teacher_stop=ends[1])

    def _made(self, group: Group, keys: Sequence[str]) -> list[Item]:
        columns = dict(group.columns or {})
        prompt = columns.pop("prompt")
        texts = [decode_response(self.student, item.response_ids, self.stop_ids) for item in group.items]
        finished = [item.response_ids[-1] in self.stop_ids for item in group.items]
        known = {name: [columns.get(name)] for name in ("tools", "chat_template_kwargs")}
        found = items_in_own_words(
            self.teacher,
            [prompt],
            [texts],
            {"group": [group.id], "finished": [finished], **known},
            stop_ids=self.teacher_stop_ids,
            context=self.context,
        )
        return [Item(key, item.prompt_ids, item.response_ids) for key, item in zip(keys, found, strict=True)]


class LiveScores:
    """A model that scores its own tokens in every step. (It is StoredScores.) PLACES in a batch: the rows wanted."""

    def __init__(self, model: Any, *, pad_token_id: int) -> None:
        self.model, self.pad_token_id = model, pad_token_id

    def has(self, item: Item) -> bool:
        return True

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return collate(items, pad_token_id=self.pad_token_id)

    @torch.no_grad()
    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"]:
        """Logits of the tokens of all responses, or of the places among them."""
        places = batch.get(PLACES)
        given = {name: value for name, value in batch.items() if name != PLACES}
        captured = token_hidden(self.model, given) if places is not None else None
        if captured is None:
            found = token_logits(self.model, given, vocabulary)
            return found if places is None else found[places]
        hidden, head, softcap = captured
        logits: Tensor = head(hidden[places].to(head.weight.dtype))[:, :vocabulary]
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)
