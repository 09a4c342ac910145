"""Chat templates: what is written before and after a response, with a tokenizer whose ids can be read off by eye."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.prompts import Example
from grkd.data.template import NotRendered
from grkd.errors import UserError

SPECIAL = ["<s>", "</s>", "<unk>", "<turn>", "<end>"]
WORDS = ["system", "user", "assistant", "model", "be", "kind", "one", "two", "three", "four", "\n"]
CHATML = (
    "{{ bos_token }}{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} <end> \n {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<turn> {{ 'model' if m['role'] == 'assistant' else m['role'] }} {{ m['content'] | trim }} <end> \n {% endfor %}"
    "{% if add_generation_prompt %}<turn> model {% endif %}"
)
NO_STOP = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer(template: str | None, *, bos: bool = True, end: bool = False) -> PreTrainedTokenizerFast:
    """Splits at spaces; writes <s> (and </s>) by itself as Llama's does."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    inner.add_special_tokens(SPECIAL)
    single = ["<s>"] * bos + ["$A"] + ["</s>"] * end
    inner.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    made.chat_template = template
    return made


def text(of: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return " ".join(of.convert_ids_to_tokens(ids)).replace("\n", "/")


def ask(content: str = "one", completion: str | None = None) -> Example:
    return Example(id="x", prompt=content, completion=completion)


def talk(*turns: tuple[str, str], completion: str | None = None) -> Example:
    return Example(id="x", messages=[{"role": r, "content": c} for r, c in turns], completion=completion)


@pytest.mark.parametrize(
    ("template", "example", "system", "expected"),
    [
        (CHATML, ask(), None, "<s> <turn> user one <end> / <turn> assistant"),
        (CHATML, ask(), "be kind", "<s> <turn> system be kind <end> / <turn> user one <end> / <turn> assistant"),
        (
            CHATML,
            talk(("system", "two"), ("user", "one")),
            "be kind",
            "<s> <turn> system two <end> / <turn> user one <end> / <turn> assistant",
        ),
        (
            CHATML,
            talk(("user", "one"), ("assistant", "two"), ("user", "three")),
            None,
            "<s> <turn> user one <end> / <turn> assistant two <end> / <turn> user three <end> / <turn> assistant",
        ),
        (GEMMA, ask(" one "), None, "<s> <turn> user one <end> / <turn> model"),
        (None, ask("one two"), None, "<s> one two"),
    ],
)
def test_prompts(template: str | None, example: Example, system: str | None, expected: str) -> None:
    made = tokenizer(template)
    assert text(made, encode_prompt(made, example, system=system)) == expected


@pytest.mark.parametrize("template", [GEMMA, CHATML.replace("in messages", "in messages if m['role'] != 'system'")])
def test_system_text_goes_to_the_first_user_message_where_a_template_has_no_place_for_it(template: str) -> None:
    made = tokenizer(template)
    rendered = text(made, encode_prompt(made, ask(" one"), system="be kind "))
    assert rendered.startswith("<s> <turn> user be kind <unk> one <end>")  # "\n\n" between them is the <unk>
    assert rendered.count("kind") == 1


def test_without_template_system_text_comes_first() -> None:
    made = tokenizer(None)
    assert text(made, encode_prompt(made, ask(" one"), system="be ")) == "<s> be <unk> one"


def test_never_two_bos() -> None:
    assert text(tokenizer(None), encode_prompt(tokenizer(None), ask("<s> one"))) == "<s> one"
    twice = tokenizer("<s> " + CHATML)
    assert text(twice, encode_prompt(twice, ask())).count("<s>") == 1
    none = tokenizer(None, bos=False)
    assert text(none, encode_prompt(none, ask("one"))) == "one"


def test_prompt_never_ends_with_the_eos_that_a_tokenizer_appends() -> None:
    made = tokenizer(None, end=True)
    assert text(made, encode_prompt(made, ask("one"))) == "<s> one"
    assert text(made, encode_prompt(made, ask("one </s>"))) == "<s> one </s> </s>"


@pytest.mark.parametrize(
    ("template", "example", "expected"),
    [
        (CHATML, ask(completion="three four"), "three four <end>"),
        (CHATML, talk(("user", "one"), ("assistant", "two"), ("user", "three"), completion="four"), "four <end>"),
        (GEMMA, ask(completion=" three "), "three <end>"),  # trimmed, as the template places it
        (NO_STOP, ask(completion="three"), "three </s>"),
        (None, ask(completion="three"), "three </s>"),
    ],
)
def test_responses_end_with_one_stop_token(template: str | None, example: Example, expected: str) -> None:
    made = tokenizer(template)
    stop_ids = stop_token_ids(made)
    response = encode_response(made, example, stop_ids=stop_ids)
    assert text(made, response) == expected
    assert sum(token in stop_ids for token in response) == 1


@pytest.mark.parametrize(
    ("template", "completion", "reason"),
    [
        (CHATML.replace("{{ m['content'] }}", "{{ m['content'][-3:] }}"), "three", "template leaves out the text"),
        (CHATML.replace("{{ m['content'] }}", "{{ m['content'][:5] }}"), "three four", "template changes its text"),
        (CHATML.replace("assistant {% endif %}", "assistant two {% endif %}"), "four", "the start of an answer"),
    ],
)
def test_what_the_template_writes_otherwise_is_never_guessed(template: str, completion: str, reason: str) -> None:
    made = tokenizer(template)
    with pytest.raises(NotRendered, match=reason):
        encode_response(made, ask("four", completion), stop_ids=stop_token_ids(made))


def test_response_continues_the_prompt_of_the_same_call() -> None:
    made = tokenizer(CHATML)
    example = ask(completion="three")
    joined = encode_prompt(made, example, system="be kind") + encode_response(
        made, example, stop_ids=stop_token_ids(made), system="be kind"
    )
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "three")]
    whole = made.apply_chat_template([{"role": r, "content": c} for r, c in turns], return_dict=False)
    assert joined == whole[: len(joined)]
    assert text(made, whole[len(joined) :]) == "/"


def test_tokenizer_that_appends_eos_gives_one_stop() -> None:
    made = tokenizer(None, end=True)
    assert text(made, encode_response(made, ask(completion="two"), stop_ids=stop_token_ids(made))) == "two </s>"


def test_a_token_over_the_border_is_split_at_the_border() -> None:
    vocabulary = {token: index for index, token in enumerate(["</s>", "a", "b", "ab"])}
    inner = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    assert made("ab").input_ids == [3]
    example = Example(id="x", prompt="a", completion="b")
    assert encode_prompt(made, example) == [1]
    assert encode_response(made, example, stop_ids=[0]) == [2, 0]


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (None, None, ["</s>"]),
        (NO_STOP, None, ["</s>"]),
        (CHATML, None, ["</s>", "<end>"]),
        (None, 4, ["</s>", "<end>"]),
        (None, [4, 1, 3], ["</s>", "<end>", "<turn>"]),
    ],
)
def test_stop_tokens(template: str | None, eos: Any, expected: list[str]) -> None:
    made = tokenizer(template)
    assert made.convert_ids_to_tokens(stop_token_ids(made, GenerationConfig(eos_token_id=eos))) == expected


def test_errors() -> None:
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer(None), talk(("user", "one")))
    with pytest.raises(UserError, match=r"example 'x': .*roles must alternate"):
        encode_prompt(tokenizer(GEMMA), talk(("user", "one"), ("user", "two")))
    with pytest.raises(UserError, match=r"example 'x': .*roles must alternate"):
        encode_prompt(tokenizer(GEMMA), talk(("user", "one"), ("user", "two")), system="be")
    with pytest.raises(ValueError, match="no completion"):
        encode_response(tokenizer(CHATML), ask(), stop_ids=[1])
    mute = tokenizer(None)
    mute.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence"):
        stop_token_ids(mute)
