"""Responses of a served teacher to the prompts of a shard, as the student's token ids."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from grkd.data.chat import decode_response, encode_prompt, stop_token_ids
from grkd.data.prompts import restored
from grkd.endpoint.launch import concurrency_of
from grkd.errors import UserError
from grkd.files import parse_json
from grkd.language.context import LanguageContext
from grkd.language.served import compare_first
from grkd.language.shard import Shard, student_ids_of
from grkd.models.load import vocabulary_size
from grkd.served.answers import Written
from grkd.served.teacher import FIRST
from grkd.served.writer import Asked, Drawing, ServedWriter, seed_of

Record = dict[str, Any]

_OF_CHAT = ("role", "content", "name", "tool_call_id")


class ServedSampler:
    """As grkd.language.sampling.Sampler: `share` responses to every prompt. They are kept outside the stage.

    A server that gives log-probabilities gets token ids; another gets messages and its texts are encoded. The first is
    compared with its tokenizer, and with the model here, by the first of `prompts`, before it writes anything.
    label: of one of several.
    """

    def __init__(
        self, context: LanguageContext, share: int, prompts: Sequence[Record], *, label: str | None = None
    ) -> None:
        own = "" if label is None else f"-{label}"
        self.recipe, self.settings, self.models = context.recipe, context.recipe.responses, context.models
        assert context.models.served is not None
        self.spec, self.share, self.own = context.models.served, share, context.models.teacher_tokenizer
        self.stop_ids = context.models.numbers["stop_ids"] if self.own is None else stop_token_ids(self.own)
        folder = context.run.path / "teacher" / f"respond{own}-{context.run.ranks.process_index}"
        concurrency = concurrency_of(self.spec.concurrency)
        vocabulary = vocabulary_size(context.models.tokenizer_of_teacher)
        self.write = ServedWriter(
            context.models.endpoint, folder=folder, concurrency=concurrency, vocabulary=vocabulary
        )
        self.write.server.open()
        if not self.spec.log_probs:
            for one in prompts:  # what cannot be asked is said before anything is
                self._prompt(one)
        else:
            compare_first(context, f"compare{own}", {one["id"]: self._prompt(one) for one in prompts[:FIRST]})

    def __call__(self, shard: Shard) -> list[list[list[int]]]:
        """Token ids of the responses to each prompt; number and journal of the shard are not needed here."""
        copies: Counter[str] = Counter()  # of a prompt that is given more than once
        asked = []
        for prompt in (each for each in shard.prompts for _ in range(self.share)):
            seed = seed_of(self.recipe.seeds[0], prompt["id"], copies[prompt["id"]])
            copies[prompt["id"]] += 1
            asked.append(Asked(id=prompt["id"], prompt=self._prompt(prompt), seed=seed))
        drawing = Drawing(
            max_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=tuple(self.stop_ids) if self.spec.log_probs else (),
        )
        begun = time.perf_counter()
        written = self.write(asked, drawing)
        shard.counts["generation_ms"] += round(1000 * (time.perf_counter() - begun))
        found = []
        for at, answer in enumerate(written):
            ids = self._ids(shard.prompts[at // self.share], answer)
            shard.counts["responses_not_rendered"] += not ids
            shard.counts["generated_tokens"] += len(ids)
            shard.progress(1, len(ids))
            found.append(ids)
        return [found[at * self.share : (at + 1) * self.share] for at in range(len(shard.prompts))]

    def _prompt(self, prompt: Record) -> Any:
        system = self.recipe.data.system
        if not self.spec.log_probs:
            return chat_messages(prompt, system)
        ids = prompt["prompt_ids"] if self.own is None else encode_prompt(self.own, restored(prompt), system=system)
        context, length = self.write.server.context, len(ids) + self.settings.max_new_tokens
        if context is not None and length > context:
            raise UserError(
                f"teacher: prompt {prompt['id']} and its response take {length} of its tokens, the server's context is "
                f"{context}; lower data.max_prompt_tokens or responses.max_new_tokens, or raise --max-model-len"
            )
        return ids

    def _ids(self, prompt: Record, answer: Written) -> list[int]:
        """The response in the student's tokens; none if the student's chat template cannot write it."""
        if (ids := answer.ids) is None or self.own is not None:
            text = answer.text if ids is None else decode_response(self.own, ids, self.stop_ids)
            return student_ids_of(self.models, self.recipe, prompt, text, finished=answer.finished)
        if not answer.finished or (ids and ids[-1] in self.stop_ids):
            return ids
        # The student's stop token, in place of the teacher's own.
        special = ids and ids[-1] in self.models.tokenizer.all_special_ids
        return [*(ids[:-1] if special else ids), self.stop_ids[0]]


def chat_messages(prompt: Record, system: str | None) -> list[dict[str, Any]]:
    """A prompt's messages as chat APIs take them: without thoughts and weights, arguments of calls as text.

    Raises UserError for a prompt with tools, which the request does not name.
    """
    if parse_json(prompt["context"] or "{}").get("tools"):
        raise UserError(
            f"teacher: prompt {prompt['id']} has tools, and a server without log_probs is asked with messages alone; "
            "remove the record, or serve the teacher with log-probabilities (vLLM) and set teacher.log_probs: true"
        )
    messages = parse_json(prompt["messages"])
    if system is not None and messages[0]["role"] not in ("system", "developer"):
        messages = [{"role": "system", "content": system}, *messages]
    asked = []
    for message in messages:
        own = {name: message[name] for name in _OF_CHAT if name in message}
        if "tool_calls" in message:
            own["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
        asked.append(own)
    return asked
