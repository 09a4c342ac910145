"""GRKDTrainer and the tokens of several teachers: votes on their order, and routes by a column."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.data.language import response_logits
from grkd.errors import UserError
from grkd.models.cut import truncated
from grkd.objectives import Opinions
from grkd.training import GRKDTrainer
from tests._model_server import ModelServer
from tests.conftest import word_tokenizer
from tests.training.test_grkd_trainer import RECORDS, config

ROUTED = [{**record, "subject": ("law", "art")[at % 2]} for at, record in enumerate(RECORDS)]
LOOKS = {"pairs.group": "top", "pairs.group_size": 4}


@pytest.fixture
def models(tiny_teacher: Path) -> list[Any]:
    whole = AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()
    return [whole, truncated(whole, [0, 1])]


def made(folder: Path, teachers: Any, student: Any, records: Any = ROUTED, **options: Any) -> GRKDTrainer:
    settings = {"method": "grkd", "method_options": LOOKS, "max_steps": 1, **options}
    return GRKDTrainer(
        student, teachers, config(folder, **settings), train_dataset=records, processing_class=word_tokenizer()
    )


def given(models: list[Any], **routes: Any) -> list[dict[str, Any]]:
    return [
        {"model": model, "label": label, "tokenizer": word_tokenizer(), "weight": weight, **routes.get(label, {})}
        for model, label, weight in zip(models, ("a", "b"), (2.0, 1.0), strict=True)
    ]


@pytest.mark.parametrize("order", ["votes", "unanimous"])
def test_teachers_vote_on_tokens(tmp_path: Path, models: list[Any], order: str) -> None:
    trainer = made(tmp_path, given(models), truncated(models[0], [0, 2]), token_order=order)
    batch = trainer.rows.collate(trainer.train_dataset[:3])
    rows = trainer.rows.forward(trainer.model, batch, levels=("row",)).batches["row"]
    mask = batch["response_mask"]
    with torch.no_grad():
        one, two = (response_logits(model, batch)[mask].log_softmax(-1) for model in models)
    torch.testing.assert_close(rows.teacher, (2 * one + two) / 3, rtol=1e-4, atol=1e-5)
    assert isinstance(rows.votes, Opinions)
    first, second = one.unsqueeze(-1) > one.unsqueeze(-2), two.unsqueeze(-1) > two.unsqueeze(-2)
    share = (2.0 * first + second) / 3
    found = rows.votes.votes()
    assert found.weights is not None
    above = ~torch.eye(one.shape[-1], dtype=torch.bool).expand_as(share)
    torch.testing.assert_close(found.targets[above], share[above], rtol=1e-5, atol=1e-6)
    compared = above if order == "votes" else above & (first == second)
    assert torch.equal(found.weights > 0, compared)
    trainer.train()


def test_a_column_says_whose_tokens_are_learnt(tmp_path: Path, models: list[Any], model_server: ModelServer) -> None:
    """Models in this process, and the same behind servers: each record by its own teacher alone."""
    routes = {"a": {"only": {"subject": "law"}}, "b": {"only": {"subject": "art"}}}
    here = made(tmp_path / "here", given(models, **routes), truncated(models[0], [0, 2]))
    served = [
        {"url": model_server.url, "served_model": "s", "label": label, "top_k": 40, "only": {"subject": subject}}
        for label, subject in (("a", "law"), ("b", "art"))
    ]
    both = [models[0], models[0]]
    there = made(tmp_path / "there", served, truncated(models[0], [0, 2]))
    for trainer, own in ((here, models), (there, both)):
        groups = trainer.train_dataset[:4]
        batch = trainer.rows.collate(groups)
        found = trainer.rows.forward(trainer.model, batch, levels=("row",)).batches["row"].teacher
        mask, wanted = batch["response_mask"], []
        with torch.no_grad():
            logits = [response_logits(model, batch) for model in own]
        for at, group in enumerate(groups):
            wanted.append(logits[("law", "art").index(group.columns["subject"])][at][mask[at]])
        torch.testing.assert_close(found.log_softmax(-1), torch.cat(wanted).log_softmax(-1), rtol=1e-3, atol=2e-3)
        trainer.train()
    asked = [body for body in model_server.answered if "prompt" in body]
    assert len(asked) == len(ROUTED)  # each response once, by one of the two


def test_routes_of_sampled_tokens(tmp_path: Path, models: list[Any]) -> None:
    routes = {"a": {"only": {"subject": "law"}}}
    trainer = made(
        tmp_path,
        given(models, **routes),
        truncated(models[0], [0, 2]),
        method="opd",
        method_options={},
        max_new_tokens=4,
    )
    trainer.train()
    batch = trainer.rows.collate(trainer.train_dataset[:2])
    assert batch["teacher_weights"].tolist() == [[2.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "routes", "message"),
    [
        ({"token_order": "votes", "method": "kd", "method_options": {}}, {}, "kd compares no pairs of tokens"),
        (
            {},
            {"a": {"only": {"subject": "law"}}, "b": {"only": {"subject": "maths"}}},
            "record 1 has {'subject': 'art'}, which is no teacher's `only`",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, models: list[Any], options: Any, routes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(tmp_path, given(models, **routes), truncated(models[0], [0, 2]), **options)
    assert len(str(caught.value)) < 400


def test_votes_need_several(tmp_path: Path, models: list[Any]) -> None:
    with pytest.raises(UserError, match="token_order votes is of several teachers"):
        made(tmp_path, given(models)[:1], truncated(models[0], [0, 2]), token_order="votes")
