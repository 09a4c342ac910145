"""`grkd run` on lists: what it leaves, that it resumes, and that sentence-transformers opens the student."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from grkd.files import read_json
from grkd.lists import train as training
from grkd.lists.prepare import first_of_each, read
from grkd.lists.student import opened
from grkd.pipeline.check import check_deeply, check_recipe
from grkd.pipeline.run import run
from grkd.reports import read_run
from tests.lists._toys import context, recipe, write_folder, write_lists, write_teacher


def test_scores_in_the_data_train_a_tower_that_others_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lists(tmp_path / "lists.jsonl")
    write_lists(tmp_path / "heldout.jsonl", count=6, seed=2)
    assert run(recipe(tmp_path)) == 0
    folder = tmp_path / "run"
    found = read_run(folder)
    assert found.task == "rank"
    assert {name: found.counts[name] for name in ("queries_train", "queries_heldout")} == {
        "queries_train": 12,
        "queries_heldout": 6,
    }
    metrics = read_json(folder / "evaluate" / "grkd-seed0" / "metrics.json")
    before = read_json(folder / "evaluate" / "before" / "metrics.json")
    assert metrics["kendall_tau"]["value"] > before["kendall_tau"]["value"]
    assert {"list_ndcg10", "list_mrr", "top1_agreement", "index_mb", "query_ms"} <= metrics.keys()
    assert metrics["list_ndcg10"]["low"] <= metrics["list_ndcg10"]["value"] <= metrics["list_ndcg10"]["high"]
    assert "NDCG@10 over the candidates" in capsys.readouterr().out
    # The values per query are kept for paired tests.
    kept = np.load(folder / "evaluate" / "grkd-seed0" / "queries.npz")
    assert np.nanmean(kept["kendall_tau"]) == pytest.approx(metrics["kendall_tau"]["value"])

    # Plain sentence-transformers opens the folder and gives our scores.
    here = context(tmp_path)
    student = SentenceTransformer(str(folder / "train" / "grkd-seed0" / "model"), device="cpu")
    ours = opened(str(folder / "best" / "model"), here.recipe.student, here.device)
    assert ours.encoder.similarity_fn_name == "cosine"
    lists = here.lists
    row = int(lists.of(2)[0])
    numbers = lists.candidates[row][lists.exists[row]]
    asked, offered = student.encode([lists.queries[row]]), student.encode([lists.documents[n] for n in numbers])
    theirs = 20 * torch.from_numpy(offered @ asked[0])
    student_ = opened(str(folder / "train" / "grkd-seed0" / "model"), here.recipe.student, here.device)
    inputs = student_.prepare([lists.queries[row]], lists.documents, numbers.unsqueeze(0))
    torch.testing.assert_close(student_(**inputs)[0].detach(), theirs, rtol=1e-5, atol=1e-5)
    card = (folder / "train" / "kd-seed0" / "model" / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "by the method `kd`" in card

    # The same command again trains nothing.
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_trained", never)
    assert run(recipe(tmp_path)) == 0


def test_a_killed_training_goes_on_to_the_same_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lists(tmp_path / "lists.jsonl")
    write_lists(tmp_path / "heldout.jsonl", count=6, seed=2)
    only = "methods=[{name: grkd, preset: lists}]"
    assert run(recipe(tmp_path, only, f"output={tmp_path / 'whole'}")) == 0

    class Killed(BaseException):
        pass

    steps = []
    forward = training.ListRows.forward

    def dying(self: training.ListRows, *arguments: object, **options: object) -> object:
        steps.append(1)
        if len(steps) == 5:
            raise Killed
        return forward(self, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training.ListRows, "forward", dying)
        with pytest.raises(Killed):
            run(recipe(tmp_path, only))
    assert (tmp_path / "run" / "train" / "grkd-seed0.partial" / "checkpoints" / "checkpoint-3").is_dir()
    assert run(recipe(tmp_path, only)) == 0
    weights = [
        load_file(tmp_path / name / "train/grkd-seed0/model/model.safetensors")["embedding.weight"]
        for name in ("whole", "run")
    ]
    assert torch.equal(*weights)


FOLDER = """
task: rank
output: {output}
device: cpu
data: {{folder: set, candidates: 6, dense_model: ./teacher}}
teacher: {{models: [./teacher], says: order, top: 2}}
student: {{dimensions: 8, hidden: [6]}}
methods: [{{name: grkd, preset: lists}}, plackett_luce]
training: {{steps: 3, batch_size: 4, learning_rate: 0.05}}
"""


def test_a_retrieval_set_with_mined_candidates_and_the_top_of_a_models_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    write_teacher(tmp_path / "teacher")
    assert run(recipe(tmp_path, text=FOLDER)) == 0
    here = context(tmp_path, text=FOLDER)
    assert here.lists.candidates.shape == (12, 6)
    metrics = read_json(tmp_path / "run" / "evaluate" / "plackett_luce-seed0" / "metrics.json")
    assert {"corpus_ndcg10", "corpus_recall100", "list_ndcg10", "kendall_tau"} <= metrics.keys()
    teacher = read_json(tmp_path / "run" / "evaluate" / "teacher" / "metrics.json")
    assert 0 < teacher["list_ndcg10"]["value"] <= 1


def test_a_limit_takes_the_first_queries_of_each_part() -> None:
    assert first_of_each([2, 2, 0, 2, 0, 0], 2) == [0, 1, 2, 4]
    assert first_of_each([2, 0], None) == [0, 1]


def test_the_lists_of_a_query_stay_together_and_shared_queries_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lists(tmp_path / "lists.jsonl", count=12)
    lines = (tmp_path / "lists.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "lists.jsonl").write_text("".join(lines * 2))
    shared = context(tmp_path, "data.heldout=null", "data.heldout_fraction=0.25")
    about, tensors = read(shared)
    sides: dict[str, set[int]] = {}
    for query, part in zip(about["queries"], tensors["part"].tolist(), strict=True):
        sides.setdefault(query, set()).add(part)
    assert sorted(map(len, sides.values())) == [1] * 12
    assert sum(2 in side for side in sides.values()) == 3
    (tmp_path / "heldout.jsonl").write_text("".join(lines[:2]))
    read(context(tmp_path))
    assert "2 of 2 held-out queries are also in the training data" in capsys.readouterr().err


def test_a_set_with_one_judgement_per_query_passes_the_check(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher")
    judged = (write_folder(tmp_path / "set") / "qrels.tsv").read_text().splitlines()
    once = {line.split("\t")[0]: line for line in judged}
    (tmp_path / "set" / "qrels.tsv").write_text("\n".join(once.values()) + "\n")
    check_recipe(recipe(tmp_path, text=FOLDER))


def test_the_deep_check_trains_one_step_and_leaves_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    write_teacher(tmp_path / "teacher")
    found = recipe(tmp_path, text=FOLDER)
    check_recipe(found)
    assert check_deeply(found) == 0
    assert not (tmp_path / "run").exists()
