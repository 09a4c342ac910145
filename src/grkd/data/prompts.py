"""Prompts from JSONL files, and the part of them that is held out."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.errors import UserError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt, as text or as messages (one of the two), and its completion where the data has one."""

    id: str
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    completion: str | None = None


def read_examples(path: Path, *, limit: int | None = None) -> list[Example]:
    """Read a JSONL file of prompts, the first `limit` of them where given.

    A line is {"prompt": str}, {"prompt": str, "completion": str} or {"messages": [{"role", "content"}, ...]}; messages
    that end with an assistant turn have that turn as the completion. Where a line has both, `messages` is used.
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
        example = _example(text, str(number), where)
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


def _example(text: str, default_id: str, where: str) -> Example:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({getattr(error, 'msg', error)}); write one JSON object a line") from None
    if not isinstance(value, dict):
        raise UserError(f'{where}: expected an object such as {{"prompt": "..."}}, got {_kind(value)}')
    name = value.get("id", default_id)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"{where}: id must be text or a whole number, got {_kind(name)}")
    completion = value.get("completion")
    if completion is not None:
        _check_text(completion, "completion", where)
    if value.get("messages") is not None:
        messages, completion = _conversation(value["messages"], completion, where)
        return Example(id=str(name), messages=messages, completion=completion)
    if value.get("prompt") is not None:
        _check_text(value["prompt"], "prompt", where)
        return Example(id=str(name), prompt=value["prompt"], completion=completion)
    raise UserError(f'{where}: neither "prompt" nor "messages"; one of them is needed')


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
