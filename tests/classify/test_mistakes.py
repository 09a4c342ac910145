"""Recipes of classifiers that do not fit: one line that says what to change, before anything costs time."""

from pathlib import Path

import pytest

from grkd.errors import UserError
from grkd.pipeline.compare import compare as compare_command
from tests.classify._toys import TEXTS, compare, read


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.gradient_accumulation=2", "lockstep.augment=true"], "lockstep.augment: training.gradient_accumu"),
        (["training.extra={optim: sgd}", "lockstep.optimizer=sgd"], "lockstep.optimizer: training.extra is trained by"),
        (["teacher.training.extra={optim: sgd}", "lockstep.optimizer=sgd"], "lockstep.optimizer: the teacher cannot"),
        (["lockstep.augment=true"], "lockstep.augment: only images"),
        (["evaluation.groups={a: ['1', 'x']}"], "no class 'x'"),
        (["search.metric=luck"], "search.metric: unknown metric 'luck'; available: accuracy, nll_nats"),
        (["methods=[{name: grkd, pairs.group: top, pairs.group_size: 11}]"], "group_size 11"),
        (["methods=[ce, dpo]"], "dpo: a method on whole responses cannot train a classifier"),
        (["methods=[ce, gkd]"], "gkd: a classifier writes no responses; set on_policy_fraction: 0"),
        (["data.copies=2"], "data.copies: only texts have words that can be left out"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: list[str], line: str) -> None:
    with pytest.raises(UserError) as error:
        compare(tmp_path, *words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "teach").exists()
    if words[0].startswith("methods=[ce"):  # found before anything is read
        assert not (tmp_path / "run" / "prepare").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("{kd: {temperature: [1, 2]}}", "search.options.kd: no method of the recipe has this label; labels: soft"),
        ("{soft: {temperature: [-1.0]}}", "temperature must be above 0"),
        ("{soft: {warmth: [1.0]}}", "warmth"),
        ("{soft: {preset: [paper]}}", "search.options.soft.preset: give each preset as a method with a label"),
    ],
)
def test_options_that_reach_no_method_are_refused(tmp_path: Path, options: str, line: str) -> None:
    one = read(tmp_path, "methods=[{name: kd, label: soft}]", f"search.options={options}")
    with pytest.raises(UserError, match=line):
        compare_command(one)


def test_texts_need_features(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mlp: this network cannot read text; set data\.features: tfidf"):
        compare(tmp_path, "data.features=tokens", text=TEXTS)
