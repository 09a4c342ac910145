"""best/: the winner of a run or a comparison as a student that loads and gives the scores that were measured."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grkd.classify.student import load_classifier
from grkd.errors import UserError
from grkd.files import read_json
from tests.classify._toys import LABELLED, TEXTS, compare, context, read


def accuracies(tmp_path: Path) -> dict[str, float]:
    return {
        path.parent.name: read_json(path)["accuracy"]["value"]
        for path in (tmp_path / "run" / "evaluate").glob("*-seed*/metrics.json")
    }


def accuracy_of(folder: Path, inputs: Any, labels: torch.Tensor) -> float:
    return float((load_classifier(folder).scores(inputs).argmax(-1) == labels).double().mean())


def test_the_winner_of_a_comparison_loads_and_is_as_good_as_measured(tmp_path: Path) -> None:
    compare(tmp_path, "search.trials=2", "methods=[ce, kd]", "search.options={}")
    found, best = accuracies(tmp_path), tmp_path / "run" / "best"
    means = {label: sum(found[f"{label}-seed{seed}"] for seed in (0, 1)) for label in ("ce", "kd")}
    winner = max(means, key=means.__getitem__)
    about = read_json(best / "classifier.json")
    assert about["label"] == winner
    assert found[f"{winner}-seed{about['seed']}"] == max(found[f"{winner}-seed{seed}"] for seed in (0, 1))
    data = context(tmp_path).data
    measured = about["metrics"]["accuracy"]
    assert accuracy_of(best, data.heldout_inputs, data.heldout_labels) == pytest.approx(measured)
    assert load_classifier(best).classify(data.heldout_inputs[:3])[0] in data.class_names


def test_every_methods_best_seed_on_request(tmp_path: Path) -> None:
    words = ["search=null", "methods=[ce, kd]"]
    compare(tmp_path, *words)
    best = tmp_path / "run" / "best"
    assert not (best / "kd").exists()
    made = (tmp_path / "run" / "train" / "kd-seed0" / "manifest.json").stat().st_mtime_ns
    compare(tmp_path, *words, "keep=all")
    data = context(tmp_path, *words).data
    for label in ("ce", "kd"):
        found = {name: value for name, value in accuracies(tmp_path).items() if name.startswith(label)}
        assert accuracy_of(best / label, data.heldout_inputs, data.heldout_labels) == pytest.approx(max(found.values()))
    assert (tmp_path / "run" / "train" / "kd-seed0" / "manifest.json").stat().st_mtime_ns == made


def test_a_student_on_texts_and_copies_of_them_takes_texts(tmp_path: Path) -> None:
    compare(tmp_path, "data.copies=2", "training.epochs=10", text=TEXTS)
    loaded = load_classifier(tmp_path / "run" / "best")
    texts = [text for text, _ in LABELLED]
    right = [name == label for name, (_, label) in zip(loaded.classify(texts), LABELLED, strict=True)]
    assert sum(right) / len(right) == pytest.approx(loaded.about["metrics"]["accuracy"])
    assert sum(right) / len(right) > 0.9


def test_images_of_whole_pixels_are_scaled_as_in_training(tmp_path: Path) -> None:
    cnn = [f"{name}.{key}" for name in ("teacher", "student") for key in ("model=cnn", "options={channels: [4]}")]
    words = ["search=null", "methods=[kd]", "seeds=[0]", *cnn, "teacher.training.epochs=1"]
    compare(tmp_path, *words)
    loaded = load_classifier(tmp_path / "run" / "best")
    data = context(tmp_path, *words).data.as_images()
    right = loaded.scores(data.heldout_inputs).argmax(-1) == data.heldout_labels
    assert float(right.double().mean()) == pytest.approx(loaded.about["metrics"]["accuracy"])


def test_a_folder_without_a_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    read(tmp_path)
    with pytest.raises(UserError, match=r"no classifier\.json; give a folder that grkd kept a classifier in"):
        load_classifier(tmp_path)


def test_classes_renamed_since_an_earlier_run_have_their_new_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("data.heldout=null", "training.epochs=1", "teacher.training.epochs=1")
    compare(tmp_path, *words, text=TEXTS)
    renamed = [(text, label.replace("card", "zero")) for text, label in LABELLED]
    monkeypatch.setattr("tests.classify._toys.LABELLED", renamed)
    compare(tmp_path, *words, text=TEXTS)
    assert load_classifier(tmp_path / "run" / "best").class_names == ["rate", "zero"]
    assert read_json(tmp_path / "run" / "evaluate" / "teacher" / "confusion.json")["names"] == ["rate", "zero"]
