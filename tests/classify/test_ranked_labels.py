"""Teachers that order some classes of each text: the records themselves, and a served model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from grkd.data.labelled_text import labelled_text
from grkd.data.rankings import tier_scores
from grkd.errors import UserError
from grkd.files import read_json
from grkd.pipeline.check import check_recipe
from grkd.pipeline.run import run
from grkd.recipe import ClassifierRecipe, read
from tests._endpoint_server import EndpointServer

CLASSES = ["card", "cash", "loan", "rate"]
METHODS = "methods=[{name: grkd, anchor: []}, plackett_luce, ce]"


def texts(number: int = 24) -> list[dict[str, Any]]:
    """The class is the text's first word, the second best the next in the list."""
    return [
        {"text": f"{CLASSES[n % 4]} question {n}", "ranking": [CLASSES[n % 4], CLASSES[(n + 1) % 4]]}
        for n in range(number)
    ]


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts()))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
task: classifier
output: {tmp_path / "run"}
device: cpu
data: {{train: train.jsonl, heldout: heldout.jsonl, features: tfidf}}
teacher: {{ranking: ranking}}
student: {{model: mlp, options: {{hidden: [8]}}}}
methods: [{{name: grkd, anchor: []}}, plackett_luce, ce]
training: {{epochs: 10, batch_size: 8, learning_rate: 3e-2}}
"""
    )
    return path


def opened(path: Path, *words: str) -> ClassifierRecipe:
    found = read(path, list(words))
    assert isinstance(found, ClassifierRecipe)
    return found


def test_tiers_by_hand() -> None:
    found = tier_scores([[2, 0], []], 4)
    assert found.tolist() == [[-1, -2, 0, -2], [0, 0, 0, 0]]


def test_records_hold_the_order(recipe_path: Path) -> None:
    recipe = opened(recipe_path)
    check_recipe(recipe)
    assert run(recipe) == 0
    scores = load_file(Path(recipe.output) / "score" / "scores.safetensors")
    assert scores["train"][1].tolist() == [-2, 0, -1, -2]
    metrics = read_json(Path(recipe.output) / "evaluate" / "grkd-seed0" / "metrics.json")
    assert metrics["accuracy"]["value"] == 1.0
    assert metrics["pair_accuracy"]["value"] > 0.9
    assert "soft_cross_entropy_nats" not in metrics
    assert set(read_json(Path(recipe.output) / "evaluate" / "teacher" / "metrics.json")) == {"accuracy"}


def test_a_served_model_orders_classes_and_is_asked_once(recipe_path: Path, server: EndpointServer) -> None:
    def reply(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"].split("## Text\n\n")[1]
        if text.endswith(" 3"):
            return "I would rather not say."
        first = CLASSES.index(text.split()[0])
        return f"1. {CLASSES[first].upper()}\n- `{CLASSES[(first + 1) % 4]}`\nnonsense\n{CLASSES[(first + 2) % 4]}"

    server.reply = reply
    recipe = opened(recipe_path, f"teacher={{url: {server.url}, served_model: m, top: 2}}", "data.label=label")
    lines = [{"text": each["text"], "label": each["ranking"][0]} for each in texts()]
    for name in ("train", "heldout"):
        (recipe_path.parent / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    server.faults = ["", "", "", "refuses key"]
    with pytest.raises(UserError, match="wants a key"):
        run(recipe)
    assert run(recipe) == 0
    asked = [str(body["messages"]) for body in server.answered]
    assert len(asked) == len(set(asked)) == 24  # the held-out texts are the same
    scores = load_file(Path(recipe.output) / "score" / "scores.safetensors")["train"]
    assert scores[1].tolist() == [-2, 0, -1, -2]
    assert scores[3].tolist() == [0, 0, 0, 0]
    counts = read_json(Path(recipe.output) / "score" / "ranking.json")
    assert (counts["asked"], counts["unreadable"], counts["version"]) == (48, 2, 1)
    assert torch.isfinite(scores).all()


def test_classes_are_read_as_they_are_written(recipe_path: Path, server: EndpointServer) -> None:
    names = ["Polish", "polish", "401k", "7", "3.5 mm"]
    answers = ["polish", "Polish", "1. 401k\n2. 3.5 mm", "1. 7\n2) **401K**", "(1) 3.5 MM.\n- polish"]
    lines = [{"text": f"{name} {n}", "label": name} for n in range(4) for name in names]
    for name in ("train", "heldout"):
        (recipe_path.parent / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    server.reply = lambda body: answers[names.index(body["messages"][-1]["content"].split("## Text\n\n")[1][:-2])]
    words = [f"teacher={{url: {server.url}, served_model: m, top: 2}}", "methods=[plackett_luce]", "training.epochs=1"]
    recipe = opened(recipe_path, *words, "data.label=label")
    assert run(recipe) == 0
    folder = Path(recipe.output)
    classes = read_json(folder / "prepare" / "classes.json")
    scores = load_file(folder / "score" / "scores.safetensors")["train"][:5]
    ranked = [[classes[n] for n in row.argsort(descending=True) if row[n] > row.min()] for row in scores]
    assert ranked == [["polish"], ["Polish"], ["401k", "3.5 mm"], ["7", "401k"], ["3.5 mm", "polish"]]
    key = read_json(folder / "train" / "plackett_luce-seed0" / "manifest.json")["key"]
    assert run(opened(recipe_path, *words, "data.label=label", "teacher.timeout_seconds=9")) == 0
    assert read_json(folder / "train" / "plackett_luce-seed0" / "manifest.json")["key"] == key  # no other teacher


def test_mistakes(recipe_path: Path) -> None:
    for words, message in (
        (["methods=[kd]"], "kd: needs scores of all classes, and the teacher orders some"),
        (["methods=[grkd]"], "grkd: needs scores of all classes"),
        (["teacher={ranking: ranking, url: http://x/v1, served_model: m}"], "needs ranking"),
        (["teacher={url: http://x/v1}"], "url and served_model belong together"),
        (["data.train=train.csv"], "give data.train as JSON Lines"),
        (["data.copies=1"], "an order of classes belongs to the text as it is"),
        (["search={metric: forward_kl_nats}"], "gives an order and no probabilities for 'forward_kl_nats'"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            check_recipe(opened(recipe_path, *words))
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a", "ranking": "card"}, "line 1: 'ranking': must be a list of classes"),
        ({"text": "a", "ranking": ["card", "card"]}, "a class appears twice"),
        ({"text": "a", "ranking": [1.5]}, "a text or a whole number"),
        ({"text": "a"}, "neither 'ranking' nor 'label'"),
        ({"text": "a", "label": None}, "'label' must be a string or a whole number, got null"),
    ],
)
def test_records_that_cannot_be(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=message):
        labelled_text(path, heldout_fraction=0.5, seed=0, ranking="ranking")
