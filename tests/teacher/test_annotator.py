"""The question of multiple choice: which letter wins, whatever the order, the batch and the tokenizer's habits."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grkd.errors import UserError
from grkd.teacher.annotator import Comparison, Verdict, calibrated, choice_scores

TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
NUMBERS = [f"n{number}" for number in range(10)]
ASKS = [{"role": "user", "content": "n0 n1"}]


def words(template: str | None = TEMPLATE, known: tuple[str, ...] = ("A", "B")) -> PreTrainedTokenizerFast:
    """Splits at spaces and knows few words."""
    vocabulary = ["<pad>", "<unk>", "<turn>", "<end>", "##", "Response", "user", "assistant", *NUMBERS, *known]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", pad_token="<pad>")
    made.chat_template = template
    return made


def bytewise(template: str | None, merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """Every byte is a token, and so are the merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *("".join(pair) for pair in merges), "</s>"])}
    inner = Tokenizer(models.BPE(vocabulary, list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    made.chat_template = template
    return made


class Judge(nn.Module):
    """Prefers the larger number n0..n9, by `slope` a step, and the letter A by `bias`; nan where it sees n9."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, bias: float = 0.0, slope: float = 1.0) -> None:
        super().__init__()
        self.tokenizer, self.bias, self.slope = tokenizer, bias, slope
        self.device = torch.device("cpu")
        self.batches: list[tuple[int, int]] = []

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        use_cache: bool = True,
        logits_to_keep: int = 0,
    ) -> Any:
        assert logits_to_keep == 1
        assert not use_cache
        assert attention_mask.sum(-1).max() == input_ids.shape[1]
        self.batches.append((input_ids.shape[0], input_ids.shape[1]))
        logits = torch.zeros(len(input_ids), 1, len(self.tokenizer))
        a, b = (self.tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            assert mask.tolist() == sorted(mask.tolist()), "padding stands on the left"
            text = self.tokenizer.decode(ids[mask.bool()])
            first, second = text.partition("## Response A")[2].split("## Response B")
            values = [NUMBERS.index(part.split()[0]) for part in (first, second)]
            logits[row, 0, a] = 3.0 + self.bias + self.slope * (values[0] - values[1])
            logits[row, 0, b] = 3.0 if 9 not in values else math.nan
        return SimpleNamespace(logits=logits)


def asked(*responses: str, name: str = "p", conversation: list[dict[str, str]] = ASKS) -> Comparison:
    return Comparison(id=name, conversation=conversation, responses=responses)


def scores(model: Any, tokenizer: Any, *responses: str, batch_size: int = 4, context: int | None = None) -> list[float]:
    (verdict,) = choice_scores(model, tokenizer, [asked(*responses)], batch_size=batch_size, context=context)
    assert verdict.log_wins is not None
    return list(verdict.log_wins)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=5), st.floats(-3, 3))
def test_scores_are_the_formula_in_plain_loops(values: list[int], bias: float) -> None:
    tokenizer = words()
    found = scores(Judge(tokenizer, bias=bias), tokenizer, *(NUMBERS[value] for value in values))
    expected = []
    for i, own in enumerate(values):
        wins = []
        for j, other in enumerate(values):
            if i != j:
                wins.append(expit(bias + own - other))  # i stands first
                wins.append(1 - expit(bias + other - own))  # j stands first
        expected.append(math.log(sum(wins) / len(wins)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_three_responses_by_hand() -> None:
    tokenizer = words()
    found = scores(Judge(tokenizer, slope=math.log(3)), tokenizer, "n1", "n2", "n3")
    # One step is odds of 3 to 1, two steps 9 to 1.
    assert found == pytest.approx([math.log((0.25 + 0.1) / 2), math.log(0.5), math.log((0.75 + 0.9) / 2)], rel=1e-5)


def test_a_liking_for_a_letter_cancels_exactly() -> None:
    tokenizer = words()
    found = scores(Judge(tokenizer, bias=2.7, slope=0.0), tokenizer, "n1", "n2", "n3", "n4")
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(math.log(0.5))


def test_a_hopeless_response_has_a_finite_score() -> None:
    tokenizer = words()
    assert scores(Judge(tokenizer, slope=100.0), tokenizer, "n0", "n8") == pytest.approx([math.log(1e-6), 0.0])


def test_nan_logits_give_nan_and_no_number() -> None:
    tokenizer = words()
    found = scores(Judge(tokenizer), tokenizer, "n1", "n9")
    assert all(math.isnan(score) for score in found)


def llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=3,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def test_the_score_follows_the_response_and_not_its_place() -> None:
    tokenizer = words()
    model = llama(len(tokenizer))
    responses = ["n1 n5", "n2", "n3 n3 n8", "n7"]
    found = dict(zip(responses, scores(model, tokenizer, *responses), strict=True))
    assert len(set(found.values())) == 4
    for order in ([3, 1, 0, 2], [2, 0, 3, 1]):
        shuffled = [responses[place] for place in order]
        assert scores(model, tokenizer, *shuffled) == pytest.approx([found[text] for text in shuffled], rel=1e-4)


def test_neither_the_batch_nor_its_neighbours_matter() -> None:
    tokenizer = words()
    model = llama(len(tokenizer))
    comparisons = [
        asked("n1", "n2 n3", "n4", name="a"),
        asked("n5 " * 30, "n6", name="b", conversation=[*ASKS, {"role": "assistant", "content": "n3"}, *ASKS]),
        asked("n1", name="one"),
        asked("n7", "n8", name="c"),
    ]
    together = choice_scores(model, tokenizer, comparisons, batch_size=100, context=None)
    assert together[2] == Verdict(log_wins=None), "with one response there is nothing to ask"
    for size in (1, 3):
        alone = [
            choice_scores(model, tokenizer, [one], batch_size=size, context=None)[0] for one in reversed(comparisons)
        ]
        for one, other in zip(together, reversed(alone), strict=True):
            if one.log_wins is not None:
                assert other.log_wins == pytest.approx(one.log_wins, rel=1e-4)


def test_long_questions_come_first_and_in_batches() -> None:
    tokenizer = words()
    judge = Judge(tokenizer)
    choice_scores(judge, tokenizer, [asked("n1", "n2 n2 n2 n2", "n3"), asked("n1", "n2")], batch_size=3, context=None)
    sizes, lengths = zip(*judge.batches, strict=True)
    assert sizes == (3, 3, 2)
    assert list(lengths) == sorted(lengths, reverse=True)


class TestContext:
    def test_responses_are_cut_alike_until_every_pair_fits(self) -> None:
        tokenizer = words()
        judge = Judge(tokenizer)
        whole = choice_scores(judge, tokenizer, [asked("n1", "n2")], batch_size=1, context=None)
        shortest = judge.batches[0][1]
        comparisons = [asked("n1 " * 60, "n2 " * 60, "n4"), asked("n1", "n2")]
        found = choice_scores(judge, tokenizer, comparisons, batch_size=2, context=shortest + 60)
        assert [verdict.cut for verdict in found] == [True, False]
        assert found[1] == whole[0]
        assert max(length for _, length in judge.batches) <= shortest + 60 - 1  # the letter needs a place too
        assert max(length for _, length in judge.batches) > shortest + 50, "no more is cut than needed"
        assert found[0].log_wins == pytest.approx(scores(judge, tokenizer, "n1", "n2", "n4"))

    def test_nothing_is_asked_where_no_room_is_left(self) -> None:
        tokenizer = words()
        long = [{"role": "user", "content": "n1 " * 400}]
        comparisons = [asked("n1 " * 50, "n2 " * 50, conversation=long), asked("n1", "n2", name="short")]
        found = choice_scores(Judge(tokenizer), tokenizer, comparisons, batch_size=2, context=400)
        assert found[0] == Verdict(log_wins=None)
        assert found[1].log_wins is not None

    def test_a_cut_in_the_middle_of_a_character(self) -> None:
        tokenizer = bytewise(None)
        found = choice_scores(llama(len(tokenizer)), tokenizer, [asked("é" * 300, "b")], batch_size=2, context=1000)
        assert found[0].cut
        assert found[0].log_wins is not None


class TestLetters:
    """The logits of which tokens are read, and after what."""

    def win(self, tokenizer: Any, letters: dict[str, float], *, ends: str | None = None) -> float:
        """The win of the first of two responses where the model writes these tokens with these logits."""

        class Fixed(nn.Module):
            device = torch.device("cpu")

            def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
                if ends is not None:
                    assert tokenizer.decode(input_ids[0]).endswith(ends)
                logits = torch.full((len(input_ids), 1, len(tokenizer)), -50.0)
                for piece, logit in letters.items():
                    logits[0, 0, tokenizer.get_vocab()[piece]] = logit  # the first order only
                logits[1] = 0.0
                return SimpleNamespace(logits=logits)

        return math.exp(scores(Fixed(), tokenizer, "x", "y", batch_size=2)[0]) * 2 - 0.5

    def test_a_token_with_a_space_and_one_without_count_together(self) -> None:
        # "\u0120" is how byte-level tokenizers write a space.
        for template in (None, "{% for m in messages %}{{ m['content'] }}{% endfor %}>"):
            tokenizer = bytewise(template, merges=(("\u0120", "A"), ("\u0120", "B")))
            win = self.win(tokenizer, {"A": 0.0, "\u0120A": 1.0, "B": 0.5, "\u0120B": -1.0})
            ours, theirs = math.exp(0.0) + math.exp(1.0), math.exp(0.5) + math.exp(-1.0)
            assert win == pytest.approx(ours / (ours + theirs), rel=1e-5)

    def test_a_space_that_is_a_token_of_its_own_belongs_to_the_question(self) -> None:
        win = self.win(bytewise(None), {"A": 0.3, "B": 0.0}, ends="The better response is ")
        assert win == pytest.approx(expit(0.3), rel=1e-5)

    def test_what_a_template_writes_before_every_reply_belongs_to_the_question(self) -> None:
        thoughts = (
            "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}()() {% endif %}"
            "{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
        )
        win = self.win(bytewise(thoughts), {"A": -0.4, "B": 0.0}, ends="[assistant]()() ")
        assert win == pytest.approx(expit(-0.4), rel=1e-5)

    def test_a_tokenizer_without_the_letters(self) -> None:
        tokenizer = words(known=())
        with pytest.raises(UserError, match="no tokens for the letters A and B; use the ranker log_prob"):
            scores(llama(len(tokenizer)), tokenizer, "n1", "n2")


def test_a_template_that_refuses() -> None:
    tokenizer = words("{{ raise_exception('no users, please') }}")
    with pytest.raises(UserError, match=r"refuses the messages \(no users, please\)") as raised:
        scores(llama(len(tokenizer)), tokenizer, "n1", "n2")
    assert "\n" not in str(raised.value)


def test_the_whole_conversation_is_shown() -> None:
    tokenizer = bytewise(None)
    seen = []

    class Reader(nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            seen.append(tokenizer.decode(input_ids[0]))
            return SimpleNamespace(logits=torch.zeros(len(input_ids), 1, len(tokenizer)))

    conversation = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello {first}"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Bye"},
    ]
    one = asked("left {second}", "right", conversation=conversation)
    choice_scores(Reader(), tokenizer, [one], batch_size=1, context=None)
    assert len(seen) == 2
    for text, (first, second) in zip(seen, [("left {second}", "right"), ("right", "left {second}")], strict=True):
        places = [text.index(part) for part in ("Be kind.", "Hello {first}", "Hi!", "Bye", first, second)]
        assert places == sorted(places)


def test_calibrated() -> None:
    assert [calibrated(-1.0, -3.0, ratio=ratio) for ratio in (1.0, 0.8, 0.0)] == pytest.approx([-1.0, -1.4, -3.0])
