"""Prompts from JSONL files, with what the data has as responses, and the part of them that is held out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from sys import float_info
from typing import Any

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json

ROLES = ("system", "user", "assistant")
GROUP_KEYS = ("responses", "teacher_scores")
PAIR_KEYS = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt, as text or as messages (one of the two), and its completion or responses where the data has them.

    responses: a group of responses, instead of a completion; scores: one of each, higher is better, where known.
    """

    id: str
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    completion: str | None = None
    responses: list[str] | None = None
    scores: list[float] | None = None

    @property
    def answers(self) -> list[str]:
        """Everything that the data has as a response to the prompt."""
        return self.responses or ([] if self.completion is None else [self.completion])


def read_examples(path: Path, *, limit: int | None = None, groups: bool = True) -> list[Example]:
    """Read a JSONL file of prompts, the first `limit` of them where given.

    A line is {"prompt": str}, {"prompt": str, "completion": str} or {"messages": [{"role", "content"}, ...]}; messages
    that end with an assistant turn have that turn as the completion. Where a line has both, `messages` is used.
    Instead of a completion a line can have a group: "responses": [str, ...], with "teacher_scores": [number, ...] if
    wanted, or "chosen" and "rejected" (each text, or messages that end with an assistant turn), which score 1 and 0.
    groups=False: these four keys are ignored, whatever is in them.
    "id" (text or whole number) must be unique; without one it is the line's number. Blank lines are skipped, other keys
    ignored. Raises UserError with file and line for what is not like that.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a JSONL file of prompts") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a JSONL file of prompts") from None
    examples: list[Example] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(examples) >= limit:
            break
        where = f"{path}, line {number}"
        text = _decoded(line, where)
        if not text.strip():
            continue
        example = _example(text, str(number), where, groups=groups)
        if example.id in line_of:
            raise UserError(f"{where}: id {example.id!r} is also that of line {line_of[example.id]}; make ids unique")
        line_of[example.id] = number
        examples.append(example)
    if not examples:
        raise UserError(f"{path}: no prompts in it; write one JSON object a line")
    return examples


def split_heldout(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, held out): round(fraction * n) examples held out, at least one on each side, file order kept.

    Which ones depends on the ids and the seed alone, not on the order of the file.
    Raises UserError for a fraction outside (0, 1) or fewer than two examples.
    """
    if not 0 < fraction < 1:
        raise UserError(f"heldout_fraction must be above 0 and below 1, got {fraction}")
    if len(examples) < 2:
        raise UserError(
            f"holding prompts out needs at least 2 of them, got {len(examples)}; add prompts or a heldout file"
        )
    count = min(max(round(fraction * len(examples)), 1), len(examples) - 1)
    drawn = sorted(examples, key=lambda example: hashlib.sha256(f"{seed}:{example.id}".encode()).digest())
    heldout = {example.id for example in drawn[:count]}
    return (
        [example for example in examples if example.id not in heldout],
        [example for example in examples if example.id in heldout],
    )


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from None


def _example(text: str, default_id: str, where: str, *, groups: bool) -> Example:
    try:
        value = parse_json(text)
    except NotJSON as error:
        raise UserError(f"{where}: not JSON ({error}); write one JSON object a line") from None
    return example_of(value, default_id=default_id, where=where, groups=groups)


def example_of(value: Any, *, default_id: str, where: str, groups: bool = True) -> Example:
    """An example from a record as in `read_examples`; `where` is named in errors. Values that are None are not there.

    Raises UserError for what is not such a record.
    """
    if not isinstance(value, dict):
        raise UserError(f'{where}: expected an object such as {{"prompt": "..."}}, got {_kind(value)}')
    name = value.get("id", default_id)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"{where}: id must be text or a whole number, got {_kind(name)}")
    completion = value.get("completion")
    if completion is not None:
        _check_text(completion, "completion", where)
    messages, prompt = None, None
    if value.get("messages") is not None:
        messages, completion = _conversation(value["messages"], completion, where)
    elif value.get("prompt") is not None:
        _check_text(prompt := value["prompt"], "prompt", where)
    else:
        raise UserError(f'{where}: neither "prompt" nor "messages"; one of them is needed')
    responses, scores = _group(value, where) if groups else (None, None)
    if responses is not None and completion is not None:
        raise UserError(f"{where}: a completion and a group of responses; keep one of them")
    return Example(
        id=str(name), messages=messages, prompt=prompt, completion=completion, responses=responses, scores=scores
    )


def _group(value: dict[str, Any], where: str) -> tuple[list[str] | None, list[float] | None]:
    """The responses of a line and their scores, each None where the line has none."""
    given = {key: value[key] for key in (*GROUP_KEYS, *PAIR_KEYS) if value.get(key) is not None}
    if any(key in given for key in PAIR_KEYS):
        if given.keys() != set(PAIR_KEYS):
            raise UserError(f"{where}: it has {' and '.join(given)}; give chosen and rejected, both and nothing else")
        return [_last_text(given[key], key, where) for key in PAIR_KEYS], [1.0, 0.0]
    responses, scores = given.get("responses"), given.get("teacher_scores")
    if responses is None:
        if scores is not None:
            raise UserError(f"{where}: teacher_scores without responses; give both or neither")
        return None, None
    if not isinstance(responses, list) or not responses:
        raise UserError(f"{where}: responses must be a list of one text or more")
    for index, response in enumerate(responses):
        _check_text(response, f"responses[{index}]", where)
    if scores is None:
        return responses, None
    if not isinstance(scores, list) or len(scores) != len(responses):
        found = str(len(scores)) if isinstance(scores, list) else _kind(scores)
        raise UserError(f"{where}: {len(responses)} responses need {len(responses)} teacher_scores, got {found}")
    for index, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= float_info.max:
            found = str(score) if isinstance(score, float) else _kind(score)
            raise UserError(f"{where}: teacher_scores[{index}] must be a finite number, got {found}")
    return responses, [float(score) for score in scores]


def _last_text(value: Any, name: str, where: str) -> str:
    """A text, or the content of the last of some messages, which must be the assistant's."""
    if isinstance(value, list) and value:
        last = value[-1]
        if not isinstance(last, dict) or last.get("role") != "assistant":
            raise UserError(f"{where}: {name} must be text, or messages that end with an assistant turn")
        value, name = last.get("content"), f"{name}'s last content"
    _check_text(value, name, where)
    return str(value)


def _conversation(messages: Any, completion: str | None, where: str) -> tuple[list[dict[str, str]], str | None]:
    """The messages of the prompt, and the completion: a last assistant turn is split off."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{where}: messages must be a list of objects with role and content")
    turns = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"{where}: messages[{index}] has role {role!r}; use one of {', '.join(ROLES)}")
        _check_text(message.get("content"), f"messages[{index}].content", where)
        turns.append({"role": role, "content": message["content"]})
    if turns and turns[-1]["role"] == "assistant":
        if completion is not None:
            raise UserError(f"{where}: a completion and a last assistant turn; keep one of them")
        completion = turns.pop()["content"]
    if not turns or turns[-1]["role"] != "user":
        raise UserError(f"{where}: the prompt's messages must end with a user turn")
    return turns, completion


def _check_text(value: Any, name: str, where: str) -> None:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be text, got {_kind(value)}")
    if not value.strip():
        raise UserError(f"{where}: {name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: {name} holds half a surrogate pair, which is no character; repair the text")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
