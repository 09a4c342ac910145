"""What the documentation shows is true: commands parse, recipes are read, Python runs, messages and numbers exist."""

import ast
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from grkd import cli, recipe
from grkd.classify.student import save_classifier
from grkd.commands import COMMANDS
from grkd.data.lists import read_lists
from grkd.data.records import examples_of
from grkd.files import write_json
from grkd.metrics.exact_match import read_questions
from grkd.models.networks import build
from grkd.statistics import pairs_needed, shown_difference
from tests.teacher._vocabularies import byte_level, pieces
from tests.training.test_cross_rows import model as small_model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guide").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}

CLASSIFIER = {
    "task": "classifier",
    "output": "runs/mine",
    "data": {"dataset": "digits"},
    "teacher": {"model": "mlp", "training": {"epochs": 1}},
    "student": {"model": "mlp"},
    "methods": ["kd", "grkd"],
}
RANK = {"task": "rank", "output": "runs/mine", "data": {"train": "lists.jsonl"}, "methods": ["plackett_luce"]}
LANGUAGE = {
    "task": "language_model",
    "output": "runs/mine",
    "data": {"train": "prompts.jsonl"},
    "teacher": {"model": "./teacher"},
    "student": {"model": "./student"},
    "methods": ["kd", "grkd"],
}
BASES: dict[str, Any] = {"classifiers.md": CLASSIFIER, "noisy-labels.md": CLASSIFIER, "lists.md": RANK}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, list[str]]]:
    """(where, arguments of grkd) of every command in pages and in the commands' own help."""
    helps = {f"grkd {name}": command.DESCRIPTION for name, command in COMMANDS.items()}
    for where, text in {**TEXTS, **helps}.items():
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"(    |  )?(grkd|accelerate launch) ", line) and "error:" not in line:
                shown = line.split("`")[0] if "`" in line else line
                arguments = shlex.split(re.split(r" [>|] ", shown)[0], comments=True)
                if "grkd" in arguments:
                    yield where, arguments[arguments.index("grkd") + 1 :]


@pytest.mark.parametrize(("where", "arguments"), list(commands()), ids=lambda value: str(value)[:60])
def test_a_command_is_one_that_grkd_takes(where: str, arguments: list[str]) -> None:
    options, rest = cli.parser().parse_known_args(arguments)
    if arguments[0] not in ("run", "compare"):
        assert not rest, where
        return
    assert all("=" in word and not word.startswith("-") for word in rest)
    own = ROOT / options.recipe
    base = own if own.is_file() else written(Path(str(own.name)), where)
    recipe.read(base, [*options.overrides, *rest])


def written(path: Path, where: str) -> Path:
    """A recipe to read settings into: of classifiers and rankers on their pages, else of a language model."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(BASES.get(where, LANGUAGE)))
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fragments() -> Iterator[tuple[str, str]]:
    """(page, YAML) of every block; one that shows alternatives line by line gives each of them."""
    for where, text in TEXTS.items():
        for block in blocks(text, "yaml"):
            keys = re.findall(r"^(\w+):", block, re.MULTILINE)
            yield from ((where, part) for part in (block.splitlines() if len(set(keys)) < len(keys) else [block]))


@pytest.mark.parametrize(("where", "text"), list(fragments()), ids=lambda value: str(value)[:40])
def test_yaml_is_a_recipe_or_fits_into_one(where: str, text: str) -> None:
    found = yaml.safe_load(text)
    base = {} if "task" in found else yaml.safe_load(written(Path("base.yaml"), where).read_text())
    Path("recipe.yaml").write_text(text if "task" in found else yaml.safe_dump(base | found))
    recipe.read(Path("recipe.yaml"))


def test_json_is_a_record_that_is_read() -> None:
    """Every object of the pages' JSON, by the reader of what the page is about; no key is left unread."""
    number = 0
    for where, text in TEXTS.items():
        for record in (one for block in blocks(text, "json") for one in objects(block)):
            number += 1
            if where == "lists.md":
                Path("lists.jsonl").write_text(json.dumps(record))
                assert len(read_lists(Path("lists.jsonl")).train) == 1
            elif where == "evaluation.md":
                Path("questions.jsonl").write_text(json.dumps(record))
                assert len(read_questions(Path("questions.jsonl"))) == 1
            else:
                unused: Counter[str] = Counter()
                assert examples_of(record, default_id="1", where=where, unused=unused)
                assert not unused, (where, unused)
    assert number > 10


def objects(text: str) -> Iterator[Any]:
    """The JSON values of a text, one behind the other."""
    while text.strip():
        value, end = json.JSONDecoder().raw_decode(text.lstrip())
        yield value
        text = text.lstrip()[end:]


def ready(where: str, tiny: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a page's Python finds: names, and tiny things in place of those that it names."""
    if where == "trainer.md":
        Path("questions.jsonl").write_text('{"prompt": "w1 w2", "solution": "w3"}\n' * 2)
        small = "num_generations=2, max_new_tokens=4, report_to='none'"
        hub = "HuggingFaceTB/SmolLM2-{}-Instruct".format
        return {}, {hub("135M"): str(tiny), hub("360M"): str(tiny), "num_generations=8": small}
    if where == "from-trl.md":
        records = [{"prompt": "w1 w2"}, {"prompt": "w3"}]
        small = "num_generations=2, max_completion_length=4, per_device_train_batch_size=2, bf16=False, use_cpu=True"
        return {"records": records, "my_reward": lambda completions, **_: [float(len(one)) for one in completions]}, {
            "my-student": str(tiny),
            "num_generations=8, max_completion_length=128": small,
        }
    if where == "quick-start.md":
        return {}, {"runs/mine/train/grkd-seed0/student": str(tiny), "max_new_tokens=64": "max_new_tokens=2"}
    if where == "several-teachers.md":
        names = {f'"./{name}"': f'"{tiny}"' for name in ("student", "maths-teacher", "other-teacher")}
        return {}, names | {'method="kd"': 'method="kd", use_cpu=True, report_to="none"'}
    if where == "tokenizers.md":
        for name, words in (("student", byte_level()), ("model-of-another-family", pieces())):
            small_model(words, 0).float().save_pretrained(name)
            words.save_pretrained(name)
        Path("answers.jsonl").write_text('{"prompt": "one two", "completion": "three four"}\n' * 2)
        return {}, {'method="kd"': 'method="kd", use_cpu=True, report_to="none", max_steps=1'}
    if where == "classifiers.md":
        about = {"model": "mlp", "class_names": ["a", "b"], "input_shape": [3], "options": {"hidden": [2]}}
        save_classifier(build("mlp", input_shape=(3,), classes=2, options={"hidden": [2]}, seed=0), Path("best/model"))
        write_json(Path("best/classifier.json"), about)
        return {}, {"runs/NAME/best": "best"}
    return {}, {}


# rankers.md is run by tests/rankers, README.md by test_readme.py; rank-cache.md by tests/training/test_cached_ranks.py.
@pytest.mark.filterwarnings("ignore")  # trl's and transformers' own
@pytest.mark.parametrize(
    "where", [name for name, text in TEXTS.items() if blocks(text, "python") and name not in
              ("rankers.md", "README.md", "rank-cache.md")]
)  # fmt: skip
def test_python_runs(where: str, tiny_teacher: Path) -> None:
    torch.manual_seed(0)
    if where == "from-trl.md":
        pytest.importorskip("trl")
    names, instead = ready(where, tiny_teacher)
    for block in blocks(TEXTS[where], "python"):
        for old, new in instead.items():
            block = block.replace(old, new)
        exec(compile(block, where, "exec"), names)
    if where == "trainer.md":
        assert names["trainer"].state.global_step > 0
    if where == "classifiers.md":
        assert names["small"](classes=3, input_shape=(3, 4, 4))(torch.zeros(2, 3, 4, 4)).shape == (2, 3)
        assert names["classifier"].scores(torch.zeros(4, 3)).shape == (4, 2)


def strings() -> str:
    """Every text in the package's code; what an f-string puts in is left open."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src" / "grkd").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


def test_every_message_of_the_troubleshooting_page_exists() -> None:
    known = strings()
    shown = re.findall(r"^\| `([^`]+)` \|", TEXTS["troubleshooting.md"], re.MULTILINE)
    assert len(shown) > 40
    for message in shown:
        for piece in re.split(r"\s*…\s*", message):
            assert piece.strip(": ") in known, message


def table(page: str, mark: str) -> list[list[str]]:
    inside = TEXTS[page].split(f"<!-- {mark} -->")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()]
    return [row for row in rows if not set("".join(row)) <= set("-: ")]


def test_how_many_seeds_is_what_the_statistics_say() -> None:
    for seeds, difference in table("report.md", "seeds")[1:]:
        assert f"{shown_difference(1.0, int(seeds)):.2f} s" == difference
    assert f"you see {shown_difference(0.5, 5):.2f} points" in TEXTS["report.md"]
    assert pairs_needed(0.4, 0.5) == 15


def test_times_and_memory_are_those_of_the_measured_tables() -> None:
    performance = TEXTS["performance.md"]
    for pair, *numbers in table("hardware.md", "full size"):
        section = performance.split(f"### {pair}\n")[1]
        cells = [cell.strip() for cell in re.findall(r"^\| tokens \|(.*)\|$", section, re.MULTILINE)[0].split("|")]
        assert numbers == [cells[0], cells[1], cells[-1]]
