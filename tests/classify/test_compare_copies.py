"""grkd compare with data.copies: texts with words left out, scored by the teacher, beside the whole ones."""

from pathlib import Path

import pytest
import torch

from grkd import recipe
from grkd.classify import lockstep_data as compare_data
from grkd.classify import lockstep_training as compare_packs
from grkd.classify.compare import compare_classifier
from grkd.classify.lockstep_data import Comparison
from grkd.data.text_copies import with_words_left_out
from grkd.errors import UserError
from grkd.files import read_json
from grkd.recipe import ClassifierRecipe
from grkd.run.folder import RunFolder

RECIPE = """
task: classifier
output: {output}
device: cpu
data: {{train: texts.csv, heldout: texts.csv, features: tfidf, copies: 3, word_dropout: 0.4}}
teacher: {{model: mlp, options: {{hidden: [16]}}, training: {{epochs: 6, batch_size: 8, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [4]}}}}
methods: [kd]
seeds: [0]
training: {{epochs: 2, batch_size: 8, learning_rate: 1e-2}}
lockstep: {{teachers: {teachers}}}
"""
WORDS = {"card": ["lost", "stolen", "card", "blocked"], "rate": ["rate", "percent", "money", "exchange"]}
TEXTS = [(f"{one} {two} please now", label) for label, own in WORDS.items() for one in own for two in own]


def compared(tmp_path: Path, *words: str) -> Comparison:
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in TEXTS))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "run", teachers=tmp_path / "teachers"))
    found = recipe.read(path, words)
    assert isinstance(found, ClassifierRecipe)
    run = RunFolder(Path(found.output))
    assert set(compare_classifier(found, run).values()) == {"done"}
    return Comparison(found, run)


def test_copies_come_with_their_labels_and_the_teachers_scores(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    whole, alone = comparison.examples(), compared(tmp_path, "data.copies=0", f"output={tmp_path / 'alone'}").examples()
    assert (len(whole), len(alone)) == (4 * len(TEXTS), len(TEXTS))
    assert torch.equal(whole.inputs[: len(TEXTS)], alone.inputs)
    assert torch.equal(whole.labels, alone.labels.repeat(4))
    assert whole.teacher_scores is not None
    assert alone.teacher_scores is not None
    assert torch.equal(whole.teacher_scores[: len(TEXTS)], alone.teacher_scores)
    # What the teacher says of a copy is what it says of that text.
    copies = with_words_left_out([text for text, _ in TEXTS], copies=3, dropout=0.4, seed=0)
    teacher = comparison._teacher(copies)
    inputs = teacher.heldout_inputs[len(TEXTS) :]
    assert isinstance(inputs, torch.Tensor)
    assert torch.equal(whole.inputs[len(TEXTS) :], inputs)
    with torch.no_grad():
        expected = teacher.module.eval()(inputs)
    torch.testing.assert_close(whole.teacher_scores[len(TEXTS) :], expected)
    assert not torch.equal(whole.teacher_scores[: len(TEXTS)], whole.teacher_scores[len(TEXTS) : 2 * len(TEXTS)])


def test_copies_of_what_is_held_back_are_held_back(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    kept, all_of_them = torch.tensor([3, 8, 20]), comparison.examples()
    some = comparison.examples(kept)
    rows = torch.cat([kept + number * len(TEXTS) for number in range(4)])
    for name in ("inputs", "labels", "teacher_scores"):
        assert torch.equal(getattr(some, name), getattr(all_of_them, name)[rows])


def test_an_epoch_has_the_copies_in_it_and_the_teacher_stays(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    assert read_json(comparison.run.path / "train" / "kd-seed0" / "training.json")["steps"] == 2 * 4 * len(TEXTS) // 8
    key, teacher = (comparison.run.path / "train" / "kd-seed0" / "manifest.json").read_text(), comparison.teacher_run
    made = (teacher.path / "teach" / "model" / "model.safetensors").stat().st_mtime_ns
    for words in (["data.word_dropout=0.1"], ["data.copies=1"], ["data.copies=0"]):
        again = compared(tmp_path, *words)
        assert again.teacher_run.path == teacher.path
        assert (teacher.path / "teach" / "model" / "model.safetensors").stat().st_mtime_ns == made
        now = (again.run.path / "train" / "kd-seed0" / "manifest.json").read_text()
        assert now != key  # a student of other copies is another student
        key = now


def test_a_search_measures_on_whole_texts(tmp_path: Path) -> None:
    comparison = compared(tmp_path, "search={trials: 1, validation_fraction: 0.25}")
    pack = compare_packs.Pack(recipe=comparison.recipe, runs=(), search=True)
    kept, aside = compare_packs._parts(comparison, pack)
    assert kept is not None
    assert (len(kept), len(aside.inputs)) == (24, 8)
    assert len(comparison.examples(kept)) == 4 * 24


def test_a_teacher_that_cannot_score_a_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compare_data.scores

    def broken(module: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        # Whole texts have four words each, and so more features than some copy of theirs.
        found = real(module, inputs)
        return torch.where((inputs != 0).sum(1, keepdim=True) < 30, torch.nan, found)

    monkeypatch.setattr(compare_data, "scores", broken)
    with pytest.raises(UserError, match="some of its scores of the copies are not finite"):
        compared(tmp_path)


def test_only_texts_have_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.copies: only texts have words"):
        compared(tmp_path, "data.train=null", "data.heldout=null", "data.dataset=digits", "data.features=tokens")
