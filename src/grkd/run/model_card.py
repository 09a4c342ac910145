"""The model card of a distilled student: how it was made."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_TEXT = """\
---
{header}
---

# {title}

A language model distilled with `grkd` by the method `{method}`: it was trained to answer as its teacher does.

| | |
|---|---|
{rows}

It imitates its teacher on responses to the prompts that it was trained on, and inherits the teacher's mistakes.
The run's report says how close it came on held-out prompts; nothing else was tested.
"""


def model_card(*, title: str, method: str, base_model: str | None, facts: dict[str, Any]) -> str:
    """Text of a README.md: the hub's metadata header, and a table of facts about how the student was made."""
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base_model,
        tags=["knowledge-distillation", "grkd", f"grkd-{method}"],
    ).to_yaml()
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return str(ModelCard(_TEXT.format(header=header, title=title, method=method, rows=rows)))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {item}" for key, item in value.items() if item not in (None, {}, []))
    return str(value).replace("|", "\\|").replace("\n", " ")
