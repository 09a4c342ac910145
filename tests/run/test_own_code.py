"""Code of one's own is part of what a stage depends on."""

from pathlib import Path

import pytest

from grkd.compare.student_job import with_code
from grkd.files import digest
from grkd.recipe import ClassifierModel, Method
from grkd.run.folder import identity, own_code

OWN = "own_code_of_a_test"


def test_changed_code_is_another_network_and_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"{OWN}.py"
    file.write_text("def small(classes):\n    return 4\n\n\nclass Part:\n    pass\n")
    network = ClassifierModel(model=f"{OWN}:small")
    methods = [
        Method(name=f"{OWN}:Part", label="own"),
        Method(name="grkd", label="grkd", options={"anchor": [{"part": f"{OWN}:Part", "weight": 1.0}]}),
    ]

    def keys() -> list[str]:
        named = [with_code({"name": method.name, "options": method.options}) for method in methods]
        return [digest(identity(network)), *map(digest, named)]

    before = keys()
    assert keys() == before
    file.write_text(file.read_text().replace("4", "5"))
    assert not set(keys()) & set(before)


def test_what_has_no_code_of_its_own_is_as_it_was() -> None:
    assert own_code("mlp", "org/model", "own_code_of_nobody:small", "a text: with a colon", 3, None) == {}
    assert own_code({"target": "grkd.losses:HARD"}) == {}
    assert identity(ClassifierModel(model="mlp"))["model"] == "mlp"
    assert with_code({"name": "kd", "options": {"temperature": 2.0}}) == {"name": "kd", "options": {"temperature": 2.0}}
