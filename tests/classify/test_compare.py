"""grkd compare for classifiers: equal budgets, the best settings kept, runs taken up again, failures shown.

Over 300 lines: one comparison, seen from every side that a user may meet.
"""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from grkd import recipe
from grkd.classify import lockstep_training as compare_packs
from grkd.classify.compare import compare_classifier
from grkd.classify.lockstep_data import Comparison
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.recipe import ClassifierRecipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import NOT_YET
from grkd.run.results import collect
from tests.conftest import word_tokenizer

RECIPE = """
task: classifier
output: {output}
device: cpu
data: {{dataset: digits, limit: 300}}
teacher: {{model: mlp, options: {{hidden: [32]}}, training: {{epochs: 8, batch_size: 32, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [6]}}}}
methods: [ce, {{name: kd, label: soft}}, {{name: grkd, normalize: candidates}}]
seeds: [0, 1]
training: {{epochs: 2, batch_size: 32, learning_rate: 1e-2}}
search:
  trials: 4
  learning_rate: [3e-3, 3e-2]
  options: {{soft: {{temperature: [1.0, 2.0, 4.0]}}, grkd: {{pair_scale: [1.0, 4.0]}}}}
"""


def read(tmp_path: Path, *words: str) -> ClassifierRecipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "run"))
    found = recipe.read(path, words)
    assert isinstance(found, ClassifierRecipe)
    return found


def compare(tmp_path: Path, *words: str, **options: Any) -> dict[str, str]:
    found = read(tmp_path, *words)
    return compare_classifier(found, RunFolder(Path(found.output)), **options)


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the students of every pack that is trained."""
    seen: list[list[str]] = []
    real = compare_packs.train_lockstep

    def noted(jobs: Any, *arguments: Any, **options: Any) -> Any:
        if [job.name for job in jobs] != ["teacher"]:
            seen.append([job.name for job in jobs])
        return real(jobs, *arguments, **options)

    monkeypatch.setattr(compare_packs, "train_lockstep", noted)
    return seen


def written(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def test_every_method_gets_its_tries_and_the_best_is_run_with_every_seed(tmp_path: Path, packs: list) -> None:
    status = compare(tmp_path)
    assert status == {f"{label}-seed{seed}": "done" for label in ("ce", "soft", "grkd") for seed in (0, 1)}
    run = tmp_path / "run"
    tries = read_json(run / "search.json")
    counts = {label: sum(entry["method"] == label for entry in tries) for label in ("ce", "soft", "grkd")}
    assert counts == {"ce": 2, "soft": 4, "grkd": 4}  # ce has two settings and no more
    for label in counts:
        values = [entry for entry in tries if entry["method"] == label and entry["value"] is not None]
        best = max(values, key=lambda entry: entry["value"])["settings"]
        for seed in (0, 1):
            settings = read_json(run / "train" / f"{label}-seed{seed}" / "manifest.json")["settings"]
            assert {name: settings[name] for name in best} == best
            metrics = read_json(run / "evaluate" / f"{label}-seed{seed}" / "metrics.json")
            assert 0 < metrics["accuracy"]["value"] <= 1
            assert metrics["accuracy"]["low"] < metrics["accuracy"]["value"] < metrics["accuracy"]["high"]
            assert metrics["kendall_tau"]["value"] is not None
    assert "kendall_tau" not in read_json(run / "evaluate" / "teacher" / "metrics.json")
    # Students of a pack have one seed, since they see the same batches.
    finals = [pack for pack in packs if "seed" in pack[0]]
    assert finals == [["ce-seed0", "soft-seed0", "grkd-seed0"], ["ce-seed1", "soft-seed1", "grkd-seed1"]]


def test_the_same_command_does_nothing_again_and_what_is_missing_is_made(tmp_path: Path, packs: list) -> None:
    compare(tmp_path)
    run, before = tmp_path / "run", written(tmp_path / "run")
    first = read_json(run / "evaluate" / "soft-seed1" / "metrics.json")
    packs.clear()
    assert set(compare(tmp_path).values()) == {"done"}
    assert packs == []
    ours = {"search.json", "recipe.yaml", "environment.json"}  # of the command, whatever it finds to do
    assert {name: time for name, time in written(run).items() if name not in ours} == {
        name: time for name, time in before.items() if name not in ours
    }
    (run / "train" / "soft-seed1" / "manifest.json").unlink()  # as if killed before it was whole
    (run / "search" / "grkd" / "try2.json").unlink()
    assert set(compare(tmp_path).values()) == {"done"}
    assert packs == [["grkd-try2"], ["soft-seed1"]]
    assert read_json(run / "evaluate" / "soft-seed1" / "metrics.json") == first  # alone as in its pack


def test_another_setting_is_another_run(tmp_path: Path, packs: list) -> None:
    compare(tmp_path, "seeds=[0]", "search=null")
    assert packs == [["ce-seed0", "soft-seed0", "grkd-seed0"]]
    compare(tmp_path, "seeds=[0]", "search=null", "methods.1.temperature=8.0")
    assert packs[1:] == [["soft-seed0"]]
    compare(tmp_path, "seeds=[0]", "search=null", "methods.1.temperature=8.0", "student.options.hidden=[7]")
    assert packs[2:] == [["ce-seed0", "soft-seed0", "grkd-seed0"]]
    settings = read_json(tmp_path / "run" / "train" / "soft-seed0" / "manifest.json")["settings"]
    assert settings == {"learning_rate": 1e-2, "temperature": 8.0}


def test_results_have_no_figures_of_older_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def shown(*words: str, **options: Any) -> set[str]:
        collect(read(tmp_path, *words), run, compare(tmp_path, *words, **options))
        return {row["method"] for row in read_json(run / "results.json")["rows"]}

    words = ["seeds=[0]", "search=null"]
    assert shown(*words) == {"teacher", "ce", "soft", "grkd"}
    changed = [*words, "methods.1.temperature=8.0"]
    assert shown(*changed, minutes=0.0) == {"teacher", "ce", "grkd"}
    assert shown(*changed, until="search") == {"teacher", "ce", "grkd"}
    assert shown(*words, minutes=0.0) == {"teacher", "ce", "soft", "grkd"}  # what is there counts again
    real = compare_packs.write_json

    def killed(path: Path, value: Any) -> None:
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        real(path, value)

    monkeypatch.setattr(compare_packs, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, *changed)
    # The older manifest does not vouch for the newer figures.
    assert shown(*words, minutes=0.0) == {"teacher", "ce", "grkd"}


def test_a_killed_comparison_leaves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries after every pack of them, results after every pack of runs: the packs end one after the other here."""
    run = tmp_path / "run"
    real, left = compare_packs.train_lockstep, [99]

    def killed(jobs: Any, *arguments: Any, **options: Any) -> Any:
        left[0] -= jobs[0].name != "teacher"
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(jobs, *arguments, **options)

    monkeypatch.setattr(compare_packs, "train_lockstep", killed)
    left[0] = 1
    words = ["methods=[ce]", "search.options={}", "lockstep.students=1"]
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, *words)
    assert [line["settings"]["learning_rate"] for line in read_json(run / "search.json")] == [3e-3]
    left[0] = 2  # the other try, and a run
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, *words)
    assert len(read_json(run / "search.json")) == 2
    results = read_json(run / "results.json")
    assert results["status"] == {"ce-seed0": "done", "ce-seed1": NOT_YET}
    assert {row["seed"] for row in results["rows"] if row["method"] == "ce"} == {0}


def test_a_search_that_is_left_out_is_shown_no_more(tmp_path: Path) -> None:
    compare(tmp_path, "methods=[ce]", "search.options={}", until="search")
    assert (tmp_path / "run" / "search.json").exists()
    compare(tmp_path, "methods=[ce]", "search=null", until="search")
    assert not (tmp_path / "run" / "search.json").exists()


def test_a_process_opens_a_comparison_again_where_its_data_or_folder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(tmp_path)
    compare(tmp_path, until="teach")
    first = compare_packs._opened(found)
    assert compare_packs._opened(read(tmp_path)) is first
    manifest = tmp_path / "run" / "tensors" / "manifest.json"
    write_json(manifest, {**read_json(manifest), "key": "of other data"})
    second = compare_packs._opened(found)
    assert second is not first
    (tmp_path / "run").rename(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "a")
    monkeypatch.chdir(tmp_path)
    here = compare_packs._opened(replace(found, output="a"))
    monkeypatch.chdir(tmp_path / "b")
    assert compare_packs._opened(replace(found, output="a")) is not here


def test_the_settings_of_lockstep_reach_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, str, Any]] = []
    real = compare_packs.train_lockstep

    def noted(jobs: Any, examples: Any, **options: Any) -> Any:
        trained.append((len(jobs), jobs[0].name, options["plan"]))
        return real(jobs, examples, **options)

    monkeypatch.setattr(compare_packs, "train_lockstep", noted)
    words = ["lockstep.search_epochs=0.5", "lockstep.optimizer=sgd", "lockstep.momentum=0.3", "lockstep.students=2"]
    compare(tmp_path, *words, "seeds=[0]")
    assert {plan.epochs for _, name, plan in trained if "try" in name} == {0.5}
    assert {plan.epochs for _, name, plan in trained if "seed" in name} == {2.0}
    assert {(plan.optimizer, plan.momentum) for _, _, plan in trained} == {("sgd", 0.3)}
    assert max(size for size, _, _ in trained) == 2
    assert sorted(size for size, name, _ in trained if "seed" in name) == [1, 2]


def test_what_is_only_shown_or_saved_leaves_runs_be(tmp_path: Path, packs: list) -> None:
    words = ["seeds=[0]", "search=null", "methods=[ce]"]
    compare(tmp_path, *words)
    packs.clear()
    assert compare(tmp_path, *words, "training.log_every=3", "training.save_every=5") == {"ce-seed0": "done"}
    assert packs == []


def test_time_and_stages_stop_it_cleanly(tmp_path: Path, packs: list) -> None:
    assert set(compare(tmp_path, until="teach").values()) == {NOT_YET}
    assert (tmp_path / "run" / "teacher" / "score" / "scores.safetensors").exists()
    assert set(compare(tmp_path, minutes=0.0).values()) == {NOT_YET}
    assert packs == []
    assert set(compare(tmp_path, until="search").values()) == {NOT_YET}
    assert len(read_json(tmp_path / "run" / "search.json")) == 10
    assert set(compare(tmp_path).values()) == {"done"}


def test_a_method_that_fails_is_shown_and_tried_again_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grkd.objectives.kd import KD

    def broken(self: Any, batch: Any) -> Any:
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patched:
        patched.setattr(KD, "terms", broken)
        status = compare(tmp_path)
    tries = read_json(tmp_path / "run" / "search.json")
    assert {bool(entry["metrics"]) for entry in tries if entry["method"] == "soft"} == {False}  # nothing to measure
    assert {bool(entry["metrics"]) for entry in tries if entry["method"] == "ce"} == {True}
    assert status["ce-seed0"] == status["grkd-seed1"] == "done"
    assert status["soft-seed0"] == "failed: every try of its search failed: RuntimeError: no such luck"
    assert set(compare(tmp_path).values()) == {"done"}


def test_a_run_that_counts_may_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        from grkd.objectives.kd import KD

        patched.setattr(KD, "terms", lambda self, batch: 1 / 0)
        status = compare(tmp_path, "search=null")
    assert status["soft-seed1"] == "failed: ZeroDivisionError: division by zero"
    assert status["ce-seed1"] == "done"


def test_tries_worse_than_the_median_stop_half_way(tmp_path: Path) -> None:
    compare(tmp_path, "training.epochs=4", until="search")
    tries = [entry for entry in read_json(tmp_path / "run" / "search.json") if entry["method"] == "grkd"]
    halves = sorted(entry["half"] for entry in tries)
    median = (halves[1] + halves[2]) / 2
    for entry in tries:
        assert (entry["stopped_after"] == 2) == (entry["half"] < median)
        assert (entry["value"] is None) == (entry["half"] < median)
    assert any(entry["stopped_after"] == 2 for entry in tries)
    compare(tmp_path, "training.epochs=4", "lockstep.prune=false", until="search")
    assert {entry["stopped_after"] for entry in read_json(tmp_path / "run" / "search.json")} == {None}


def test_the_validation_part_is_kept_from_the_tries_and_given_back(tmp_path: Path) -> None:
    found = read(tmp_path)
    comparison = Comparison(found, RunFolder(Path(found.output)))
    compare(tmp_path, until="teach")
    runs = (compare_packs.Run(method=found.methods[0], seed=0, learning_rate=0.1),)
    search, final = (compare_packs.Pack(recipe=found, runs=runs, search=search) for search in (True, False))
    kept, aside = compare_packs._parts(comparison, search)
    assert kept is not None
    assert (len(kept), len(aside.inputs)) == (270, 30)
    inputs = comparison.tensors["inputs"]
    rest = torch.ones(300, dtype=torch.bool)
    rest[kept] = False
    assert torch.equal(inputs[rest], aside.inputs)  # together they are the training part, and nothing is in both
    whole, heldout = compare_packs._parts(comparison, final)
    assert whole is None
    assert torch.equal(heldout.inputs, comparison.tensors["heldout_inputs"])


def test_students_may_see_less_and_another_sample_for_each_seed(tmp_path: Path) -> None:
    found = read(tmp_path, "data.student_limit=100")
    compare(tmp_path, until="teach")
    comparison = Comparison(found, RunFolder(Path(found.output)))
    kept = [
        compare_packs._parts(comparison, compare_packs.Pack(recipe=found, runs=(one,), search=False))[0]
        for one in (compare_packs.Run(method=found.methods[0], seed=seed, learning_rate=0.1) for seed in (0, 1))
    ]
    assert [len(rows) for rows in kept] == [100, 100]
    assert not torch.equal(*kept)


def test_a_teacher_is_shared_by_recipes_of_one_folder(tmp_path: Path) -> None:
    words = [f"lockstep.teachers={tmp_path / 'teachers'}", "search=null", "methods=[ce]", "seeds=[0]"]
    compare(tmp_path, *words)
    weights = list((tmp_path / "teachers").glob("*/teach/model/model.safetensors"))
    assert len(weights) == 1
    made = weights[0].stat().st_mtime_ns
    compare(tmp_path, *words, f"output={tmp_path / 'other'}", "student.options.hidden=[9]")
    assert weights[0].stat().st_mtime_ns == made
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    compare(tmp_path, *words, "teacher.options.hidden=[31]")
    assert len(list((tmp_path / "teachers").iterdir())) == 2


def test_images_are_augmented_with_a_teacher_that_sees_them_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = []
    real = compare_packs.train_lockstep

    def noted(jobs: Any, examples: Any, **options: Any) -> Any:
        teachers.append((options["teacher"], examples.teacher_scores, options["plan"].augment))
        return real(jobs, examples, **options)

    monkeypatch.setattr(compare_packs, "train_lockstep", noted)
    words = ["search=null", "seeds=[0]", "lockstep.augment=true", "lockstep.optimizer=sgd", "training.epochs=0.5"]
    cnn = [
        "teacher.model=cnn",
        "teacher.options={channels: [8]}",
        "student.model=cnn",
        "student.options={channels: [8]}",
    ]
    status = compare(tmp_path, *words, *cnn)
    assert set(status.values()) == {"done"}
    teacher, scores, augment = teachers[0]
    assert isinstance(teacher, torch.nn.Module)
    assert scores is None
    assert augment


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["training.gradient_accumulation=2"],
            "training.gradient_accumulation: grkd compare trains classifiers without",
        ),
        (["training.extra={optim: sgd}"], "training.extra: grkd compare trains"),
        (["teacher.training.extra={optim: sgd}"], "teacher.training.extra: grkd compare trains"),
        (["training.fused_head=true"], "training.fused_head: grkd compare trains"),
        (["training.steps_per_generation=2"], "training.steps_per_generation: grkd compare trains"),
        (["training.report_to=tensorboard"], "training.report_to: grkd compare trains"),
        (["lockstep.augment=true"], "lockstep.augment: only images"),
        (["search.options.soft.temperature=[-1.0]"], "temperature must be above 0"),
        (["search.options.soft.warmth=[1.0]"], "warmth"),
        (["evaluation.groups={a: ['1', 'x']}"], "no class 'x'"),
        (["search.metric=luck"], "search.metric: luck is not among what is measured: accuracy"),
        (["methods=[{name: grkd, group: top, group_size: 11}]"], "group_size 11"),
        (["methods=[ce, dpo]"], "dpo: a method on whole responses cannot train a classifier"),
        (["methods=[ce, gkd]"], "gkd: a classifier writes no responses; set on_policy_fraction: 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: list[str], line: str) -> None:
    with pytest.raises(UserError) as error:
        compare(tmp_path, *words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    if words[0].startswith("methods=[ce"):  # found before anything is read or trained
        assert not (tmp_path / "run" / "prepare").exists()


def test_packs_travel_to_other_processes_and_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["search=null", "methods=[ce, kd]"]
    compare(tmp_path, *words)
    ours = {path.parent.name: read_json(path) for path in (tmp_path / "run" / "evaluate").glob("*/metrics.json")}
    sizes = []

    def sent(jobs: Any, work: Any, *, processes: int, description: str) -> Any:
        for job in jobs:
            sizes.append((processes, len(job.runs)))
            pickle.loads(pickle.dumps(work))(pickle.loads(pickle.dumps(job)))
            yield job, "done"

    monkeypatch.setattr("grkd.classify.compare.run_jobs", sent)
    status = compare(tmp_path, *words, f"output={tmp_path / 'two'}", processes=4)
    assert set(status.values()) == {"done"}
    assert sizes == [(4, 1)] * 4  # no process is idle while another has two
    theirs = {path.parent.name: read_json(path) for path in (tmp_path / "two" / "evaluate").glob("*/metrics.json")}
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def test_a_process_that_dies_is_a_failure_of_its_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(jobs: Any, work: Any, **_: Any) -> Any:
        for number, job in enumerate(jobs):
            if number == 0:
                yield job, "failed: its process died"
            else:
                work(job)
                yield job, "done"

    monkeypatch.setattr("grkd.classify.compare.run_jobs", died)
    status = compare(tmp_path, "search=null", "methods=[ce]")
    assert status == {"ce-seed0": "failed: its process died", "ce-seed1": "done"}


def test_a_recipe_without_compare_settings_has_the_defaults(tmp_path: Path) -> None:
    assert not read(tmp_path).lockstep.augment
    assert replace(read(tmp_path), search=None).search is None


def test_texts_from_an_encoder_and_queries_of_no_class(tmp_path: Path) -> None:
    """A tiny BERT learns three intents by their words; a small network on TF-IDF learns from its scores."""
    words = {"card": ["lost", "stolen", "card"], "rate": ["rate", "percent", "money"], "home": ["address", "moved"]}
    texts = [
        [f"{one} {two} please{' now' * (n % 2)}", label]
        for label, vocabulary in words.items()
        for n in range(8)
        for one, two in [(vocabulary[n % len(vocabulary)], vocabulary[(n // 3) % len(vocabulary)])]
    ]
    outside = [["what is love", "oos"], ["sing now", "oos"]]
    data = {"train": texts, "test": texts[::3], "oos_test": outside}
    (tmp_path / "clinc150_data_full.json").write_text(json.dumps(data))
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    word_tokenizer().save_pretrained(tmp_path / "encoder")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
task: classifier
output: {tmp_path / "run"}
device: cpu
data: {{dataset: clinc150, folder: ., features: tfidf}}
teacher: {{model: ./encoder, training: {{epochs: 1, batch_size: 8, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [8], dropout: 0.1}}}}
methods: [ce, kd, {{name: rkd, angle_weight: 0.0}}]
seeds: [0]
training: {{epochs: 20, batch_size: 8, learning_rate: 1e-2}}
"""
    )
    found = recipe.read(path)
    assert isinstance(found, ClassifierRecipe)
    run = RunFolder(Path(found.output))
    assert set(compare_classifier(found, run).values()) == {"done"}
    metrics = read_json(run.path / "evaluate" / "ce-seed0" / "metrics.json")
    assert metrics["accuracy"]["value"] == 1.0  # the words are enough
    assert metrics["outside_auroc"]["value"] > 0.9
    assert 0 <= read_json(run.path / "evaluate" / "teacher" / "metrics.json")["outside_auroc"]["value"] <= 1
    said = Comparison(found, run).said
    assert said["train_features"].shape == (24, 16)  # what the encoder's last layer reads, for rkd
    assert (said["train"].shape, said["heldout"].shape, said["outside"].shape) == ((24, 3), (8, 3), (2, 3))
