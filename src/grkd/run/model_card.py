"""The model card of a distilled student: how it was made."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_TEXT = """\
---
{header}
---

# {title}

{about}

| | |
|---|---|
{rows}

{limits}
"""


def model_card(
    *,
    title: str,
    about: str,
    facts: dict[str, Any],
    limits: str,
    method: str,
    library: str,
    task: str,
    base_model: str | None = None,
) -> str:
    """Text of a README.md: the hub's metadata header, and a table of facts about how the student was made.

    about: what it is and how to open it. limits: what it was not tested for. task: the hub's name of what it does.
    """
    header = ModelCardData(
        library_name=library,
        pipeline_tag=task,
        base_model=base_model,
        tags=["knowledge-distillation", "grkd", f"grkd-{method}"],
    ).to_yaml()
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return str(ModelCard(_TEXT.format(header=header, title=title, about=about, rows=rows, limits=limits)))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {item}" for key, item in value.items() if item not in (None, {}, []))
    return str(value).replace("|", "\\|").replace("\n", " ")
