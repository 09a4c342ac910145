"""Several teachers: each in its own vocabulary, routed by a column, and how far they agree."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.errors import UserError
from grkd.rankers import Resources, agreement, load, panel
from tests._model_server import ModelServer
from tests.language._score_runs import WORDS, save_llama, tokenizer

PROMPTS = ["w1 w2", [{"role": "user", "content": "w7"}]]
RESPONSES = [["w3", "w4 w5", "w9"], ["w0", "w6"]]
COLUMNS = {"subject": ["maths", "law"], "finished": [[True, True, False], [True, True]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose vocabulary is the usual one in another order."""
    words = [*WORDS[:8], *reversed(WORDS[8:])]
    return save_llama(tmp_path_factory.mktemp("other") / "teacher", tokenizer(words), seed=3)


@pytest.fixture(scope="module")
def model_server(folder: Path) -> Iterator[ModelServer]:
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    made = ModelServer(folder, context=256)
    yield made
    made.close()


def own(folder: Path) -> np.ndarray:
    """Mean log-probabilities of the texts in the model's own tokens, over the entries that are tokens."""
    words = tokenizer([*WORDS[:8], *reversed(WORDS[8:])])
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    found = np.full((2, 3), np.nan)
    for row, texts in enumerate(RESPONSES):
        asked = ("w1 w2", "w7")[row]
        for place, text in enumerate(texts):
            end = " <end>" if COLUMNS["finished"][row][place] else ""
            prompt = words(f"<turn> user {asked} <end> <turn> assistant")["input_ids"]
            answer = words(text + end)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            found[row, place] = logits.log_softmax(-1).gather(-1, torch.tensor(answer).unsqueeze(-1)).mean().item()
    return found


def test_a_served_teacher_scores_the_text_in_its_own_tokens(model_server: ModelServer, folder: Path) -> None:
    ranker = load("another_teacher", model=str(folder), url=model_server.url, served_model="s")
    ranker.open(Resources())
    np.testing.assert_allclose(ranker(PROMPTS, RESPONSES, COLUMNS), own(folder), atol=1e-5)


def test_several_teachers_vote_and_their_agreement_is_told(model_server: ModelServer, folder: Path) -> None:
    served = {"url": model_server.url, "served_model": "s"}
    common = {"name": "another_teacher", "model": str(folder)}
    judges = panel(
        [
            {**common, "label": "here"},
            {**common, **served, "label": "there"},
            {**common, "label": "maths", "only": {"subject": "maths"}},
        ],
        combine="votes",
    )
    with judges:
        judges.open(Resources())
        ranked = judges(PROMPTS, RESPONSES, COLUMNS)
    assert np.isnan(ranked.by_ranker["maths"][1]).all()
    np.testing.assert_array_equal(ranked.by_ranker["maths"][0], ranked.by_ranker["here"][0])
    assert ranked.order.votes is not None
    # All three of the same mind on the first group, two on the second.
    assert ranked.order.votes.weight[0, 0, 1] == 3
    assert ranked.order.votes.weight[1, 0, 1] == 2
    found = agreement(ranked.by_ranker, ~np.isnan(own(folder)))
    assert found["pairs"][0] == {"rankers": ["here", "there"], "kendall_tau": 1.0, "groups": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs model"),
        ({"model": "m", "url": "http://x"}, "url and served_model belong together"),
        ({"model": "m", "only": {"a": 1, "b": 2}}, "only is one column and its value"),
    ],
)
def test_mistakes(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load("another_teacher", **options)
