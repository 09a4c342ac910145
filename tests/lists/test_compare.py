"""`grkd compare` on lists: equal trials, measured on queries that trials never see; votes; a kill."""

from pathlib import Path

import pytest

from grkd.errors import UserError
from grkd.files import read_json
from grkd.lists.compare import ListComparison
from grkd.run.folder import RunFolder
from tests.lists._toys import context, recipe, write_lists

SEARCH = "search={trials: 2, learning_rate: [0.01, 0.1], validation_fraction: 0.25, steps_share: 0.5}"


def test_a_search_leaves_a_query_to_train_on(tmp_path: Path) -> None:
    write_lists(tmp_path / "heldout.jsonl", count=4, seed=2)
    words = ("search={validation_fraction: 0.9}",)
    for count, fit in ((4, 1), (1, None)):
        write_lists(tmp_path / "lists.jsonl", count=count)
        found = recipe(tmp_path, *words)
        comparison = ListComparison(found, RunFolder(Path(found.output)))
        if fit is None:
            with pytest.raises(UserError, match="one training query is too few"):
                comparison.prepare()
            continue
        comparison.prepare()
        assert [len(part) for part in comparison.context.search_queries] == [fit, count - fit]


def test_a_search_of_equal_trials_then_every_seed(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl")
    write_lists(tmp_path / "heldout.jsonl", count=4, seed=2)
    found = recipe(tmp_path, SEARCH, "seeds=[0, 1]")
    status = ListComparison(found, RunFolder(Path(found.output))).compare()
    assert set(status.values()) == {"done"}
    trials = read_json(tmp_path / "run" / "search.json")
    assert [(one["method"], one["metric"], one["outcome"]) for one in trials] == [
        ("grkd", "list_ndcg10", "done"),
        ("grkd", "list_ndcg10", "done"),
        ("kd", "list_ndcg10", "done"),
        ("kd", "list_ndcg10", "done"),
    ]
    assert {one["steps"] for one in trials} == {3}
    here = context(tmp_path, SEARCH)
    fit, validation = here.search_queries
    assert len(validation) == 3
    assert not set(fit.tolist()) & set(validation.tolist())
    best = {one["method"]: max(o["value"] for o in trials if o["method"] == one["method"]) for one in trials}
    manifest = read_json(tmp_path / "run" / "train" / "kd-seed1" / "manifest.json")
    rate = manifest["inputs"]["learning_rate"]
    assert (
        next(one["value"] for one in trials if one["method"] == "kd" and one["settings"]["learning_rate"] == rate)
        == best["kd"]
    )
    # Another command finds everything there.
    assert ListComparison(found, RunFolder(Path(found.output))).compare() == status
    assert len(read_json(tmp_path / "run" / "search.json")) == 4
