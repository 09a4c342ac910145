"""The chat templates that trl ships: each conversation is learnt as the template writes it, or left out."""

from pathlib import Path

import pytest

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.prompts import Example
from grkd.data.template import NotRendered
from tests.data.test_templates import ask, bytewise, thoughtful

PUBLISHED = sorted((Path(pytest.importorskip("trl").__file__).parent / "chat_templates").glob("*.jinja"))
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string", "description": "y"}},
            "required": ["x"],
        },
    },
}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look_up", "arguments": {"x": "Rome"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "name": "look_up", "tool_call_id": "abcdefghi", "content": "sunny day"}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_templates(path: Path) -> None:
    """Each conversation's ids are the head of the rendered conversation's, or it is left out with a reason."""
    tokenizer = bytewise(path.read_text())
    stops = stop_token_ids(tokenizer)
    user, system = {"role": "user", "content": "2+2?"}, {"role": "system", "content": "Be kind."}
    cases = {
        "plain": ask("It is 4."),
        "system": Example(id="x", messages=[system, user], completion="It is 4."),
        "inline": ask("<think>\nadd them\n</think>\n\nIt is 4."),
        "field": ask(thoughtful("It is 4.", "add them")),
        "several": Example(
            id="x", messages=[user, {"role": "assistant", "content": "Yes."}, user], completion="It is 4."
        ),
        "literal": ask(f"end with {tokenizer.convert_ids_to_tokens(stops[-1])} always"),
        "call": ask(CALLING, tools=[TOOL]),
        "tool": Example(id="x", messages=[user, CALLING, ANSWERED], completion="It is sunny."),
    }
    learnt_of = []
    for name, example in cases.items():
        try:
            prompt = encode_prompt(tokenizer, example)
            response = encode_response(tokenizer, example, stop_ids=stops)
        except NotRendered:
            continue
        learnt_of.append(name)
        text = tokenizer.decode(prompt + response)
        assert text.count("<think>") <= 1 or name in ("several", "tool"), text
        assert response[-1] in stops
        assert not set(stops) & set(response[:-1])
        said = (
            "sunny" if name == "tool" else "Rome" if name == "call" else "always" if name == "literal" else "It is 4."
        )
        assert said in tokenizer.decode(response)
    assert "inline" in learnt_of
    assert "plain" in learnt_of or "<think>" in path.read_text()
