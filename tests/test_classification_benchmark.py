"""The classification experiments' recipes and their page: equal budgets, the right baseline, honest verdicts."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks import classification, classification_ranks, classification_search, classification_table
from benchmarks._classification_results import Experiment, shown_p
from benchmarks._measure import on_one_gpu
from grkd import objectives, recipe
from grkd.compare.search import grid
from grkd.compare.student_job import space
from grkd.recipe import ClassifierRecipe
from tests._classification_results import BEST, OURS, made_up

FOLDER = Path(__file__).parents[1] / "recipes" / "classification"
RECIPES = sorted(set(FOLDER.glob("*.yaml")) - set(FOLDER.glob("ablation-*.yaml")))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_method_of_a_recipe_has_the_same_budget(path: Path) -> None:
    found = recipe.read(path)
    assert isinstance(found, ClassifierRecipe)
    assert found.search is not None
    for method in found.methods:
        points = grid(space(found, method))
        assert len(points) >= found.search.trials or method.name == "ce", method.label
        others = [{name: value for name, value in point.items() if name != "learning_rate"} for point in points]
        for options in {repr(each): each for each in others}.values():  # every setting works
            made = objectives.load(method.name, **{**method.options, **options})
            made.check_candidates(10)
    assert set(found.search.options) <= {method.label for method in found.methods}
    assert len(found.seeds) == 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_is_not_about_ranks_is_offered_to_all_methods_alike(path: Path) -> None:
    found = recipe.read(path)
    assert found.search is not None
    options = found.search.options
    on_logits = {"kd", "kd-z", "dkd", "dist", "pld", "grkd", "grkd-printed"}
    for name, apart in (
        ("temperature", set()),
        ("label_weight", set()),
        ("teacher_temperature", {"kd-z", "pld"}),  # z-scores undo it; pld's temperature is the teacher's alone
    ):
        offered = [
            options[label][f"soft_target.{name}" if name == "temperature" and label.startswith("grkd") else name]
            for label in on_logits - apart
        ]
        assert all(values == offered[0] for values in offered), name


def test_the_image_recipes_differ_in_data_and_student_alone() -> None:
    images = [recipe.read(path) for path in RECIPES if path.stem.startswith(("tiny", "cifar10"))]
    assert len(images) >= 8
    for other in images[1:]:
        assert (other.methods, other.search, other.training, other.teacher) == (
            images[0].methods, images[0].search, images[0].training, images[0].teacher,
        )  # fmt: skip
    for one in images:  # and but for tries as long as trainings where 40 % of the labels are wrong
        worst = "worst" in (one.title or "")
        assert one.lockstep == dataclasses.replace(images[0].lockstep, search_epochs=None if worst else 10.0), one.title


def test_processes_take_turns_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [on_one_gpu(number)["CUDA_VISIBLE_DEVICES"] for number in range(3)] == ["2", "3", "2"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [on_one_gpu(number)["CUDA_VISIBLE_DEVICES"] for number in range(3)] == ["0", "1", "0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "CUDA_VISIBLE_DEVICES" not in on_one_gpu(0)


def test_the_best_baseline_is_no_grkd_and_has_every_seed(tmp_path: Path) -> None:
    found = made_up(tmp_path, {"ce": [0.4] * 5, "kd": BEST, "lucky": [0.9], "grkd": OURS, "grkd-b": [0.6] * 5})
    assert found.best_baseline(classification_table.COLUMNS[0]) == "kd"
    entry = classification_table.comparisons([found], classification_table.COLUMNS[0])["a"]
    baseline, test = entry
    assert baseline == "kd"
    assert test.difference == pytest.approx(sum(OURS) / 5 - sum(BEST) / 5)
    assert test.p == pytest.approx(ttest_rel(OURS, BEST).pvalue)


def test_holm_over_the_experiments_of_a_column(tmp_path: Path) -> None:
    first = made_up(tmp_path, {"kd": BEST, "grkd": OURS})
    second = made_up(tmp_path, {"kd": BEST, "grkd": [0.5, 0.51, 0.49, 0.5, 0.52]}, "b")
    found = classification_table.comparisons([first, second], classification_table.COLUMNS[0])
    alone = [ttest_rel(OURS, BEST).pvalue, ttest_rel([0.5, 0.51, 0.49, 0.5, 0.52], BEST).pvalue]
    assert alone[0] < alone[1]
    assert found["a"][1].p == pytest.approx(2 * alone[0])
    assert found["b"][1].p == pytest.approx(max(alone[1], 2 * alone[0]))


# Means a: 0.5, 0.4, 0.45, so ranks 1, 3, 2; b: a tie, 1.5, 3, 1.5; c: 2, 3, 1; d: 1, 3, 2.
RANKED: dict[str, dict[str, list[float]]] = {
    "a": {"ce": [0.3, 0.5], "kd": [0.4, 0.5], "grkd": [0.5, 0.5], "grkd-b": [0.9, 0.9]},
    "b": {"ce": [0.4, 0.4], "kd": [0.7, 0.3], "grkd": [0.6, 0.4], "grkd-b": [0.9, 0.9]},
    "c": {"ce": [0.3, 0.3], "kd": [0.5, 0.5], "grkd": [0.4, 0.4], "grkd-b": [0.9, 0.9]},
    "d": {"ce": [0.5, 0.5], "kd": [0.5, 0.6], "grkd": [0.6, 0.6], "grkd-b": [0.9, 0.9]},
}


def test_mean_ranks_over_experiments(tmp_path: Path) -> None:
    experiments = [made_up(tmp_path, means, name) for name, means in RANKED.items()]
    experiments.append(made_up(tmp_path, {"ce": [0.9, 0.9], "kd": [0.9], "grkd": [0.1, 0.1]}, "e"))  # a seed is missing
    found = classification_ranks.ranking(experiments, classification_table.COLUMNS[0])
    assert found.experiments == 4
    assert found.ranks == {"ce": 3.0, "kd": 1.625, "grkd": 1.375}
    # By hand: 12 / (4 * 3 * 4) * (12^2 + 6.5^2 + 5.5^2) - 3 * 4 * 4 = 6.125; one tie of two divides it by 1 - 6 / 96;
    # with 2 degrees of freedom p = exp(-chi2 / 2).
    assert found.friedman_p == pytest.approx(math.exp(-6.125 / (1 - 6 / 96) / 2))
    # Against ce four gains: 2 / 2^4. Against kd 0.05, 0, -0.1, 0.05: rank sums 3 and 3. Holm doubles the smaller.
    assert found.against == {"ce": pytest.approx((0.1, 0.25)), "kd": pytest.approx((0.0, 1.0))}


def test_the_least_nll_ranks_first(tmp_path: Path) -> None:
    experiments = [made_up(tmp_path, means, name, "nll_nats") for name, means in RANKED.items()]
    found = classification_ranks.ranking(experiments, classification_table.COLUMNS[2])
    assert found.ranks == {"ce": 1.0, "kd": 4 - 1.625, "grkd": 4 - 1.375}
    assert found.against["ce"] == pytest.approx((0.1, 0.25))


def test_methods_that_tie_everywhere_have_no_p(tmp_path: Path) -> None:
    experiments = [made_up(tmp_path, {"ce": [0.5], "kd": [0.5], "grkd": [0.5]}, name) for name in "ab"]
    found = classification_ranks.ranking(experiments, classification_table.COLUMNS[0])
    assert found.ranks == {"ce": 2.0, "kd": 2.0, "grkd": 2.0}
    assert math.isnan(found.friedman_p)
    assert math.isnan(found.against["kd"][1])


def test_the_page_has_the_mean_ranks_after_the_differences(tmp_path: Path) -> None:
    for name, means in RANKED.items():
        made_up(tmp_path, means, name)
    text = classification_table.page([classification_table.read(path) for path in sorted(tmp_path.glob("*.json"))])
    above, ranks = text.replace(classification_table.DASH, "-").split("## Mean ranks")
    assert "against the best tuned baseline" in above
    assert "## A\n" not in above
    for line in (
        "| experiments | 4 | 0 | 0 | 0 |",
        "| ce | 3.00 | - | - | - |",
        "| grkd | **1.38** | - | - | - |",
        "| Friedman's test | p = 0.038 | - | - | - |",
        "| ce | +10.00, p = 0.250 | - | - | - |",
        "| kd | +0.00, p = 1.000 | - | - | - |",
    ):
        assert line in ranks
    assert "below 0.250 with 4 experiments and 2 baselines." in " ".join(ranks.split())
    assert "grkd-b" not in ranks.split("## A\n")[0]


def test_verdicts() -> None:
    assert classification_table.verdict(0.01, 0.04, 1) == "**better**"
    assert classification_table.verdict(0.01, 0.04, -1) == "worse"
    assert classification_table.verdict(0.01, 0.05, 1) == "no difference shown"
    assert classification_table.verdict(0.01, float("nan"), 1) == "no difference shown"


def test_constant_options_are_listed_once_at_the_end(tmp_path: Path) -> None:
    for name, squared in (("a", True), ("b", True), ("c", False)):
        made_up(tmp_path, {"kd": BEST, "pld": BEST, "grkd": OURS}, name)
        record = json.loads((tmp_path / f"{name}.json").read_text())
        record["recipe"] = {"search": {"options": {"kd": {"temperature": [1.0, 4.0]}}}, "seeds": [0]}
        record["settings"] = {
            "kd": {"learning_rate": 0.1, "standardize": True, "temperature": 4.0},
            "pld": {"learning_rate": 0.1},
            "grkd": {"learning_rate": 0.3, "t_squared": squared, "alpha_shape": "constant"},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    text = classification_table.page([classification_table.read(path) for path in sorted(tmp_path.glob("*.json"))])
    above, end = text.split("## Labels")
    assert "standardize" not in above
    assert end.count("standardize") == 1
    rows = [line for line in end.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| kd | kd | standardize true |",
        "| pld | pld | the defaults |",
        "| grkd (a, b) | grkd | t_squared true, alpha_shape constant |",
        "| grkd (c) | grkd | t_squared false, alpha_shape constant |",
    ]


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0004, "p < 0.001"), (0.00099, "p < 0.001"), (0.001, "p = 0.001"), (0.0496, "p = 0.050"), (1.0, "p = 1.000")],
)
def test_a_small_p_is_never_0(p: float, text: str) -> None:
    assert shown_p(p) == text


def test_the_page_says_what_failed_and_marks_the_best(tmp_path: Path) -> None:
    made_up(tmp_path, {"kd": BEST, "grkd": OURS})
    record = json.loads((tmp_path / "a.json").read_text())
    record["status"] = {"kd-seed0": "done", "rkd-seed0": "failed: out of memory"}
    record["recipe"] = {"search": {"learning_rate": [0.1], "options": {"kd": {"temperature": [1.0, 2.0, 3.0, 4.0]}}}}
    record["settings"] = {"kd": {"learning_rate": 0.1, "t_squared": True, "temperature": 4.0}}
    record["search"] = [{"method": "kd"}] * 3
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "docs").mkdir()
    classification_table.write(tmp_path, tmp_path / "docs")
    text = (tmp_path / "docs" / "results-classification.md").read_text()
    assert "- failed: rkd-seed0: out of memory" in text
    assert "| kd | 50.20 ± 0.56 | 3 (75 %) | learning_rate 0.1, temperature 4.0 | temperature |" in text
    assert "| grkd | **52.40 ± 1.42** |" in text
    assert "+2.20 [" in text
    assert "against kd: **better**" in text
    drawn = (tmp_path / "docs" / "results-classification.svg").read_text()
    assert drawn.startswith("<?xml")
    classification_table.write(tmp_path, tmp_path / "docs")  # made again, the figure is the same
    assert (tmp_path / "docs" / "results-classification.svg").read_text() == drawn


def test_what_is_kept_names_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "one"
    (run / "train" / "kd-seed0").mkdir(parents=True)
    (run / "recipe.yaml").write_text(
        "student: {model: cnn, options: {channels: [4]}}\nmethods: [{name: kd, label: kd}]\n"
        "lockstep: {teachers: /secret}\ndata: {folder: /secret}\ntraining: {epochs: 1.0}\nseeds: [0]\n"
    )
    (run / "environment.json").write_text('{"torch": "2", "platform": "secret", "command": "/secret"}')
    row = {"method": "kd", "seed": 0, "metric": "accuracy", "value": 0.5, "steps": 3, "seconds": 1.0}
    results = {"title": "One", "status": {"kd-seed0": "done"}, "rows": [row]}
    (run / "results.json").write_text(json.dumps(results))
    inputs = {"learning_rate": 0.1, "method": {"name": "kd", "options": {"tau": 2.0}}}
    (run / "train" / "kd-seed0" / "manifest.json").write_text(json.dumps({"key": "x", "inputs": inputs}))
    monkeypatch.setattr(classification, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(classification, "KEPT", tmp_path / "kept")
    assert classification.main(["keep"]) == 0
    text = (tmp_path / "kept" / "one.json").read_text()
    assert "secret" not in text
    record = json.loads(text)
    assert record["settings"] == {"kd": {"learning_rate": 0.1, "tau": 2.0}}
    assert record["rows"] == [
        {"dataset": "one", "method": "kd", "label": "kd", "student": "cnn, channels [4]", "seed": 0,
         "metric": "accuracy", "value": 0.5, "low": None, "high": None, "steps": 3, "seconds": 1.0}
    ]  # fmt: skip


def test_a_bundle_leaves_out_what_is_large_or_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "one/search/optuna.journal",
        "one/tensors/tensors.safetensors",
        "teachers/x/score/scores.safetensors",
        "teachers/x/teach/model/model.safetensors",
    ):
        path = tmp_path / classification.RUNS / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    assert classification.main(["bundle", "out.tgz"]) == 0
    import tarfile

    with tarfile.open("out.tgz") as archive:
        names = [name.removeprefix(f"{classification.RUNS}/") for name in archive.getnames()]
    assert names == ["one/search/optuna.journal", "teachers/x/teach/model/model.safetensors"]


def searched(tmp_path: Path, values: dict[str, list[float]]) -> Experiment:
    """Methods with the held-out means .5, .6, .7, .8, and these values of their trials on validation."""
    made_up(tmp_path, {label: [mean, mean] for label, mean in zip("abcd", (0.5, 0.6, 0.7, 0.8), strict=True)})
    record = json.loads((tmp_path / "a.json").read_text())
    record["recipe"] = {"search": {"learning_rate": [0.1, 0.2, 0.3], "options": {}, "metric": "accuracy"}}
    record["search"] = [{"method": label, "value": value} for label, own in values.items() for value in own]
    record["settings"] = {"a": {"learning_rate": 0.1}, "b": {"learning_rate": 0.2}}
    (tmp_path / "a.json").write_text(json.dumps(record))
    return classification_table.read(tmp_path / "a.json")


def test_a_method_without_a_teacher_does_not_count_in_the_agreement(tmp_path: Path) -> None:
    found = searched(tmp_path, {"a": [0.9], "b": [0.8], "c": [0.99], "d": [0.7]})
    without = dataclasses.replace(found, methods={**found.methods, "d": "ce"})
    assert classification_search.agreement(without) == pytest.approx(0.5)  # ranks 2, 1, 3 against 1, 2, 3


def test_agreement_of_validation_and_test_by_hand(tmp_path: Path) -> None:
    # Best values .9, .8, .99, .7: ranks 3, 2, 4, 1 against 1, 2, 3, 4; 1 - 6 * (4 + 0 + 1 + 9) / (4 * 15) = -.4.
    found = searched(tmp_path, {"a": [0.9, 0.1], "b": [0.8], "c": [0.2, 0.99], "d": [0.7]})
    assert classification_search.agreement(found) == pytest.approx(-0.4)
    text = "\n".join(classification_search.section([found]))
    assert "| A | -0.40 | 4 | learning_rate: a |" in text
    assert classification_search.shown_trials(found, "a") == "2 (67 %)"


@pytest.mark.parametrize("values", [{}, {"a": [0.9], "b": [0.8]}, {label: [0.5] for label in "abcd"}])
def test_agreement_that_the_files_do_not_hold_is_not_measured(tmp_path: Path, values: dict[str, list[float]]) -> None:
    found = searched(tmp_path, values)
    assert classification_search.agreement(found) is None
    assert "| A | not measured |" in "\n".join(classification_search.section([found]))
