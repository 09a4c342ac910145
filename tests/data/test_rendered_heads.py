"""Ids of prompt and response are the head of the rendered conversation's: templates of every kind."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.conversation import message_of
from grkd.data.records import examples_of
from grkd.data.template import NotRendered
from tests.data.test_templates import ASK, ASK_THINKING, DROPS, FIELDS, LAST_THINKS, TURNS, bytewise

texts = st.text(alphabet="ab <|im_end>\n{}'\"é", min_size=1, max_size=12).filter(str.strip)


conversations = st.lists(st.tuples(texts, texts, st.none() | texts), min_size=1, max_size=3)


@given(
    turns=conversations,
    system=st.none() | texts,
    template=st.sampled_from([TURNS + ASK, DROPS + ASK, FIELDS + ASK, LAST_THINKS + ASK, FIELDS + ASK_THINKING]),
)
def test_prompt_and_response_are_the_head_of_the_rendered_conversation(
    turns: list[tuple[str, str, str | None]], system: str | None, template: str
) -> None:
    heads_are_rendered(bytewise(template), turns, system)


def heads_are_rendered(
    tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str, str | None]], system: str | None
) -> int:
    """Ids of prompt and response are the head of the ids of the rendered conversation; the number of turns learnt."""
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    for asked, answer, thoughts in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        if thoughts is not None:
            messages[-1]["reasoning_content"] = thoughts
    learnt = 0
    for example in examples_of({"messages": messages}, default_id="0", where="here"):
        whole = [*example.conversation, message_of(example.completion or "")]
        try:
            prompt = encode_prompt(tokenizer, example)
            ids = prompt + encode_response(tokenizer, example, stop_ids=stop_token_ids(tokenizer))
        except NotRendered:
            continue
        learnt += 1
        rendered = tokenizer.apply_chat_template(whole, tokenize=False)
        if "<|im_end|>" in str(whole):  # spelt as text: other ids, the same text
            assert rendered.startswith(tokenizer.decode(ids))
        else:
            expected = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            assert ids == expected[: len(ids)]
            assert tokenizer.decode(expected[len(ids) :]).strip() == ""
    return learnt
