"""The whole of `grkd init`: look, compose, check, write; a file that is there already is never touched."""

from pathlib import Path

from grkd import recipe
from grkd.errors import UserError
from grkd.files import whole_file
from grkd.first_recipe.compose import Wish, compose
from grkd.first_recipe.look import Found, look


def write(
    data: str,
    path: Path,
    *,
    heldout: str | None = None,
    teacher: str | None = None,
    student: str | None = None,
    served_model: str | None = None,
    text_only: bool = False,
) -> Found:
    """Write a recipe for the data to `path`, after it passed `grkd run --check`.

    Raises UserError if the path is taken, and for what is wrong with data or models: nothing is written then.
    """
    path = Path(path).absolute()
    if path.exists():
        raise UserError(f"{path}: exists already and is not overwritten; give another name with --output")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    found = look(data, heldout)
    wish = Wish(
        folder=path.parent,
        output=f"./runs/{path.stem}",
        teacher=teacher,
        student=student,
        served_model=served_model,
        text_only=text_only,
    )
    written = compose(found, wish)
    with whole_file(path) as aside:
        aside.write_text(written, encoding="utf-8")
        from grkd.pipeline.check import check_recipe  # takes seconds

        try:
            check_recipe(recipe.read(aside))
        except UserError as error:
            raise UserError(str(error).replace(aside.name, path.name)) from None
    return found
