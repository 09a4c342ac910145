"""Several teachers in a recipe: votes on responses, mean log-probabilities of tokens, routes, and their agreement."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from grkd.data.language import response_logits
from grkd.data.tables import read_table
from grkd.errors import UserError
from grkd.files import read_json
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import respond
from grkd.language.rows import language_rows
from grkd.language.score import read_groups, score
from grkd.pipeline.run import run
from grkd.planning.money import usage
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from tests._model_server import ModelServer
from tests.conftest import WORDS as TAIL
from tests.language._score_runs import WORDS, save_llama, tokenizer


@pytest.fixture(scope="module")
def second(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another teacher with the same vocabulary."""
    folder = tmp_path_factory.mktemp("second")
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    torch.manual_seed(7)
    other = LlamaForCausalLM(model.config)
    other.save_pretrained(folder)
    for file in tiny_teacher.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for file in tiny_teacher.glob("*.jinja"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose vocabulary is the usual one in another order."""
    words = [*WORDS[:8], *reversed([*WORDS[8:], *TAIL[len(WORDS) :]])]
    return save_llama(tmp_path_factory.mktemp("foreign") / "other", tokenizer(words), seed=3)


@pytest.fixture(scope="module")
def model_server(second: Path) -> Iterator[ModelServer]:
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    made = ModelServer(second, context=256)
    yield made
    made.close()


def opened(path: Path, teachers: str, *words: str, output: str = "run") -> LanguageContext:
    given = ["data.limit=10", "evaluation.samples=0", f"teacher={teachers}", f"output={path.parent / output}", *words]
    recipe = read(path, given)
    assert isinstance(recipe, LanguageRecipe)
    return LanguageContext.open(recipe, RunFolder(Path(recipe.output)))


def scored(context: LanguageContext) -> LanguageContext:
    prepare(context)
    respond(context)
    score(context)
    return context


def means_of(context: LanguageContext) -> dict[str, float | None]:
    """By response, the teachers' mean log-probability that the score stage left."""
    tables = map(read_table, sorted((context.run.path / "score").glob("scores-*.parquet")))
    return {row["id"]: row["teacher_mean_log_prob_nats"] for table in tables for row in table}


def test_tokens_are_learnt_from_the_mean_log_probability(
    tiny_recipe: Path, tiny_teacher: Path, second: Path, model_server: ModelServer
) -> None:
    """Two here, and the second one behind a server: log q = (2 log p_1 + log p_2) / 3, in float64."""
    server = f"url: '{model_server.url}', served_model: s, model: {second}, top_k: 40"
    found = []
    for at, other in enumerate((f"{{model: {second}, label: b}}", f"{{{server}, label: b}}")):
        teachers = f"[{{model: {tiny_teacher}, label: a, weight: 2}}, {other}]"
        context = scored(opened(tiny_recipe, teachers, "methods=[kd]", output=f"run{at}"))
        groups = read_groups(context.run, "train")[:3]
        rows, student = language_rows(context, groups), context.models.student()
        batch = rows.collate(groups)
        found.append(rows.forward(student, batch, levels=("row",)).batches["row"].teacher)
        mask = batch["response_mask"]
        both = [AutoModelForCausalLM.from_pretrained(folder).double() for folder in (tiny_teacher, second)]
        with torch.no_grad():
            one, two = (response_logits(model, batch)[mask].log_softmax(-1) for model in both)
        wanted = ((2 * one + two) / 3).log_softmax(-1)
        of_tokens = ((2 * one + two) / 3).gather(-1, batch["response_ids"][mask][:, None])[:, 0]
        means = [each.mean().item() for each in of_tokens.split(mask.sum(-1).tolist())]
        kept = means_of(context)
        assert [kept[group.items[0].id] for group in groups] == pytest.approx(means, abs=2e-3)
        assert found[-1] is not None
        torch.testing.assert_close(found[-1].double().log_softmax(-1), wanted, atol=2e-3, rtol=1e-3)


def test_teachers_of_two_vocabularies_vote_and_their_agreement_is_kept(
    tiny_recipe: Path, tiny_teacher: Path, second: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = (
        f"[{{model: {tiny_teacher}, label: a}}, {{model: {second}, weight: 3.0, label: b}}, {{model: {foreign}}}]"
    )
    words = ["responses.n=3", "responses.source=student", "methods=[dpo]", "training.epochs=1"]
    context = opened(tiny_recipe, teachers, *words)
    assert run(context.recipe) == 0
    kept = read_json(context.run.path / "score" / "rankers.json")
    assert (kept["combine"], kept["labels"], kept["weights"]) == ("votes", ["a", "b", "other"], [1.0, 3.0, 1.0])
    assert [pair["rankers"] for pair in kept["agreement"]["pairs"]] == [["a", "b"], ["a", "other"], ["b", "other"]]
    for group in read_groups(context.run, "train"):
        assert group.votes is not None
        weight = np.array(group.votes[1])
        assert (weight[~np.eye(len(weight), dtype=bool)] == 5).all()
    report = (context.run.path / "report.html").read_text()
    assert "Agreement of the rankers" in report
    monkeypatch.setattr("grkd.language.models.load_language_model", None)  # no weight is loaded before
    with pytest.raises(UserError, match=r"^teacher other: .* vocabular") as caught:
        scored(opened(tiny_recipe, teachers, "methods=[kd]", output="tokens"))
    assert len(str(caught.value)) < 400


def test_groups_are_sampled_in_training(tiny_recipe: Path, tiny_teacher: Path, second: Path) -> None:
    """Responses by votes, tokens by votes and by the mean, each record by the teachers of its column."""
    lines = [f'{{"prompt": "w{n} w3", "subject": "{("maths", "law")[n % 2]}"}}' for n in range(6)]
    data = tiny_recipe.parent / "routed.jsonl"
    data.write_text("\n".join(lines))
    teachers = (
        f"[{{model: {tiny_teacher}, label: a, weight: 2}}, {{model: {second}, label: b, only: {{subject: law}}}}]"
    )
    words = [
        f"data={{train: {data}, heldout_fraction: 0.34}}",
        "responses={source: student, n: 2, when: in_training, max_new_tokens: 4}",
        "methods=[dpo, {name: grkd, preset: responses}, {name: grkd, label: tokens}, opd]",
        "score.token_order=votes",
        "training.epochs=1",
    ]
    context = opened(tiny_recipe, teachers, *words)
    assert run(context.recipe) == 0
    for label in ("dpo", "grkd"):
        kept = read_json(context.run.path / "train" / f"{label}-seed0" / "training.json")
        assert kept["steps"] > 0
    report = (context.run.path / "report.html").read_text()
    assert "Agreement of the teachers on tokens" in report
    (pair,) = read_json(context.run.path / "score" / "teachers.json")["pairs"]
    assert pair["tokens"] == sum(
        len(item.response_ids)
        for group in read_groups(context.run, "heldout")
        if int(group.id.rpartition("/")[2]) % 2 == 0  # b's
        for item in group.items
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score.token_order=votes", "methods=[kd]"], "read by grkd's pairs of tokens, and no method has them"),
        (["methods=[minillm]"], "samples from a mixture with the teacher, which is one"),
        (["methods=[opd]", "training.tokens_per_batch=64"], "remove training.tokens_per_batch"),
        (["methods=[opd]", "SERVED"], "they must be in this process"),
    ],
)
def test_mistakes_are_one_line(
    tiny_recipe: Path, tiny_teacher: Path, second: Path, words: list[str], message: str
) -> None:
    other = "url: 'http://127.0.0.1:9/v1', served_model: s" if "SERVED" in words else f"model: {second}"
    teachers = f"[{{model: {tiny_teacher}, label: a}}, {{{other}, label: b}}]"
    given = [word for word in words if word != "SERVED"]
    with pytest.raises(UserError, match=message) as caught:
        opened(tiny_recipe, teachers, *given)
    assert len(str(caught.value)) < 400


def test_what_served_ones_are_asked_is_planned(tiny_recipe: Path, tiny_teacher: Path) -> None:
    served = "{url: 'http://127.0.0.1:9/v1', served_model: s, only: {subject: law}}"
    recipe = opened(tiny_recipe, f"[{{model: {tiny_teacher}, label: a}}, {served}]", "methods=[kd]").recipe
    found = usage(recipe, prompts=10, prompt_tokens=4.0, response_tokens=6.0)
    assert {name: each.requests for name, each in found.items()} == {"log-probabilities of the teacher s": 10}


def test_a_column_says_which_teacher_is_asked(tiny_recipe: Path, tiny_teacher: Path, second: Path) -> None:
    lines = [f'{{"prompt": "w{n} w3", "subject": "{("maths", "law", "art")[n % 3]}"}}' for n in range(9)]
    data = tiny_recipe.parent / "routed.jsonl"
    data.write_text("\n".join(lines[:2] + lines[3:5] + lines[6:8]))
    routes = f"[{{model: {tiny_teacher}, label: a, only: {{subject: maths}}}}, {{model: {second}, label: b, "
    words = ["methods=[kd]", f"data.train={data}", "data.heldout_fraction=0.34"]
    context = scored(opened(tiny_recipe, routes + "only: {subject: law}}]", *words))
    kept: dict[str, Any] = read_json(context.run.path / "score" / "rankers.json")["agreement"]["rankers"]
    assert {label: each["abstentions"] for label, each in kept.items()} == {"a": 0.5, "b": 0.5}
    groups = read_groups(context.run, "train")
    rows = language_rows(context, groups)
    batch = rows.collate(groups)
    found = rows.forward(context.models.student(), batch, levels=("row",)).batches["row"].teacher
    assert found is not None
    mask, wanted = batch["response_mask"], []
    for folder in (tiny_teacher, second):
        with torch.no_grad():
            wanted.append(response_logits(AutoModelForCausalLM.from_pretrained(folder), batch).log_softmax(-1))
    subject = {f"train/{n + 1}": n % 2 for n in range(6)}
    rows_of = [wanted[subject[group.id]][at][mask[at]] for at, group in enumerate(groups)]
    torch.testing.assert_close(found, torch.cat(rows_of), atol=1e-4, rtol=1e-4)
    assert None not in means_of(context).values()  # also of the records that the first one is not asked about
    data.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"record train/\d+ has {'subject': 'art'}, which is no teacher's"):
        scored(opened(tiny_recipe, routes + "only: {subject: law}}]", *words, output="art"))
