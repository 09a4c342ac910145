"""Which columns of a table hold texts or image files, and which the labels."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grkd.data.labelled_images import IMAGE_SUFFIXES
from grkd.errors import UserError

_LABELS = ("label", "labels", "class", "category", "intent", "target", "sentiment", "y")
_ORDERS = ("ranking", "ranked", "ranked_labels", "labels")
_TEXTS = ("text", "sentence", "review", "content", "utterance", "body", "message", "title", "comment", "description")
_MOST_CLASSES = 0.5  # of the records: more different values than that are no labels


def labelled(records: list[dict[str, Any]]) -> tuple[dict[str, Any], str, list[str]] | None:
    """Keys of the data section, words and classes for a table of texts and labels; None for another table."""
    names = list(records[0])
    label = _named(names, _LABELS) or _fewest(records, names)
    text = _named([name for name in names if name != label], _TEXTS) or _longest(records, names, label)
    if label is None or text is None:
        return None
    classes = classes_of(records, label)
    about = f"texts ({text}) with labels ({label}), {len(classes)} classes in the first {len(records)} records"
    return {"text": text, "label": label}, about, classes


def classes_of(records: Iterable[dict[str, Any]], label: str) -> list[str]:
    """The different labels, sorted."""
    return sorted({str(record[label]).strip() for record in records if record.get(label) is not None})


def ranked(records: list[dict[str, Any]]) -> tuple[dict[str, Any], str, str] | None:
    """Of texts with some classes each, best first: keys of the data section, words, and the column of the orders."""
    names = list(dict.fromkeys(name for record in records for name in record))
    orders = [name for name in names if _are_orders([record.get(name) for record in records])]
    label = _named([name for name in names if name not in orders], _LABELS)
    # Beside a label other lists may be anything, such as tags.
    column = _named(orders, _ORDERS) or next((name for name in orders if label is None), None)
    others = [name for name in names if name not in orders]
    others = [name for name in others if name != label]
    text = _named(others, _TEXTS) or _longest(records, others, label)
    if column is None or text is None:
        return None
    section = {"text": text} | ({} if label is None else {"label": label})
    return section, f"texts ({text}) with some classes each, best first ({column})", column


def table_of_images(records: list[dict[str, Any]], path: Path) -> tuple[dict[str, Any], str] | None:
    """The same of a table that names image files.

    Raises UserError if the files are neither in the table's folder nor in one inside it.
    """
    names = list(records[0])
    column = next((name for name in names if all(_is_image(record.get(name)) for record in records)), None)
    if column is None:
        return None
    label = _named(names, _LABELS) or _fewest(records, [name for name in names if name != column])
    if label is None:
        raise UserError(f"{path}: images in the column {column}, but no column of labels; call it label")
    first = str(records[0][column])
    inside = sorted(one for one in path.parent.iterdir() if one.is_dir() and not one.name.startswith("."))
    root = next((one for one in (path.parent, *inside) if (one / first).is_file()), None)
    if root is None:
        raise UserError(f"{path}: {first} is neither in {path.parent} nor in a folder inside it; move the images there")
    about = f"image files ({column}) with labels ({label})"
    return {"image": column, "image_root": root, "label": label}, about


def _named(names: list[str], known: tuple[str, ...]) -> str | None:
    return next((name for word in known for name in names if name.lower() == word), None)


def _are_orders(values: list[Any]) -> bool:
    """Lists of names, null for some of them or none."""
    given = [value for value in values if value is not None]
    return bool(given) and all(
        isinstance(value, list) and value and all(isinstance(name, str) for name in value) for value in given
    )


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and Path(value).suffix.lower() in IMAGE_SUFFIXES


def _fewest(records: list[dict[str, Any]], names: list[str]) -> str | None:
    """The column with the fewest different values, if they repeat as labels do."""
    counts = {name: len({str(record.get(name)) for record in records}) for name in names}
    best = min(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and 2 <= counts[best] <= max(2, _MOST_CLASSES * len(records)) else None


def _longest(records: list[dict[str, Any]], names: list[str], label: str | None) -> str | None:
    """The column with the longest texts."""
    lengths = {
        name: sum(len(record[name]) for record in records)
        for name in names
        if name != label and all(isinstance(record.get(name), str) for record in records)
    }
    return max(lengths, key=lambda name: lengths[name], default=None)
