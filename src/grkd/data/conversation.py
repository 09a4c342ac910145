"""Messages of a conversation in one form, whatever form a record has them in.

A message is a dict with `role` and `content` (text), and where it has them `reasoning_content`, `tool_calls`, `name`,
`tool_call_id` and `weight`. Thoughts that are written inside the content (`<think>...</think>`) stay there.
"""

import json
from collections import Counter
from typing import Any

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json

Message = dict[str, Any]
Messages = list[Message]
Answer = str | Message

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "reasoning", "thinking")
_USED = ("role", "content", "tool_calls", "name", "tool_call_id", "weight", *REASONING)
_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
# apply_chat_template's own arguments, which are ours to give.
SET_BY_US = {
    *("conversation", "messages", "tools", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("chat_template", "return_tensors", "return_dict", "padding", "truncation", "max_length"),
    *("tokenizer_kwargs", "return_assistant_tokens_mask", "documents"),
}


def read_messages(value: Any, name: str, where: str, *, unused: Counter[str] | None = None) -> Messages:
    """The messages of a list in the OpenAI form (role, content) or the ShareGPT form (from, value).

    Empty system messages are left out. Fields without a use are counted in `unused`.
    Raises UserError, with `where` and `name`, for images and anything else that is not text.
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise UserError(f"{where}: {name} must be a list of objects with role and content, got {kind(value)}")
    found = []
    for index, message in enumerate(value):
        here = f"{name}[{index}]"
        if message.get("role") is None and message.get("from") is not None:
            message = _from_sharegpt(message, here, where)
        read = _message(message, here, where, unused)
        if read["role"] != "system" or read["content"].strip():
            found.append(read)
    _check_call_ids(found, name, where)
    return found


def _check_call_ids(messages: Messages, name: str, where: str) -> None:
    """Raises UserError for a tool's turn that answers a call which is not there; calls may be without ids."""
    ids: set[str | None] = set()
    for message in messages:
        ids.update(call.get("id") for call in message.get("tool_calls", ()))
        answered = message.get("tool_call_id")
        if ids and None not in ids and answered is not None and answered not in ids:
            raise UserError(f"{where}: {name}: tool_call_id {answered!r} matches no earlier tool call")


def read_tools(value: Any, where: str) -> list[dict[str, Any]] | None:
    """Descriptions of tools: a list of objects, or the same as JSON text; None and empty lists are no tools."""
    if isinstance(value, str):
        value = _parsed(value, "tools", where) if value.strip() else None
    if value in (None, []):
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise UserError(f"{where}: tools must be a list of objects (JSON schemas), got {kind(value)}")
    tools: list[dict[str, Any]] = without_nulls(value)
    return tools


def read_template_options(value: Any, where: str) -> dict[str, Any] | None:
    """Extra variables of the chat template, such as enable_thinking."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(f"{where}: chat_template_kwargs must be an object, got {kind(value)}")
    if taken := sorted(value.keys() & SET_BY_US):
        raise UserError(f"{where}: chat_template_kwargs: {taken[0]} is set by grkd; remove it")
    options: dict[str, Any] = without_nulls(value)
    return options or None


def answer_of(message: Message) -> Answer:
    """An assistant's message as its text alone where it has nothing else."""
    return str(message["content"]) if message.keys() <= {"role", "content", "weight"} else message


def message_of(answer: Answer) -> Message:
    """The assistant's message of an answer."""
    return {"role": "assistant", "content": answer} if isinstance(answer, str) else answer


def shown(message: Message) -> str:
    """A message as people read it: its text, or its tool calls."""
    if message["content"]:
        return str(message["content"])
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return "\n".join(f"{call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})" for call in calls)


def check_text(value: Any, name: str, where: str, *, empty: bool = False) -> str:
    """The value; raises UserError for what is not text, is empty, or holds half a surrogate pair."""
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be text, got {kind(value)}")
    if not empty and not value.strip():
        raise UserError(f"{where}: {name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: {name} contains a lone surrogate, which is not a character; repair the text")
    return value


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def without_nulls(value: Any) -> Any:
    """The value without null entries of objects: tables fill in null for every key that another record has."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _message(message: dict[str, Any], here: str, where: str, unused: Counter[str] | None) -> Message:
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"{where}: {here} has role {role!r}; use one of {', '.join(ROLES)}")
    found: Message = {"role": role}
    calls = _tool_calls(message.get("tool_calls"), f"{here}.tool_calls", where)
    if calls and role != "assistant":
        raise UserError(f"{where}: {here} has tool_calls, but role {role}; only the assistant calls tools")
    content = message.get("content")
    if isinstance(content, list):
        content = _joined(content, f"{here}.content", where)
    if content is None and calls:
        content = ""
    found["content"] = check_text(content, f"{here}.content", where, empty=bool(calls) or role in ("tool", "system"))
    thoughts = {str(message[key]).strip() for key in REASONING if message.get(key) not in (None, "")}
    if len(thoughts) > 1:
        raise UserError(f"{where}: {here} has different texts in {' and '.join(REASONING)}; keep one of them")
    if thoughts:
        if role != "assistant":
            raise UserError(f"{where}: {here} has reasoning, but role {role}; only the assistant's is learnt")
        key = next(key for key in REASONING if message.get(key) not in (None, ""))
        found["reasoning_content"] = check_text(message[key], f"{here}.{key}", where)
        found[key] = found["reasoning_content"]  # templates know one name or the other
    if calls:
        found["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        if message.get(key) not in (None, ""):
            found[key] = check_text(message[key], f"{here}.{key}", where)
    if message.get("weight") is not None:
        if message["weight"] not in (0, 1):
            raise UserError(f"{where}: {here}.weight must be 0 (not learnt) or 1, got {message['weight']!r}")
        found["weight"] = int(message["weight"])
    if unused is not None:
        unused.update(f"{here.split('[')[0]}[].{key}" for key, given in message.items() if key not in _USED and given)
    return found


def _joined(parts: list[Any], name: str, where: str) -> str:
    """The text of a list of text parts."""
    texts = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and (part.get("type") == "text" or (part.keys() == {"text"})):
            texts.append(check_text(part.get("text"), f"{name}[{index}].text", where, empty=True))
        else:
            what = part.get("type") if isinstance(part, dict) else kind(part)
            raise UserError(f"{where}: {name}[{index}] is {what!r}; only text is learnt, drop records with other parts")
    return "".join(texts)


def _tool_calls(calls: Any, name: str, where: str) -> list[dict[str, Any]]:
    """Calls as {"type": "function", "function": {"name", "arguments"}}, arguments as an object where they are JSON."""
    if calls in (None, []):
        return []
    if isinstance(calls, str):
        calls = _parsed(calls, name, where)
    if not isinstance(calls, list):
        raise UserError(f"{where}: {name} must be a list of calls, got {kind(calls)}")
    found = []
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UserError(f'{where}: {name}[{index}] must be {{"function": {{"name", "arguments"}}}}')
        arguments = _arguments(function.get("arguments", {}), f"{name}[{index}]", where)
        made: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        if call.get("id") is not None:
            if not isinstance(call["id"], str | int):
                raise UserError(f"{where}: {name}[{index}].id must be text, got {kind(call['id'])}")
            made["id"] = str(call["id"])
        found.append(made)
    return found


def _arguments(value: Any, name: str, where: str) -> dict[str, Any]:
    """A call's arguments: an object, or the same as JSON text; empty text is no arguments."""
    if isinstance(value, str) and not value.strip():
        return {}
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except NotJSON as error:
            raise UserError(f"{where}: {name}: arguments are text, but not JSON ({error}); give an object") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: {name}: arguments must be an object ({{}} if there are none), got {kind(value)}")
    found: dict[str, Any] = without_nulls(value)
    return found


def _parsed(text: str, name: str, where: str) -> Any:
    try:
        return parse_json(text)
    except NotJSON:
        raise UserError(f"{where}: {name} is text, but not JSON; give a list of objects") from None


def _from_sharegpt(message: dict[str, Any], here: str, where: str) -> Message:
    speaker = message["from"]
    role = _SHAREGPT.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise UserError(f"{where}: {here} is from {speaker!r}; use one of {', '.join(_SHAREGPT)}")
    rest = {key: value for key, value in message.items() if key not in ("from", "value", "role", "content")}
    value = message.get("value")
    if speaker == "function_call":
        calls = _parsed(check_text(value, f"{here}.value", where), f"{here}.value", where)
        return {**rest, "role": role, "content": None, "tool_calls": calls if isinstance(calls, list) else [calls]}
    return {**rest, "role": role, "content": value}
