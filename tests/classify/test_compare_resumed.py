"""What a second command finds: equal numbers of tries, results that stand, runs of the other command."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grkd import recipe
from grkd.classify import lockstep_training as compare_packs
from grkd.errors import UserError
from grkd.files import read_json
from grkd.language import compare as compare_language
from grkd.pipeline.compare import compare as whole_compare
from grkd.pipeline.run import run
from grkd.recipe import LanguageRecipe
from grkd.training.lockstep.loop import Trained
from tests.classify.test_compare import compare, packs, read

__all__ = ["packs"]


def test_fewer_trials_than_before_are_fewer_for_every_method(tmp_path: Path) -> None:
    """A method that had more tries in an earlier command would be chosen among more."""
    compare(tmp_path, "methods=[kd]", "search={trials: 4, learning_rate: [1e-3, 3e-3, 1e-2, 3e-2]}")
    compare(tmp_path, "methods=[kd, dkd]", "search={trials: 2, learning_rate: [1e-3, 3e-3, 1e-2, 3e-2]}")
    tries = [entry["method"] for entry in read_json(tmp_path / "run" / "search.json")]
    assert sorted(tries) == ["dkd", "dkd", "kd", "kd"]


def test_a_try_without_finite_scores_is_a_try(
    tmp_path: Path, packs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end so again, and another command would try other settings in its place."""
    real = compare_packs._measured

    def lost(comparison: Any, module: nn.Module, on: Any) -> dict[str, Any]:
        found = real(comparison, module, on)
        return {name: {**figure, "value": None} for name, figure in found.items()} if not packs[1:] else found

    monkeypatch.setattr(compare_packs, "_measured", lost)
    compare(tmp_path, "lockstep={students: 1, prune: false}", "methods=[kd]")
    records = read_json(tmp_path / "run" / "search.json")
    assert [record["failure"] for record in records].count(compare_packs.NOT_FINITE) == 1
    packs.clear()
    compare(tmp_path, "lockstep={students: 1, prune: false}", "methods=[kd]")
    assert packs == []


def test_run_and_compare_of_one_recipe_take_the_folder_over_from_one_another(tmp_path: Path) -> None:
    one = read(tmp_path, "methods=[kd]", "seeds=[0]", "search=null")
    model = tmp_path / "run" / "train" / "kd-seed0" / "model"
    assert run(one) == 0
    assert model.is_dir()
    assert whole_compare(one) == 0
    assert not model.exists()  # it is not the model of these figures
    assert run(one) == 0
    assert model.is_dir()


def test_few_labels_leave_every_class_one_in_the_search(tmp_path: Path) -> None:
    assert set(compare(tmp_path, "data.student_limit=10", "methods=[kd]").values()) == {"done"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("{kd: {temperature: [1, 2]}}", "search.options.kd: no method of the recipe has this label; labels: soft"),
        ("{soft: {form: [paper]}}", "search.options.soft.form: give each form as a method with a label of its own"),
    ],
)
def test_options_that_reach_no_method_are_refused(tmp_path: Path, options: str, line: str) -> None:
    one = read(tmp_path, "methods=[{name: kd, label: soft}]", f"search.options={options}")
    with pytest.raises(UserError, match=line):
        whole_compare(one)


@pytest.mark.parametrize(
    ("search", "change", "anew"),
    [
        ("{questions: q.jsonl}", "evaluation.answer_tokens=7", True),
        ("{questions: q.jsonl}", "evaluation.top_k=7", False),
        ("{trials: 2}", "evaluation.top_k=7", True),
        ("{trials: 2}", "evaluation.answer_tokens=7", False),
    ],
)
def test_a_try_is_measured_anew_where_its_measure_changed(
    tiny_recipe: Path, search: str, change: str, anew: bool
) -> None:
    before, after = (recipe.read(tiny_recipe, [f"search={search}", *words]) for words in ([], [change]))
    assert isinstance(before, LanguageRecipe)
    assert isinstance(after, LanguageRecipe)
    assert (compare_language._measured(before) != compare_language._measured(after)) == anew


class Dropping(nn.Module):
    """Dropout by a function, which no look at the layers shows."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(features, 16), nn.Linear(16, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.body(inputs.flatten(1)).relu(), 0.3, self.training))


def test_dropout_by_a_function_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the state that all share, and whoever is trained beside it."""
    found: list[dict[str, Trained]] = []
    real = compare_packs.train_lockstep

    def noted(jobs: Any, examples: Any, **options: Any) -> dict[str, Trained]:
        if jobs[0].name != "teacher":
            options["build"] = lambda seed: (torch.manual_seed(seed), Dropping(64, 10))[1]
        trained = real(jobs, examples, **options)
        found.append(trained)
        return trained

    monkeypatch.setattr(compare_packs, "train_lockstep", noted)
    for number, methods in enumerate(["[kd]", "[ce, kd]"]):
        torch.manual_seed(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        compare(folder, f"methods={methods}", "seeds=[0]", "search=null")
    losses = [trained["kd-seed0"].losses_nats for trained in found if "kd-seed0" in trained]
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert all(math.isfinite(loss) for loss in losses[0])
