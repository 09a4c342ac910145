"""GRKDTrainer with a teacher of another vocabulary: tokens where both tokenisations meet, and clear refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grkd.errors import UserError
from grkd.training import GRKDTrainer
from grkd.training.cross_rows import CrossRows
from tests.teacher._vocabularies import LINES, byte_level, pieces
from tests.training.test_cross_rows import Live, model
from tests.training.test_grkd_trainer import config

RECORDS = [{"prompt": LINES[3][: 6 + n], "completion": LINES[0][: 12 + 3 * n]} for n in range(8)]


def made(
    folder: Path, student: Any = None, teacher: Any = None, *, records: Any = RECORDS, ours: Any = None, **options: Any
) -> GRKDTrainer:
    """teacher: a model of `pieces`, or what stands for it; options: of GRKDConfig."""
    ours = ours or {"teacher_processing_class": pieces()}
    settings = {"method": "kd", "method_options": {}, "other_vocabulary": "tokens", **options}
    student = model(byte_level(), 0).float() if student is None else student
    teacher = model(pieces(), 1).float() if teacher is None else teacher
    return GRKDTrainer(
        student, teacher, config(folder, **settings), train_dataset=records, processing_class=byte_level(), **ours
    )


@pytest.mark.parametrize("method", ["kd", "grkd", "uld", "span_sum"])
def test_rows_are_those_of_stored_scores(tmp_path: Path, method: str) -> None:
    """The teacher in the process, from hidden states at the places alone, beside its logits of whole responses."""
    options = {"pairs.group": "top", "pairs.group_size": 6} if method == "grkd" else {}
    trainer = made(tmp_path, method=method, method_options=options)
    rows = trainer.rows
    assert isinstance(rows, CrossRows)
    groups = trainer.train_dataset[:3]
    stored = CrossRows(
        across=rows.across,
        crossing=rows.crossing,
        own=rows.own,
        foreign=Live(rows.foreign.model),  # type: ignore[attr-defined]
        pad_token_id=0,
        vocabulary=len(byte_level()),
    )
    found, wanted = (
        each.forward(trainer.model, each.collate(groups), levels=("row",)).batches["row"] for each in (rows, stored)
    )
    torch.testing.assert_close(found.student, wanted.student)
    torch.testing.assert_close(found.teacher, wanted.teacher, rtol=1e-4, atol=1e-5)


def test_the_students_loss_falls_and_the_log_says_what_is_left_out(tmp_path: Path) -> None:
    trainer = made(tmp_path, max_steps=6, eval_strategy="no", save_strategy="no")
    trainer.eval_dataset = trainer._encoded(RECORDS[:2], "eval_dataset")
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    lines = [json.loads(line) for line in (tmp_path / "train" / "kd-seed42" / "metrics.jsonl").read_text().splitlines()]
    rows = trainer.rows
    assert isinstance(rows, CrossRows)
    met = tokens = 0
    for group in trainer.train_dataset:
        ours, theirs = group.items[0], rows.own(group)[0]
        met, tokens = (
            met + len(rows.crossing.meeting(ours.response_ids, theirs.response_ids).student),
            tokens + len(ours.response_ids),
        )
    two = lines[:2]  # an epoch of two steps
    seen = sum(line["crossing"]["tokens_with_a_teacher"] for line in two) / 2
    assert seen == pytest.approx(met / tokens, abs=0.1)
    assert all(0 < line["crossing"]["teacher_mass_left_out"] < 1 for line in lines)


def test_what_is_left_out_in_numbers(tmp_path: Path) -> None:
    """A teacher that is sure of tokens which the student's vocabulary spells, and one that is sure of others."""
    for shared in (True, False):
        teacher = model(pieces(), 1).float()
        trainer = made(tmp_path, teacher=teacher)
        rows = trainer.rows
        assert isinstance(rows, CrossRows)
        bias = torch.full((len(pieces()),), -30.0)
        bias[rows.crossing.teacher_ids] = 30.0
        live = rows.foreign.model  # type: ignore[attr-defined]
        live.lm_head = torch.nn.Linear(16, len(pieces()))
        live.lm_head.bias = torch.nn.Parameter(bias if shared else -bias)
        rows.forward(trainer.model, rows.collate(trainer.train_dataset[:2]), levels=("row",))
        total, over = rows.notes["crossing/teacher_mass_left_out"]
        assert total / over == pytest.approx(0.0 if shared else 1.0, abs=1e-5)


def test_two_teachers_of_one_other_vocabulary(tmp_path: Path) -> None:
    """log q = (log p_1 + 3 log p_2) / 4 over the teachers' vocabulary."""
    both = [model(pieces(), 1).float(), model(pieces(), 2).float()]
    given = [{"model": each, "label": str(at), "tokenizer": pieces(), "weight": w} for at, (each, w) in
             enumerate(zip(both, (1.0, 3.0), strict=True))]  # fmt: skip
    trainer = made(tmp_path, teacher=given, ours={"eval_dataset": None})
    rows = trainer.rows
    assert isinstance(rows, CrossRows)
    batch = rows.collate(trainer.train_dataset[:2])
    found = rows.forward(trainer.model, batch, levels=("row",)).batches["row"].teacher
    alone = []
    for each in both:
        rows.foreign.model = each  # type: ignore[attr-defined]
        alone.append(rows.foreign.scores(
            {name.removeprefix("foreign/"): value for name, value in batch.items() if name.startswith("foreign/")},
            vocabulary=len(pieces()),
        ))  # fmt: skip
    wanted = sum(w * each.log_softmax(-1) for each, w in zip(alone, (0.25, 0.75), strict=True))  # type: ignore[union-attr]
    torch.testing.assert_close(found, wanted[:, rows.crossing.teacher_ids], rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_of_several_the_one_with_another_vocabulary_is_named(tmp_path: Path) -> None:
    given = [
        {"model": model(words, at).float(), "label": label, "tokenizer": words}
        for at, (label, words) in enumerate((("same", byte_level()), ("other", pieces())))
    ]
    for options, message in (
        ({"other_vocabulary": "responses"}, "^teacher_model other: teacher and student have different"),
        ({}, "learnt from teachers of one vocabulary, and these have several"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            made(tmp_path, teacher=given, ours={"eval_dataset": None}, **options)
        assert len(str(caught.value)) < 400


def test_sampled_groups_are_anchored_by_tokens_of_another_vocabulary(tmp_path: Path) -> None:
    """Responses that the student samples: the teacher orders their text, and its tokens anchor them."""
    trainer = made(
        tmp_path,
        records=[{"prompt": each["prompt"]} for each in RECORDS],
        method="grkd",
        method_options={"preset": "responses"},
        num_generations=2,
        max_new_tokens=6,
        max_steps=1,
        ours={"teacher_processing_class": pieces(), "rankers": ["log_prob"]},
    )
    trainer.train()
    logged = next(line for line in trainer.state.log_history if "loss" in line)
    assert {"terms/soft_target", "terms/group_relative_of_responses"} <= {*logged} or "loss" in logged
    assert 0 < logged["crossing/tokens_with_a_teacher"] <= 1


@pytest.mark.parametrize(
    ("options", "ours", "message"),
    [
        ({"other_vocabulary": "responses"}, None, "set other_vocabulary='tokens'"),
        ({"method_options": {"label_weight": 1.0}}, None, "different vocabularies.*kd learns from a teacher's scores"),
        ({"eval_metrics": ["kendall_tau"]}, None, "eval_metrics kendall_tau compare the student's tokens"),
        (
            {},
            {"teacher_processing_class": pieces(), "compute_metrics": lambda found: {}},
            "compute_metrics reads tokens of one",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: Any, ours: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(tmp_path, ours=ours, **options)
    assert len(str(caught.value)) < 400


def test_a_text_over_the_teachers_context_is_named(tmp_path: Path) -> None:
    teacher = model(pieces(), 1).float()
    teacher.config.max_position_embeddings = 20
    with pytest.raises(UserError, match=r"teacher: prompt and response 0#0 are .* its context is 20"):
        made(tmp_path, teacher=teacher)
