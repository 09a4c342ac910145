"""One reader of records: a dict as people and data sets write it becomes prompts with their responses."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from grkd.data.conversation import (
    Answer,
    Messages,
    answer_of,
    check_text,
    kind,
    message_of,
    read_messages,
    read_template_options,
    read_tools,
)
from grkd.data.prompts import Example, Turns
from grkd.data.record_groups import (
    GROUP_KEYS,
    ORDER_KEYS,
    PAIR_KEYS,
    check_agreement,
    read_answer,
    read_group,
    scores_of_order,
)
from grkd.errors import UserError, nearest

_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_PROMPT = ("id", "messages", "conversations", "prompt", *PAIR_KEYS)  # what is no column of its own to a ranker
_NO_TURN = "no assistant turn after a user's; the prompt's messages must end with a user turn"
_MEANT = {"scores": "teacher_scores", "rewards": "teacher_scores"}
_USED = ("id", "messages", "conversations", "prompt", "completion", "system", "tools", "chat_template_kwargs")


def examples_of(
    record: Any,
    *,
    default_id: str,
    where: str,
    groups: bool = True,
    turns: Turns = "all",
    unused: Counter[str] | None = None,
) -> list[Example]:
    """The prompts of a record, one per assistant turn that is learnt; values that are null are not there.

    The prompt is `messages` (`conversations` in the ShareGPT form), or `prompt` (text or messages). What is learnt is
    `completion` (text or messages), else every assistant turn of `messages`, else a group: `responses` (with
    `teacher_scores`, `best`, `order`, `tiers` or `beats` if wanted) or `chosen` and `rejected`, which score 1 and 0;
    these are text, messages, or whole conversations, which must be equal up to the last turn. turns="last": only the
    last assistant turn (groups=False: the prompt that the conversation ends with).
    A conversation that ends with the user gives a prompt without a response. `system`, `tools` and
    `chat_template_kwargs` belong to all turns. groups=False: responses are not wanted; a group's keys are checked, and
    give the prompt where the record has it nowhere else.
    unused: counts keys that nothing reads. Raises UserError, with `where`, for what is not such a record.
    """
    if not isinstance(record, dict):
        raise UserError(f'{where}: expected an object such as {{"prompt": "..."}}, got {kind(record)}')
    name = default_id if record.get("id") is None else record["id"]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"{where}: id must be text or a whole number, got {kind(name)}")
    check_text(str(name), "id", where)
    if media := next((key for key in _MEDIA if record.get(key)), None):
        raise UserError(f"{where}: it has {media}; only text is learnt, drop records with {media}")
    if unused is not None:
        known = (*_USED, *GROUP_KEYS, *PAIR_KEYS, *(ORDER_KEYS if record.get("responses") else ()))
        unused.update(key for key, value in record.items() if key not in known and value not in (None, "", []))
    parts = _Parts.of(record, where, unused)
    wanted = groups or parts.empty
    prompt = parts if wanted else replace(parts)
    answers, scores = _group(record, prompt, where)
    if answers is not None and any(message["role"] == "assistant" for message in [*prompt.before, *prompt.learnt][-1:]):
        raise UserError(f"{where}: a completion and a group of responses; keep one of them")
    common: dict[str, Any] = {
        "tools": read_tools(record.get("tools"), where),
        "template_options": read_template_options(record.get("chat_template_kwargs"), where),
        "columns": {key: value for key, value in record.items() if key not in _PROMPT},
    }
    if answers is not None and not groups and wanted:
        return [Example(id=str(name), **parts.prompt(where), **common)]
    if answers is not None and groups:
        alone = scores is not None and record.get("teacher_scores") is None
        return [
            Example(id=str(name), **parts.prompt(where), responses=answers, scores=scores, order_alone=alone, **common)
        ]
    return _turns(str(name), parts, turns, where, common, answered=groups)


def meant_key(key: str) -> str | None:
    """The key of a record that one which nothing reads was probably to be."""
    known = (*_USED, *GROUP_KEYS, *PAIR_KEYS, *ORDER_KEYS)
    return _MEANT.get(key) or nearest(key, known, at_least=0.8)


@dataclass
class _Parts:
    """A record's prompt, as text or messages, and what follows it: the messages of which the assistant's are learnt."""

    text: str | None
    before: Messages
    learnt: Messages

    @classmethod
    def of(cls, record: dict[str, Any], where: str, unused: Counter[str] | None) -> "_Parts":
        listed = [key for key in ("messages", "conversations") if record.get(key) is not None]
        if len(listed) > 1:
            raise UserError(f"{where}: both messages and conversations; keep one of them")
        prompt, completion = record.get("prompt"), record.get("completion")
        parts = cls(None, [], [])
        if listed:
            whole = read_messages(record[listed[0]], listed[0], where, unused=unused)
            _check_prompt_beside(prompt, whole, listed[0], where)
            parts = cls(None, [], whole)
        elif isinstance(prompt, list):
            parts.before = read_messages(prompt, "prompt", where, unused=unused)
        elif prompt is not None:
            parts.text = check_text(prompt, "prompt", where)
        elif any(record.get(key) is None for key in PAIR_KEYS):
            raise UserError(f'{where}: neither "prompt" nor "messages"; give one of them')
        if completion is not None:
            parts._complete(completion, where, unused)
        if record.get("system") is not None:
            parts._set_system(check_text(record["system"], "system", where, empty=True), where)
        return parts

    @property
    def empty(self) -> bool:
        return self.text is None and not self.before and not self.learnt

    def prompt(self, where: str) -> dict[str, Any]:
        """Fields of an Example whose prompt is all that is here."""
        messages = [*self.before, *self.learnt]
        if self.text is not None and not messages:
            return {"prompt": self.text}
        if self.text is not None:
            messages = [*messages, {"role": "user", "content": self.text}]
        if not messages or messages[-1]["role"] not in ("user", "tool"):
            raise UserError(f"{where}: the prompt's messages must end with a user turn or a tool's")
        return {"messages": messages}

    def _complete(self, completion: Any, where: str, unused: Counter[str] | None) -> None:
        """Take the completion as what is learnt, and everything else as the prompt."""
        self.before, self.learnt = [*self.before, *self.learnt], []
        if self.before and self.before[-1]["role"] == "assistant":
            raise UserError(f"{where}: a completion and a last assistant turn; keep one of them")
        if not isinstance(completion, list):
            self.learnt = [{"role": "assistant", "content": check_text(completion, "completion", where)}]
            return
        turns = [{"role": "assistant", **turn} if isinstance(turn, dict) else turn for turn in completion]
        self.learnt = read_messages(turns, "completion", where, unused=unused)
        if not self.learnt or self.learnt[-1]["role"] != "assistant":
            raise UserError(f"{where}: a completion of messages must end with an assistant turn")
        if self.text is not None and len(self.learnt) > 1:
            self.text, self.before = None, [{"role": "user", "content": self.text}]

    def _set_system(self, system: str, where: str) -> None:
        if not system.strip():
            return
        first = [*self.before, *self.learnt][:1]
        if first and first[0]["role"] == "system":
            if first[0]["content"].strip() != system.strip():
                raise UserError(f"{where}: system beside a system message that says something else; keep one of them")
            return
        before = self.before if self.text is None else [{"role": "user", "content": self.text}]
        self.text, self.before = None, [{"role": "system", "content": system}, *before]


def _turns(
    name: str, parts: _Parts, turns: Turns, where: str, common: dict[str, Any], *, answered: bool
) -> list[Example]:
    """An example per assistant turn that answers something, and one for what is left unanswered at the end.

    answered: what is wanted are answers, not prompts to answer.
    """
    whole = [*parts.before, *parts.learnt]
    roles = [message["role"] for message in whole]
    if ("assistant", "assistant") in pairwise(roles):
        raise UserError(f"{where}: two assistant turns in a row; join them into one")
    places = [
        place
        for place in range(len(parts.before), len(whole))
        if whole[place]["role"] == "assistant" and whole[place].get("weight", 1) and _answers(whole, place, parts)
    ]
    found: list[dict[str, Any]] = []
    for place in places:
        prompt = {"prompt": parts.text} if place == 0 else {"messages": whole[:place]}
        found.append({**prompt, "completion": answer_of(whole[place])})
    if not whole or whole[-1]["role"] != "assistant":
        found.append(parts.prompt(where))
    if not found:
        weighed = any(message.get("weight") == 0 for message in whole)
        why = "every assistant turn has weight 0; give one weight 1, or drop the record" if weighed else _NO_TURN
        raise UserError(f"{where}: {why}")
    if turns == "last":  # the user's last words may be unanswered
        learnt = [each for each in found if "completion" in each] if answered else []
        found = (learnt or found)[-1:]
    if len(found) == 1:
        return [Example(id=name, **found[0], **common)]
    return [Example(id=f"{name}:{n}", record=name, **each, **common) for n, each in enumerate(found, start=1)]


def _answers(whole: Messages, place: int, parts: _Parts) -> bool:
    """Whether the assistant's message at this place answers a user or a tool."""
    if place == 0:
        return parts.text is not None
    return whole[place - 1]["role"] in ("user", "tool")


def _group(record: dict[str, Any], parts: _Parts, where: str) -> tuple[list[Answer] | None, list[float] | None]:
    """The responses of a record and their scores, each None if it has none; a pair may hold the prompt too."""
    given = {key: record[key] for key in (*GROUP_KEYS, *PAIR_KEYS) if record.get(key) is not None}
    if any(key in given for key in PAIR_KEYS):
        if given.keys() != set(PAIR_KEYS):
            raise UserError(f"{where}: it has {' and '.join(given)}; give chosen and rejected, both and nothing else")
        return _pair(given["chosen"], given["rejected"], parts, where), [1.0, 0.0]
    scores = scores_of_order(record, where)
    return read_group(given.get("responses"), given.get("teacher_scores") if scores is None else scores, where)


def _pair(chosen: Any, rejected: Any, parts: _Parts, where: str) -> list[Answer]:
    """Both answers; `parts` then holds the prompt alone, wherever the record has it."""
    before_chosen, better = _answer_and_context(chosen, "chosen", where)
    before_rejected, worse = _answer_and_context(rejected, "rejected", where)
    if None not in (before_chosen, before_rejected) and before_chosen != before_rejected:
        raise UserError(f"{where}: chosen and rejected answer different prompts")
    check_agreement([better, worse], PAIR_KEYS, (1.0, 0.0), where)
    prompt = [*parts.before, *parts.learnt]
    if prompt and prompt[-1]["role"] == "assistant":  # as some published sets have it: messages that end with chosen
        if prompt[-1] != message_of(better):
            raise UserError(f"{where}: messages end with another answer than chosen; keep one of them")
        prompt = prompt[:-1]
    if context := before_chosen or before_rejected:
        prompt = _longer(prompt if parts.text is None else [{"role": "user", "content": parts.text}], context, where)
        alone = prompt[0] if len(prompt) == 1 else {}
        is_text = alone.keys() == {"role", "content"} and alone["role"] == "user"
        parts.text, prompt = (alone["content"], []) if is_text else (None, prompt)
    parts.before, parts.learnt = prompt, []
    if parts.text is None and not prompt:
        raise UserError(f'{where}: neither "prompt" nor "messages"; give one of them')
    return [better, worse]


def _answer_and_context(value: Any, name: str, where: str) -> tuple[Messages | None, Answer]:
    """One side of a pair: the messages before its answer, None where it is the answer alone; and the answer."""
    if not isinstance(value, list):
        return None, read_answer(value, name, where)
    turns = read_messages(value, name, where)
    if not turns or turns[-1]["role"] != "assistant":
        raise UserError(f"{where}: {name} must be text, or messages that end with an assistant turn")
    return turns[:-1], answer_of(turns[-1])


def _longer(prompt: Messages, context: Messages, where: str) -> Messages:
    """A record's prompt or what is before the answers of its pair, one of which must end with the other."""
    longer, shorter = (context, prompt) if len(context) >= len(prompt) else (prompt, context)
    if shorter and _texts(longer)[-len(shorter) :] != _texts(shorter):
        raise UserError(f"{where}: the prompt is not the one that chosen answers; keep one of them")
    return longer


def _check_prompt_beside(prompt: Any, whole: Messages, name: str, where: str) -> None:
    """Raises UserError for a prompt that is not in the messages beside it: which of the two is meant?"""
    if prompt is None:
        return
    if isinstance(prompt, list):
        turns = _texts(read_messages(prompt, "prompt", where))
        known = _texts(whole)[: len(turns)] == turns
    else:
        text = check_text(prompt, "prompt", where).strip()
        known = any(text == message["content"].strip() for message in whole)
    if not known:
        raise UserError(f"{where}: the prompt is not in the {name} beside it; keep one of them")


def _texts(messages: Messages) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]
