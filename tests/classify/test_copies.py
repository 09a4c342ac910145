"""data.copies: texts with words left out, scored by the teacher, beside the whole ones."""

from pathlib import Path

import pytest
import torch

from grkd.classify import score
from grkd.classify.context import ClassifierContext
from grkd.classify.device_data import device_data
from grkd.classify.score import trained_teacher
from grkd.data.text_copies import with_words_left_out
from grkd.errors import UserError
from grkd.files import read_json
from tests.classify._toys import LABELLED, TEXTS, compare, context

COPIES = ("data.copies=3", "data.word_dropout=0.4")


def compared(tmp_path: Path, *words: str) -> ClassifierContext:
    words = (*COPIES, f"lockstep.teachers={tmp_path / 'teachers'}", *words)
    assert set(compare(tmp_path, *words, text=TEXTS).values()) == {"done"}
    return context(tmp_path, *words, text=TEXTS)


def test_copies_come_with_their_labels_and_the_teachers_scores(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    other = compared(tmp_path, "data.copies=0", f"output={tmp_path / 'alone'}")
    whole, alone = (device_data(each).examples() for each in (comparison, other))
    assert (len(whole), len(alone)) == (4 * len(LABELLED), len(LABELLED))
    assert torch.equal(whole.inputs[: len(LABELLED)], alone.inputs)
    assert torch.equal(whole.labels, alone.labels.repeat(4))
    assert whole.teacher_scores is not None
    assert alone.teacher_scores is not None
    assert torch.equal(whole.teacher_scores[: len(LABELLED)], alone.teacher_scores)
    # What the teacher says of a copy is what it says of that text.
    copies = with_words_left_out([text for text, _ in LABELLED], copies=3, dropout=0.4, seed=0)
    teacher = trained_teacher(comparison, outside=copies)
    inputs = teacher.heldout_inputs[len(LABELLED) :]
    assert isinstance(inputs, torch.Tensor)
    assert torch.equal(whole.inputs[len(LABELLED) :], inputs)
    with torch.no_grad():
        expected = teacher.module.eval()(inputs)
    torch.testing.assert_close(whole.teacher_scores[len(LABELLED) :], expected)
    assert not torch.equal(
        whole.teacher_scores[: len(LABELLED)], whole.teacher_scores[len(LABELLED) : 2 * len(LABELLED)]
    )


def test_copies_of_what_is_held_back_are_held_back(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    kept, all_of_them = torch.tensor([3, 8, 20]), device_data(comparison).examples()
    some = device_data(comparison).examples(kept)
    rows = torch.cat([kept + number * len(LABELLED) for number in range(4)])
    for name in ("inputs", "labels", "teacher_scores"):
        assert torch.equal(getattr(some, name), getattr(all_of_them, name)[rows])


def test_an_epoch_has_the_copies_in_it_and_the_teacher_stays(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    spent = read_json(comparison.run.path / "train" / "kd-seed0" / "training.json")
    assert (spent["steps"], spent["rows_seen"]) == (2 * 4 * len(LABELLED) // 8, 2 * 4 * len(LABELLED))
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
    fit, validation = comparison.search_rows
    assert (len(fit), len(validation)) == (24, 8)
    assert len(device_data(comparison).examples(fit)) == 4 * 24


def test_a_teacher_that_cannot_score_a_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = score.scores

    def broken(module: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        # Whole texts have four words each, and so more features than some copy of theirs.
        found = real(module, inputs)
        return torch.where((inputs != 0).sum(1, keepdim=True) < 30, torch.nan, found)

    monkeypatch.setattr(score, "scores", broken)
    with pytest.raises(UserError, match="some of its scores of the copies are not finite"):
        compared(tmp_path)
