"""Tokens of a teacher of another vocabulary: rows where the two meet, and recipes from end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from grkd import objectives
from grkd.data.language import Group, Item, collate, response_logits
from grkd.errors import UserError
from grkd.files import read_json
from grkd.objectives import Batch, combine
from grkd.pipeline.run import run
from grkd.recipe import LanguageRecipe, read
from grkd.teacher.crossing import Crossing, Meeting
from grkd.training.cross_rows import CrossRows, shared_mass
from grkd.training.language_rows import LanguageRows
from grkd.training.rows import DRAW_SEED, draw_seed
from tests.teacher._vocabularies import LINES, byte_level, pieces

TEXTS = ["one two", "The student learns it.", "naïve 🙂", "words"]


def model(tokenizer: Any, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    known = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **known)).double().eval()


def item(tokenizer: Any, number: int, text: str) -> Item:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Item(f"p{number}#0", [2, 5], [*ids, 1])


class Live:
    """A teacher's scores of its own tokens, made when they are asked for. (StoredScores.)"""

    def __init__(self, teacher: LlamaForCausalLM) -> None:
        self.teacher = teacher

    def has(self, item: Item) -> bool:
        return True

    @torch.no_grad()
    def collate(self, items: Any) -> dict[str, torch.Tensor]:
        batch = collate(items, pad_token_id=0)
        return {"logits": response_logits(self.teacher, batch)[batch["response_mask"]]}

    def scores(self, batch: Any, *, vocabulary: int) -> torch.Tensor:
        found: torch.Tensor = batch["logits"][:, :vocabulary]
        return found


def rows_of(across: Any, student: Any, teacher: Any, teacher_model: Any) -> tuple[CrossRows, list[Group]]:
    own = {f"p{n}": [item(teacher, n, text)] for n, text in enumerate(TEXTS)}
    groups = [
        Group(id=f"p{n}", items=(item(student, n, text),), teacher_scores=(0.0,), sources=("data",))
        for n, text in enumerate(TEXTS)
    ]
    crossing = Crossing(student, teacher, student_stop=1, teacher_stop=1)
    made = CrossRows(
        across=across,
        crossing=crossing,
        own=lambda group: own[group.id],
        foreign=Live(teacher_model),
        pad_token_id=0,
        vocabulary=len(student),
    )
    return made, groups


def batch_of(rows: LanguageRows, groups: Any, student: Any) -> tuple[Batch, int]:
    batch = rows.collate(groups)
    return rows.forward(student, batch, levels=("row",)).batches["row"], rows.count(batch)["row"]


@pytest.mark.parametrize("method", ["kd", "grkd", "uld", "span_sum"])
def test_with_one_vocabulary_the_loss_is_the_usual_one(method: str) -> None:
    """A vocabulary crossed with itself: every token meets, and every token but control tokens is shared."""
    words = byte_level()
    student, teacher = model(words, 0), model(words, 1)
    objective = objectives.load(method, **({"pairs.group": "all"} if method == "grkd" else {}))
    rows, groups = rows_of(objective.across_vocabularies, words, words, teacher)
    plain = LanguageRows(pad_token_id=0, vocabulary=len(words), teacher=teacher)
    crossed, number = batch_of(rows, groups, student)
    usual, tokens = batch_of(plain, groups, student)
    assert number == tokens
    if objective.across_vocabularies == "shared":  # without <pad> and <turn>
        kept = [at for at in range(len(words)) if at not in (0, 2)]
        assert usual.teacher is not None
        usual = Batch(student=usual.student[:, kept], teacher=usual.teacher[:, kept])
    found, wanted = (combine(objective.terms(each)) for each in (crossed, usual))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_shared_candidates_and_spans_by_hand() -> None:
    """Both ways: places and sums as plain Python finds them."""
    for one, two in ((byte_level(), pieces()), (pieces(), byte_level())):
        student, teacher = model(one, 0), model(two, 1)
        rows, groups = rows_of("shared", one, two, teacher)
        found, number = batch_of(rows, groups, student)
        spanned, count = batch_of(rows_of("spans", one, two, teacher)[0], groups, student)
        places, sums = [], []
        for group in groups:
            mine, theirs = group.items[0], rows.own(group)[0]
            meeting = rows.crossing.meeting(mine.response_ids, theirs.response_ids)
            with torch.no_grad():
                logits = [
                    response_logits(side, collate([each], pad_token_id=0))[0]
                    for side, each in ((student, mine), (teacher, theirs))
                ]
            shared = rows.crossing.student_ids, rows.crossing.teacher_ids
            places += list(
                zip(logits[0][meeting.student][:, shared[0]], logits[1][meeting.teacher][:, shared[1]], strict=True)
            )
            for side, (scores, each, at) in enumerate(
                zip(logits, (mine, theirs), (meeting.student, meeting.teacher), strict=True)
            ):
                logs = scores.log_softmax(-1)
                ends = [*at[1:], len(each.response_ids)]
                sums += [
                    (side, sum(float(logs[t, each.response_ids[t]]) for t in range(start, end)))
                    for start, end in zip(at, ends, strict=True)
                ]
        assert number == len(places) == count
        torch.testing.assert_close(found.student, torch.stack([each for each, _ in places]))
        torch.testing.assert_close(found.teacher, torch.stack([each for _, each in places]))
        assert spanned.teacher is not None
        for side, scores in enumerate((spanned.student, spanned.teacher)):
            wanted = torch.tensor([value for which, value in sums if which == side], dtype=torch.float64)
            torch.testing.assert_close(scores[:, 0].double(), wanted.clamp_max(-1e-6), rtol=1e-5, atol=1e-6)
        mass = shared_mass(torch.zeros(1, len(rows.crossing.teacher)), rows.crossing)
        assert float(mass) == pytest.approx(len(rows.crossing.teacher_ids) / len(rows.crossing.teacher))


@pytest.mark.parametrize("across", ["shared", "whole"])
def test_a_row_draws_the_same_however_a_batch_is_split(across: str) -> None:
    one, two = byte_level(), pieces()
    student, teacher = model(one, 0), model(two, 1)
    rows, groups = rows_of(across, one, two, teacher)

    def seeds(first: int, part: Any) -> list[int]:
        batch = rows.collate(part) | {DRAW_SEED: draw_seed(3, first)}
        found = rows.forward(student, batch, levels=("row",)).batches["row"].seeds
        assert isinstance(found, torch.Tensor)
        return found.tolist()

    whole = seeds(0, groups)
    assert whole == [*seeds(0, groups[:1]), *seeds(1, groups[1:])]
    assert len(set(whole)) == len(whole) == batch_of(rows, groups, student)[1]


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    for name, words, seed in (("student", byte_level(), 0), ("teacher", pieces(), 1)):
        made = model(words, seed).float()
        made.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
    lines = [f'{{"prompt": "{LINES[3][: 6 + n]}", "completion": "{LINES[0][: 12 + 3 * n]}"}}\n' for n in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(lines))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
task: language_model
output: {tmp_path / "run"}
device: cpu
teacher: {{model: {tmp_path / "teacher"}}}
student: {{model: {tmp_path / "student"}}}
data: {{train: data.jsonl, heldout_fraction: 0.25}}
responses: {{source: data, max_new_tokens: 40}}
score: {{other_vocabulary: tokens}}
methods: [{{name: kd, temperature: 1.0}}, {{name: grkd, pairs.group: top, pairs.group_size: 6}}, uld, span_sum]
training: {{epochs: 4, batch_size: 3, learning_rate: 1e-2, log_every: 1, schedule: constant}}
evaluation: {{top_k: 4, samples: 0}}
"""
    )
    return path


def lines_of(recipe: LanguageRecipe, method: str) -> list[str]:
    return (Path(recipe.output) / "train" / f"{method}-seed0" / "metrics.jsonl").read_text().splitlines()


def test_a_recipe_learns_tokens_across_vocabularies(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read(recipe_path)
    assert isinstance(recipe, LanguageRecipe)
    assert run(recipe) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "tokens are shared, with" in said
    for method in ("kd", "uld", "span_sum"):
        losses = [json.loads(line)["loss_nats"] for line in lines_of(recipe, method)]
        assert losses[-1] < losses[0]
    report = (Path(recipe.output) / "report.html").read_text()
    left_out = [json.loads(line)["crossing"]["teacher_mass_left_out"] for line in lines_of(recipe, "kd")]
    measured = read_json(Path(recipe.output) / "evaluate" / "kd-seed0" / "metrics.json")
    assert {"kendall_tau", "top1_agreement", "forward_kl_nats"} <= measured.keys()
    before = read_json(Path(recipe.output) / "evaluate" / "before" / "metrics.json")
    assert measured["forward_kl_nats"]["value"] < before["forward_kl_nats"]["value"]
    assert f"<td>{100 * sum(left_out) / len(left_out):.1f} %</td>" in report
    assert "teacher_mass_left_out" not in lines_of(recipe, "uld")[0]  # it reads whole vocabularies


def test_mistakes_are_one_line(recipe_path: Path) -> None:
    for words, message in (
        (["score.other_vocabulary=responses", "methods=[kd]"], "replace kd, .* set score.other_vocabulary: tokens"),
        (["methods=[{name: kd, label_weight: 1.0}]"], "replace kd, compared token by token"),
    ):
        recipe = read(recipe_path, words)
        assert isinstance(recipe, LanguageRecipe)
        with pytest.raises(UserError, match=message) as caught:
            run(recipe)
        assert len(str(caught.value)) < 600


def test_a_last_response_that_meets_nowhere_takes_no_span_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was cut within the teacher's first token."""
    student, teacher = byte_level(), pieces()
    rows, groups = rows_of("spans", student, teacher, model(teacher, 2))
    whole, meeting, last = model(student, 1), rows.crossing.meeting, groups[-1].items[0].response_ids
    expected = rows.forward(whole, rows.collate(groups[:-1]), levels=("row",)).batches["row"].student
    nowhere = Meeting(student=[], teacher=[])
    monkeypatch.setattr(rows.crossing, "meeting", lambda one, two: nowhere if one == last else meeting(one, two))
    batch = rows.collate(groups)
    assert rows.count(batch)["row"] == len(expected)
    torch.testing.assert_close(rows.forward(whole, batch, levels=("row",)).batches["row"].student, expected)
