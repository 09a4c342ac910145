"""Responses of which the data give an order alone: a method that cannot use it is refused before anything is loaded."""

import json
import re
from pathlib import Path

import pytest

from grkd.errors import UserError
from grkd.language.check_files import check_files
from grkd.recipe import LanguageRecipe, read

RECIPE = """
task: language_model
output: run
teacher: {model: me/teacher}
student: {model: me/student}
data: {train: groups.jsonl}
responses: {source: data, n: 3}
score: {reward: data}
methods: [METHOD]
"""


def checked(folder: Path, method: str, *overrides: str, word: str = '"tiers": [[1], [0, 2]]') -> None:
    lines = [json.loads(f'{{"prompt": "p{n}", "responses": ["a", "b", "c"], {word}}}') for n in range(4)]
    (folder / "groups.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.yaml").write_text(RECIPE.replace("METHOD", method))
    found = read(folder / "recipe.yaml", overrides)
    assert isinstance(found, LanguageRecipe)
    check_files(found)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("pad", "pad: needs a score per response, and the data give an order alone; use grkd with pairs on responses"),
        ("{name: pad, target: ranking}", "pad: needs an order without ties, and the data give"),
        ("{name: pro, reward_temperatures: true}", "pro: needs a score per response"),
        ("{name: grkd, anchor: [{part: soft_target, level: response}]}", "grkd: needs a score per response"),
        ("{name: lambdaloss, level: response, grades: scores}", "lambdaloss: needs a score per response"),
        ("plackett_luce", "plackett_luce: compares tokens, and the data give an order of responses; set level: resp"),
        ("ranknet", "ranknet: compares tokens"),
    ],
)
def test_what_cannot_use_an_order_is_refused_by_name(tmp_path: Path, method: str, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        checked(tmp_path, method)
    assert len(str(caught.value)) < 400
    if "tokens" not in text:
        checked(tmp_path, method, word='"teacher_scores": [1, 3, 1]')  # scores are scores
        checked(tmp_path, method, "score={rankers: [log_prob]}")  # a ranker gives the scores


@pytest.mark.parametrize(
    "method",
    [
        "{name: plackett_luce, level: response, tau: 0.1}",
        "{name: ranknet, level: response}",
        "{name: lambdaloss, level: response}",
        "{name: grkd, ranking: [{part: pairs, level: response, tau: 0.1}]}",
        "dpo",
        "simpo",
        "pro",
        "kd",  # the teacher's tokens, which a model gives
    ],
)
def test_what_can_use_an_order_is_not_refused(tmp_path: Path, method: str) -> None:
    checked(tmp_path, method)


def test_scores_of_responses_beside_a_method_that_compares_tokens(tmp_path: Path) -> None:
    """Which of the two is meant has to be said, unless the data's scores are nobody's order."""
    word = '"teacher_scores": [1, 3, 2]'
    text = "plackett_luce: compares tokens, and the data give scores of responses; set level: response, or level: row"
    with pytest.raises(UserError, match=text):
        checked(tmp_path, "plackett_luce", word=word)
    checked(tmp_path, "{name: plackett_luce, level: row}", word=word)
    checked(tmp_path, "plackett_luce", "score={reward: log_prob}", word=word)
