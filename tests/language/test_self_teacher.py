"""A self-teacher reads a column of the record that the student does not see."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.fresh import with_columns
from grkd.language.prepare import prepare
from grkd.language.respond import read_records, respond
from grkd.language.rows import language_rows, rows_of_fresh_groups
from grkd.language.score import read_groups, score
from grkd.objectives import load
from grkd.pipeline.check import check_recipe
from grkd.pipeline.run import run
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder

IN_TRAINING = ["responses.n=2", "responses.source=student", "responses.when=in_training"]


def words(recipe: Path, teacher: Path, *more: str, solutions: bool = True) -> list[str]:
    lines = [
        {"prompt": f"w{at} w{at + 3}", **({"solution": f"w{at + 9}"} if solutions or at else {})} for at in range(8)
    ]
    (recipe.parent / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = f"data={{train: {recipe.parent / 'prompts.jsonl'}, system: w1}}"
    return ["teacher={self: true, context: solution}", f"student={{model: {teacher}}}", data, "methods=[kd]", *more]


def scored(recipe_path: Path, *more: str) -> LanguageContext:
    recipe = read(recipe_path, list(more))
    assert isinstance(recipe, LanguageRecipe)
    context = LanguageContext.open(recipe, RunFolder(Path(recipe.output)))
    prepare(context)
    respond(context)
    score(context)
    return context


def test_scores_are_those_of_the_prompt_with_the_solution(tiny_recipe: Path, tiny_teacher: Path) -> None:
    context = scored(tiny_recipe, *words(tiny_recipe, tiny_teacher))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_teacher), AutoTokenizer.from_pretrained(tiny_teacher)
    solutions = {"train/" + str(at + 1): f"w{at + 9}" for at in range(8)}
    groups = read_groups(context.run, "train")
    rows = language_rows(context, groups)
    records = {record["id"]: record for record in read_records(context.run, "train")}
    taught = rows.forward(context.models.student(), rows.collate(groups[:2]), levels=("row",)).batches["row"].teacher
    assert taught is not None
    expected = []
    for group in groups[:2]:
        item, record = group.items[0], records[group.items[0].id]
        solution = solutions.get(group.id) or pytest.fail(group.id)
        turns = [
            {"role": "system", "content": f"w1\n\n{solution}"},
            {"role": "user", "content": record["prompt"]},
        ]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert solution not in tokenizer.decode(item.prompt_ids).split() or solution in record["prompt"].split()
        with torch.no_grad():
            logits = model(torch.tensor([ids + item.response_ids])).logits[0, len(ids) - 1 : -1]
        expected.append(logits)
        own = logits.log_softmax(-1).gather(-1, torch.tensor(item.response_ids).unsqueeze(-1)).mean().item()
        assert group.teacher_scores[0] == pytest.approx(own, abs=1e-4)
    torch.testing.assert_close(taught, torch.cat(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["opd", "{name: grkd, preset: responses}"])
def test_new_responses_are_scored_behind_the_solution(tiny_recipe: Path, tiny_teacher: Path, method: str) -> None:
    """The student answers its own prompt; the teacher's logits are those of the other prompt with that answer."""
    given = words(tiny_recipe, tiny_teacher, f"methods=[{method}]")
    if "grkd" in method:
        given += [*IN_TRAINING, "score.rankers=[{name: verifier, answer: solution}]"]
    context = scored(tiny_recipe, *given)
    (own,) = context.recipe.methods
    objective = load(own.name, **own.options)
    work = context.run.path / "work"
    stored = read_groups(context.run, "train")
    rows = (
        rows_of_fresh_groups(context, own, objective, work, stored)
        if "grkd" in method
        else language_rows(context, stored, objective=objective)
    )
    groups = with_columns(context, own, read_groups(context.run, "train")[:3])
    student, tokenizer = context.models.student(), context.models.tokenizer
    batch, *_ = rows.renew(student, [rows.collate(groups)], objective, seed=1, places=[(0, 0)])
    items = [(group, item) for group in batch["groups"] for item in group.items]
    assert {item.id for _, item in items} != {item.id for group in groups for item in group.items} or method == "opd"
    expected, plain = [], []
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    for group, item in items:
        solution = f"w{int(group.id.removeprefix('train/')) + 8}"
        asked = group.columns["prompt"]
        question = asked if isinstance(asked, str) else asked[-1]["content"]
        turns = [{"role": "system", "content": f"w1\n\n{solution}"}, {"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        with torch.no_grad():
            expected.append(model(torch.tensor([ids + item.response_ids])).logits[0, len(ids) - 1 : -1])
            start = len(item.prompt_ids)
            plain.append(student(torch.tensor([item.prompt_ids + item.response_ids])).logits[0, start - 1 : -1])
    found = rows.forward(student, batch, levels=("row",), fused=True)
    assert found.head_inputs is None
    taught = found.batches["row"]
    torch.testing.assert_close(taught.teacher, torch.cat(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(taught.student, torch.cat(plain), atol=1e-4, rtol=1e-4)


def test_a_run_that_samples_in_training(tiny_recipe: Path, tiny_teacher: Path) -> None:
    recipe = read(tiny_recipe, words(tiny_recipe, tiny_teacher, "methods=[opd, gkd]", "evaluation.samples=0"))
    assert isinstance(recipe, LanguageRecipe)
    assert run(recipe) == 0


def test_a_system_message_alone(tiny_recipe: Path, tiny_teacher: Path) -> None:
    """No column is read; the student's prompt is without the message, the teacher's has it behind the recipe's own."""
    own = words(tiny_recipe, tiny_teacher, "teacher={self: true, system: w7 w8}", solutions=False)
    context = scored(tiny_recipe, *own[1:])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_teacher), AutoTokenizer.from_pretrained(tiny_teacher)
    (group, *_), record = read_groups(context.run, "train"), read_records(context.run, "train")[0]
    turns = [{"role": "system", "content": "w1\n\nw7 w8"}, {"role": "user", "content": record["prompt"]}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    item = group.items[0]
    assert len(item.prompt_ids) == len(ids) - 2
    with torch.no_grad():
        logits = model(torch.tensor([ids + item.response_ids])).logits[0, len(ids) - 1 : -1]
    wanted = logits.log_softmax(-1).gather(-1, torch.tensor(item.response_ids).unsqueeze(-1)).mean().item()
    assert group.teacher_scores[0] == pytest.approx(wanted, abs=1e-4)


def test_a_record_without_the_text_is_named(tiny_recipe: Path, tiny_teacher: Path) -> None:
    given = words(tiny_recipe, tiny_teacher, solutions=False)
    with pytest.raises(UserError, match=r"teacher.context: record \w+/1 of .* has no text in the column 'solution'"):
        check_recipe(read(tiny_recipe, given))  # before a model is loaded
    with pytest.raises(UserError, match=r"teacher.context: record \w+/1 of .* has no text in the column 'solution'"):
        scored(tiny_recipe, *given)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["student={layers: [0]}"], "a self-teacher is the student before training; give student.model"),
        (["methods=[minillm]"], "samples from a mixture with the teacher, and a self-teacher reads other prompts"),
        (["methods=[dpo]", *IN_TRAINING], "dpo has the ranker log_prob order new responses"),
        (["teacher={self: true}"], "is shown what the student is not; give context .* or system"),
        (["score.reward=choice"], "a self-teacher is not asked for choices"),
    ],
)
def test_what_a_self_teacher_cannot_do(tiny_recipe: Path, tiny_teacher: Path, more: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_recipe(read(tiny_recipe, words(tiny_recipe, tiny_teacher, *more)))
