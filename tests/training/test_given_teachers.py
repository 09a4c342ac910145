"""Teachers that GRKDTrainer is given: behind a server, several at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.data.language import response_logits
from grkd.errors import UserError
from grkd.models.cut import truncated
from grkd.training import GRKDTrainer
from grkd.training.given_teachers import given_teachers
from tests._model_server import ModelServer
from tests.conftest import word_tokenizer
from tests.training.test_grkd_trainer import RECORDS, config, weights

GROUPS = [{"prompt": f"w{n} w2", "responses": ["w3 w4", "w5", "w6 w7"]} for n in range(6)]


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()


def made(folder: Path, cut_from: Any, teacher: Any, **options: Any) -> GRKDTrainer:
    arguments = {"method": "kd", "method_options": {}, "logging_steps": 1.0, **options.pop("arguments", {})}
    return GRKDTrainer(
        truncated(cut_from, [0, 2]), teacher, config(folder, **arguments), processing_class=word_tokenizer(),
        **{"train_dataset": RECORDS, **options},
    )  # fmt: skip


def test_a_served_teacher_of_tokens(tmp_path: Path, teacher: Any, model_server: ModelServer) -> None:
    """All 40 entries are asked for, so the student is the live teacher's; another start asks nothing."""
    served = {"url": model_server.url, "served_model": "s", "top_k": 40}
    ours = made(tmp_path / "a", teacher, served)
    asked = [str(body) for body in model_server.answered if "prompt" in body]
    assert asked
    assert len(asked) == len(set(asked))
    ours.train()
    live = made(tmp_path / "b", teacher, teacher)
    live.train()
    torch.testing.assert_close(weights(ours.model), weights(live.model), rtol=1e-3, atol=5e-4)  # of steps of 1e-2
    model_server.answered.clear()
    again = made(tmp_path / "a", teacher, served, eval_dataset=RECORDS[:2])
    assert not [body for body in model_server.answered if "prompt" in body]
    assert again.evaluate()["eval_loss"] > 0


def test_a_served_teacher_answers_and_ranks(tmp_path: Path, teacher: Any, model_server: ModelServer) -> None:
    served = {"url": model_server.url, "served_model": "s"}
    prompts = [{"prompt": f"w{n} w1"} for n in range(4)]
    few = {"max_new_tokens": 5, "max_steps": 1}
    writes = made(tmp_path / "a", teacher, served, train_dataset=prompts, arguments={"method": "seqkd", **few})
    assert [len(group.items) for group in writes.train_dataset] == [1] * 4
    writes.train()
    ranks = {"method": "dpo", "num_generations": 2, **few}
    orders = made(tmp_path / "b", teacher, served, train_dataset=prompts, rankers="log_prob", arguments=ranks)
    orders.train()
    assert [member.label for member in orders.rows.fresh.panel.members] == ["log_prob"]


def test_several_teachers_write_their_shares(
    tmp_path: Path, teacher: Any, model_server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """In turns by weight, among those that take the record; each text is what its teacher alone would write."""
    mine = {"model": truncated(teacher, [0, 1]), "label": "here", "tokenizer": word_tokenizer()}
    served = {"url": model_server.url, "served_model": "s", "weight": 2.0, "only": {"subject": "law"}}
    prompts = [{"prompt": f"w{n} w1", "subject": ("law", "art")[n % 2]} for n in range(6)]
    few = {"method": "seqkd", "max_new_tokens": 5, "max_steps": 1}
    written = []
    for at, given in enumerate(([mine, served], mine, {**served, "only": {}})):
        ours = made(tmp_path / str(at), teacher, given, train_dataset=prompts, arguments=few)
        assert ("keys that are not used: subject" in capsys.readouterr().err) == (at > 0)
        written.append([group.items[0].response_ids for group in ours.train_dataset])
    both, here, there = written
    who = ["there", "here", "here", "here", "there", "here"]  # of three about law two by the server
    assert both == [{"here": here, "there": there}[each][at] for at, each in enumerate(who)]
    assert here != there


def test_several_teachers_of_tokens_are_pooled(tmp_path: Path, teacher: Any, tiny_teacher: Path) -> None:
    other = truncated(teacher, [0, 1])
    several = [{"model": teacher, "label": "a", "weight": 2.0}, {"model": other, "label": "b"}]
    tokenizers = [{**each, "tokenizer": str(tiny_teacher)} for each in several]
    ours = made(tmp_path, teacher, tokenizers)
    batch = ours.rows.collate(ours.train_dataset[:3])
    found = ours.rows.forward(ours.model, batch, levels=("row",)).batches["row"].teacher
    mask = batch["response_mask"]
    with torch.no_grad():
        one, two = (response_logits(model, batch)[mask].double().log_softmax(-1) for model in (teacher, other))
    torch.testing.assert_close(found.double(), (2 * one + two) / 3, rtol=1e-4, atol=1e-5)
    ours.train()


def test_several_teachers_vote_on_new_responses(tmp_path: Path, teacher: Any, model_server: ModelServer) -> None:
    several = [
        {"model": truncated(teacher, [0, 1]), "label": "here", "tokenizer": word_tokenizer()},
        {"url": model_server.url, "served_model": "s", "weight": 2.0, "only": {"subject": "law"}},
    ]
    records = [{"prompt": f"w{n} w1", "subject": ("law", "art")[n % 2]} for n in range(4)]
    ranks = {"method": "dpo", "num_generations": 3, "max_new_tokens": 5, "max_steps": 1}
    ours = made(tmp_path, teacher, several, train_dataset=records, rankers=["log_prob"], arguments=ranks)
    panel = ours.rows.fresh.panel
    assert (panel.combine, panel.labels, panel.weights) == ("votes", ["here", "s"], [1.0, 2.0])
    ours.train()
    columns = {"subject": ["law", "art"], "prompt_ids": [[4, 7], [4, 8]], "response_ids": [[[9, 3], [10]], [[9], [11]]]}
    scores = panel(["w1", "w2"], [["w3", "w4"], ["w3", "w5"]], columns).by_ranker["s"]
    assert np.isnan(scores).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "a", "url": "http://x/v1"}, "give model, or url"),
        ({"url": "http://x/v1"}, "url and served_model belong together"),
        ({"url": "nonsense", "served_model": "s"}, "teacher_model url"),
        ([{"model": "a"}, {"model": "b/a"}], "'a' appears twice"),
        ([], "the list is empty"),
        ({"model": "a", "wieght": 2}, "unknown key 'wieght'"),
        ([{"model": "a", "weight": 0}], "weight must be a number above 0"),
    ],
)
def test_mistakes(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        given_teachers(given)
    assert len(str(caught.value)) < 400


def test_servers_that_cannot_serve_the_method(tmp_path: Path, teacher: Any, model_server: ModelServer) -> None:
    served = {"url": model_server.url, "served_model": "s"}
    for options, message in (
        ({"teacher": served, "arguments": {"method": "opd", "max_new_tokens": 4}}, "it must be in this process"),
        ({"teacher": {**served, "served_model": "other"}}, "serves no 'other'"),
        ({"teacher": {**served, "url": "http://127.0.0.1:9/v1"}}, "127.0.0.1:9"),
        (
            {"teacher": [served, {"model": teacher, "label": "b", "tokenizer": word_tokenizer()}]},
            "must be all servers or all local models",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            made(tmp_path, teacher, **options)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 400
