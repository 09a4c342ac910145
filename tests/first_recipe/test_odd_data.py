"""`grkd init` on data that are nearly of a known form, and on prompts of which some are answered."""

from pathlib import Path

import pytest
import yaml

from grkd import cli


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "text;label\na;x\nb;y\n", "separated by ';': save it with commas, or as .tsv with tabs"),
        ("t.tsv", "text,label\na,x\nb,y\n", "separated by ',': save it with commas, or as .tsv with tabs"),
        (
            "l.jsonl",  # such lists of texts were taken for texts with some classes each
            '{"query": "a", "candidats": ["b", "c"], "scores": [1, 2]}\n' * 3,
            "lists need 'candidates', rename 'candidats'",
        ),
    ],
)
def test_what_is_nearly_right_is_explained(
    name: str, content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, path = tmp_path / name, tmp_path / "mine.yaml"
    data.write_text(content)
    assert cli.main(["init", str(data), "--output", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert not path.exists()


def test_what_the_teacher_writes_is_not_limited_by_the_answers_of_the_data(tiny_teacher: Path, tmp_path: Path) -> None:
    """Some prompts have short answers, so the teacher answers all: a limit of 16 tokens would cut each."""
    answered = "".join(f'{{"prompt": "w{n}", "completion": "w2"}}\n' for n in range(4))
    found = []
    for name, records in (("answers", answered), ("prompts", answered + '{"prompt": "w9"}\n')):
        data, path = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.yaml"
        data.write_text(records)
        models = ["--teacher", str(tiny_teacher), "--student", str(tiny_teacher)]
        assert cli.main(["init", str(data), *models, "--output", str(path)]) == 0
        found.append(yaml.safe_load(path.read_text())["responses"])
    of_data, of_teacher = found
    assert (of_data["source"], of_teacher["source"]) == ("data", "teacher")
    assert of_teacher["max_new_tokens"] > of_data["max_new_tokens"]
