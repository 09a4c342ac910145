"""A teacher and a student with different vocabularies: refused where tokens would cross, else text and scores cross."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.data.chat import encode_prompt
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.language.score import read_groups, score
from grkd.teacher.annotator import Comparison, choice_scores
from tests.language._score_runs import (
    CONTEXT,
    END,
    WORDS,
    Prepared,
    own_log_probs,
    records,
    save_llama,
    table,
    tokenizer,
)

RANKS = (
    "methods=[{name: grkd, ranking: [{part: pairs, level: response, tau: 0.1}], "
    "anchor: [{part: soft_target, level: response, temperature: 0.1}]}]"
)
SQUARE = (  # another template, with another end of a turn
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <stop> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
OTHERS = ["<unk>", "<pad>", "<stop>", "<end>", "more", *reversed(WORDS[4:])]


def other_tokenizer(template: str | None = SQUARE) -> Any:
    words = tokenizer(OTHERS, template)
    words.add_special_tokens({"eos_token": "<stop>"})
    return words


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("other"), other_tokenizer())


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("student"), tokenizer(), seed=1, layers=1)


def refused(folder: Path, teacher: Path, student: Path, *words: str) -> str:
    with pytest.raises(UserError) as raised:
        Prepared(folder, teacher, records(4, 2), *words, student=student)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_methods_that_compare_tokens_are_refused_with_the_reason(tmp_path: Path, teacher: Path, student: Path) -> None:
    text = refused(tmp_path, teacher, student, "methods=[kd, ce, {name: grkd, label: order}]")
    assert text.startswith(
        "teacher and student have different vocabularies: token '<pad>' is 1 in the teacher's (41 tokens)"
    )
    assert "choose a student with the teacher's tokenizer, or replace kd, order, compared token by token, by" in text
    text = refused(tmp_path, teacher, student, "methods=[{name: grkd, ranking: [{part: pairs, level: response}]}]")
    assert "replace grkd" in text, "its soft targets are over tokens unless response_soft says otherwise"


@pytest.mark.parametrize("methods", [RANKS, "methods=[ce]"])
def test_methods_without_the_teachers_tokens_are_let_through(
    tmp_path: Path, teacher: Path, student: Path, methods: str
) -> None:
    run = Prepared(tmp_path, teacher, records(4, 2), methods, student=student)
    run.context.models.check_vocabularies()
    assert run.context.models.teacher_tokenizer.get_vocab() == other_tokenizer().get_vocab()


def test_methods_that_change_after_the_models_were_prepared(tmp_path: Path, teacher: Path, student: Path) -> None:
    run = Prepared(tmp_path, teacher, records(4, 2), RANKS, student=student)
    changed = run.again("methods=[kd]")
    with pytest.raises(UserError, match="replace kd, compared token by token"):
        score(changed.context)


@pytest.mark.parametrize("template", [SQUARE, None])
def test_the_teacher_scores_the_text_in_its_own_tokens(tmp_path: Path, student: Path, template: str | None) -> None:
    own = other_tokenizer(template)
    teacher = save_llama(tmp_path / "teacher", own)
    run = Prepared(
        tmp_path, teacher, records(5, 3), RANKS, "score.reward=calibrated", "data.system=w30", student=student
    )
    assert run.context.models.teacher_tokenizer is not None
    assert run.context.models.numbers["stop_ids"] == [END], "the student's"
    score(run.context)
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    found = table(run)
    for number in range(5):
        group = [record for record in records(5, 3) if record["group"] == f"p{number}"]
        conversation = [{"role": "system", "content": "w30"}, *json.loads(group[0]["messages"])]
        asked = Comparison(id="any", conversation=conversation, responses=tuple(record["response"] for record in group))
        (verdict,) = choice_scores(model, own, [asked], batch_size=2, context=CONTEXT)
        assert verdict.log_wins is not None
        for record, win in zip(group, verdict.log_wins, strict=True):
            example = Example(id="any", prompt=record["prompt"])
            prompt_ids = encode_prompt(own, example, system="w30")
            response_ids = own(record["response"], add_special_tokens=False)["input_ids"]
            if record["finished"]:
                response_ids = [*response_ids, own.convert_tokens_to_ids("<stop>")]
            expected = own_log_probs(teacher, prompt_ids, response_ids, len(OTHERS)).mean()
            row = found[record["id"]]
            assert row["teacher_mean_log_prob_nats"] == pytest.approx(expected.item(), rel=1e-4)
            assert row["teacher_reward"] == pytest.approx(0.8 * row["teacher_mean_log_prob_nats"] + 0.2 * win, rel=1e-4)
            assert row["tokens"] == len(record["response_ids"]), "the student's count"
    assert not (run.run.path / "score" / "hidden").exists(), "no tokens to compare"
    assert not (run.run.path / "score" / "head.safetensors").exists()
    group = read_groups(run.run, "train")[0]
    assert group.teacher_scores == tuple(found[item.id]["teacher_reward"] for item in group.items)


def test_one_vocabulary_has_no_second_tokenizer(tmp_path: Path, student: Path) -> None:
    run = Prepared(tmp_path, save_llama(tmp_path / "teacher", tokenizer()), records(4, 2), student=student)
    assert run.context.models.teacher_tokenizer is None
    assert not (run.run.path / "prepare" / "teacher_tokenizer").exists()


def test_a_teacher_with_a_shorter_context(tmp_path: Path, student: Path) -> None:
    teacher = save_llama(tmp_path / "teacher", other_tokenizer())
    settings = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 4}))
    run = Prepared(tmp_path, teacher, records(4, 2), RANKS, student=student)
    assert run.context.models.numbers["context"] == CONTEXT, "prompts are dropped by the student's"
    with pytest.raises(UserError, match=r"teacher: prompt and response p\d#\d are \d+ of its tokens, its context is 4"):
        score(run.context)


def test_a_teacher_whose_head_is_too_small_for_its_own_tokenizer(tmp_path: Path, student: Path) -> None:
    teacher = save_llama(tmp_path / "teacher", other_tokenizer())
    more = other_tokenizer()
    more.add_tokens([f"x{number}" for number in range(20)])
    more.save_pretrained(teacher)
    assert refused(tmp_path, teacher, student, RANKS) == "teacher: its head has 49 outputs, its tokenizer 61 tokens"


def test_log_probabilities_are_of_the_vocabulary_alone(tmp_path: Path, student: Path) -> None:
    """Outputs behind the teacher's own vocabulary are padding, whatever their weights are."""
    plain = save_llama(tmp_path / "plain", other_tokenizer())
    model = AutoModelForCausalLM.from_pretrained(plain)
    with torch.no_grad():
        model.lm_head.weight[len(OTHERS) :] *= 100
    model.save_pretrained(tmp_path / "padded")
    other_tokenizer().save_pretrained(tmp_path / "padded")
    found = []
    for name in ("plain", "padded"):
        (tmp_path / f"of-{name}").mkdir()
        run = Prepared(tmp_path / f"of-{name}", tmp_path / name, records(4, 2), RANKS, student=student)
        score(run.context)
        found.append({key: row["teacher_mean_log_prob_nats"] for key, row in table(run).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-6)
