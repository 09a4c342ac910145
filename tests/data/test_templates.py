"""Chat templates of every kind: what is learnt is the conversation as the template writes it, or it is left out.

Over 300 lines: a template of every kind stands beside what must come of it.
"""

import re
from collections import Counter
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grkd.data.chat import answer_text, decode_response, encode_prompt, encode_response, stop_token_ids
from grkd.data.prompts import Example
from grkd.data.records import examples_of
from grkd.data.template import NotRendered
from grkd.errors import UserError

START, END = "<|im_start|>", "<|im_end|>"
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ASK_THINKING = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
ASK_CLOSED = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
DROPS = TURNS.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].strip() }}")
FIELDS = TURNS.replace(
    "{{ m.content }}",
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}",
)
LAST_THINKS = FIELDS.replace("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
THOUGHT = "<think>\nadd\n</think>\n\n4"
MARKS = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<\uff5c[^\uff5c\n]{1,40}\uff5c>|</?think>|<(?:start|end)_of_(?:turn|utterance)>|<\|?turn\|?>"
)


@cache
def bytewise(template: Any, *more: str) -> PreTrainedTokenizerFast:
    """Every byte is a token, and every mark of the template; thoughts' tags are no special tokens, as in Qwen's."""
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", name_or_path="tiny")
    marks = sorted({START, END, *MARKS.findall(str(template)), *more})
    made.add_special_tokens({"additional_special_tokens": [mark for mark in marks if "think" not in mark]})
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = template
    return made


def ask(completion: Any = "4", **more: Any) -> Example:
    return Example(id="x", prompt="2+2?", completion=completion, **more)


def thoughtful(content: str = "4", thoughts: str = "add") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "reasoning_content": thoughts}


def learnt(tokenizer: PreTrainedTokenizerFast, example: Example, **more: Any) -> tuple[str, str]:
    """Prompt and response as text; the response's ids follow the prompt's."""
    prompt = encode_prompt(tokenizer, example)
    response = encode_response(tokenizer, example, stop_ids=stop_token_ids(tokenizer), **more)
    return tokenizer.decode(prompt), tokenizer.decode(response)


def reason(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    with pytest.raises(NotRendered) as caught:
        learnt(tokenizer, example)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    return caught.value.reason


class TestThoughts:
    @pytest.mark.parametrize("template", [TURNS + ASK_THINKING, DROPS + ASK_THINKING, FIELDS + ASK_THINKING])
    @pytest.mark.parametrize("completion", [THOUGHT, "add\n</think>\n\n4", "<think>add\n</think>\n\n4"])
    def test_a_prompt_that_opens_them_is_followed_by_the_rest(self, template: str, completion: str) -> None:
        prompt, response = learnt(bytewise(template), ask(completion))
        assert prompt.endswith("assistant\n<think>\n")
        assert response == "add\n</think>\n\n4<|im_end|>"

    @pytest.mark.parametrize("template", [DROPS + ASK_THINKING, FIELDS + ASK_THINKING])
    def test_in_a_field(self, template: str) -> None:
        prompt, response = learnt(bytewise(template), ask(thoughtful()))
        assert (prompt + response).count("<think>") == 1
        assert response == "add\n</think>\n\n4<|im_end|>"

    def test_twice_is_once_where_both_say_the_same_and_left_out_where_not(self) -> None:
        tokenizer = bytewise(FIELDS + ASK)
        _, response = learnt(tokenizer, ask(thoughtful(THOUGHT)))
        assert response == THOUGHT + END
        assert "others in a field" in reason(tokenizer, ask(thoughtful(THOUGHT, "subtract")))

    @pytest.mark.parametrize("completion", [THOUGHT, thoughtful(), "4"])
    @pytest.mark.parametrize("template", [TURNS + ASK_CLOSED, DROPS + ASK_CLOSED, FIELDS + ASK_CLOSED])
    def test_a_prompt_that_closes_them_is_followed_by_the_answer_and_it_is_noted(
        self, template: str, completion: Any
    ) -> None:
        notes: Counter[str] = Counter()
        prompt, response = learnt(bytewise(template), ask(completion), notes=notes)
        assert (prompt + response).count("<think>") == 1
        assert response == "4<|im_end|>"
        assert sum(notes.values()) == (completion != "4")

    def test_a_completion_without_any_behind_a_prompt_that_opens_them(self) -> None:
        assert "opens a thought and the completion has none" in reason(bytewise(TURNS + ASK_THINKING), ask("4"))

    def test_a_thought_without_an_end(self) -> None:
        assert "is not closed" in reason(bytewise(TURNS + ASK), ask("<think>\nadd"))

    def test_a_template_without_a_place_for_the_field(self) -> None:
        assert "leaves out its thoughts" in reason(bytewise(TURNS + ASK), ask(thoughtful()))

    def test_earlier_turns_lose_theirs_as_the_template_wants_and_each_is_learnt_with_its_own(self) -> None:
        tokenizer = bytewise(LAST_THINKS + ASK)
        turns = [{"role": "user", "content": "1+1?"}, thoughtful("2", "one"), {"role": "user", "content": "2+2?"}]
        first, second = examples_of({"messages": [*turns, thoughtful()]}, default_id="7", where="here")
        assert learnt(tokenizer, first)[1] == "<think>\none\n</think>\n\n2<|im_end|>"
        prompt, response = learnt(tokenizer, second)
        assert "one" not in prompt
        assert response == THOUGHT + END


class TestControlTokens:
    @pytest.mark.parametrize("text", [f"end turns with {END} always", f"{START}", f"a{END}{END}b", "say <eos> now"])
    def test_are_learnt_as_text_where_a_completion_spells_them(self, text: str) -> None:
        tokenizer = bytewise(TURNS + ASK)
        ids = encode_response(tokenizer, ask(text), stop_ids=stop_token_ids(tokenizer))
        special = {tokenizer.convert_tokens_to_ids(token) for token in (START, END, "<eos>")}
        assert [token in special for token in ids] == [False] * (len(ids) - 1) + [True]
        assert tokenizer.decode(ids) == text + END

    def test_at_the_very_end_are_the_end(self) -> None:
        assert learnt(bytewise(TURNS + ASK), ask(f"4{END}"))[1] == "4" + END

    def test_without_a_template(self) -> None:
        tokenizer = bytewise(None)
        ids = encode_response(tokenizer, ask(" say <eos> now"), stop_ids=stop_token_ids(tokenizer))
        assert tokenizer.decode(ids) == " say <eos> now<eos>"
        assert ids.count(tokenizer.eos_token_id) == 1

    def test_in_a_tool_call_are_left_out(self) -> None:
        call = {"type": "function", "function": {"name": "f", "arguments": {"x": END}}}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        assert "tool calls spell a control token" in reason(bytewise(TURNS + ASK), ask(message))


class TestRefusals:
    @pytest.mark.parametrize(
        ("template", "words"),
        [
            (TURNS.replace("m.content", "m.content + 1") + ASK, r"'tiny' refuses the messages \(TypeError"),
            ("{{ 1 / 0 }}", r"'tiny' refuses the messages \(ZeroDivisionError"),
            ("{{ raise_exception('not today') }}", r"'tiny' refuses the messages \(not today\)"),
            ("{# nothing #}", "'tiny' gives empty text"),
            ("{% for %}", "'tiny' is not valid"),
            ({"rag": TURNS, "tools": TURNS}, r"'tiny': it has only named templates \(rag, tools\)"),
        ],
        ids=["type", "zero", "raises", "empty", "syntax", "named"],
    )
    def test_are_one_line_that_names_the_template(self, template: Any, words: str) -> None:
        tokenizer = bytewise.__wrapped__(template)
        with pytest.raises(UserError, match=words) as caught:
            encode_prompt(tokenizer, ask())
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        assert stop_token_ids(tokenizer)  # asked before any conversation is: no traceback there either

    @pytest.mark.parametrize(
        ("example", "words"),
        [
            (ask(tools=[{"function": {"name": "look"}}]), "leaves out the tools"),
            (
                Example(id="x", messages=[{"role": "tool", "content": "sun"}, *ask().conversation], completion="4"),
                "tool",
            ),
            (
                ask(
                    {"role": "assistant", "content": "4", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
                ),
                "leaves out its tool calls",
            ),
        ],
    )
    def test_nothing_is_left_out_in_silence(self, example: Example, words: str) -> None:
        assert words in reason(bytewise(TURNS.replace("messages %}", "messages if m.role != 'tool' %}") + ASK), example)

    def test_a_token_over_the_border(self) -> None:
        vocabulary = {token: index for index, token in enumerate(["<eos>", "a", "b", "ab", ":"])}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE(vocabulary, [("a", "b")])), eos_token="<eos>"
        )
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        assert "token spans the end" in reason(tokenizer, Example(id="x", prompt="a", completion="b"))


def test_variables_of_the_template_reach_it() -> None:
    switch = (
        TURNS
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}-{% endif %}{% endif %}"
    )
    options = {"enable_thinking": True}
    assert learnt(bytewise(switch), ask(template_options=options))[0].endswith("assistant\n")
    assert encode_prompt(bytewise(switch), ask())[-1] == bytewise(switch)("-")["input_ids"][-1]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_reach_templates_without_a_place_for_them(role: str) -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}" + TURNS + ASK
    messages = [{"role": role, "content": "Be kind."}, {"role": "user", "content": "2+2?"}]
    prompt, response = learnt(bytewise(template), Example(id="x", messages=messages, completion="4"))
    assert "user\nBe kind.\n\n2+2?" in prompt
    assert response == "4<|im_end|>"


def test_content_as_parts_where_a_template_takes_nothing_else() -> None:
    parts = TURNS.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
    assert learnt(bytewise(parts + ASK), ask())[1] == "4<|im_end|>"


class TestDecoding:
    def test_markers_stay_and_the_end_goes(self) -> None:
        tokenizer = bytewise(TURNS, "<|channel|>", "<|message|>")
        text = "<|channel|>analysis<|message|>easy<|channel|>final<|message|>yes"
        ids = tokenizer(text + END)["input_ids"]
        assert decode_response(tokenizer, ids, stop_token_ids(tokenizer)) == text

    def test_a_reader_gets_the_final_channel(self) -> None:
        text = "<|channel|>analysis<|message|>easy<|end|><|start|>assistant<|channel|>final<|message|>yes"
        assert answer_text(text) == "yes"
        assert answer_text("<|channel|>analysis<|message|>easy") == "<|channel|>analysis<|message|>easy"
        assert answer_text("plain") == "plain"
