"""The model card of a distilled ranker."""

from huggingface_hub import ModelCard, ModelCardData

from grkd.lists.context import HELDOUT, RankContext
from grkd.recipe import Method

_TEXT = """\
---
{header}
---

# {title}

A ranker distilled with `grkd` by the method `{method}`: it was trained to order the candidates of a query as its
teacher does. Open it with sentence-transformers:

```python
from sentence_transformers import {opener}

model = {opener}("path/to/this/folder")
```

| | |
|---|---|
{rows}

It inherits the teacher's mistakes. What it reaches on held-out queries stands in the run's report.
"""


def card_of(context: RankContext, method: Method, seed: int, learning_rate: float) -> str:
    """Text of a README.md: the hub's metadata header, and a table of how the student was made."""
    recipe, lists = context.recipe, context.lists
    cross = recipe.student.kind == "cross_encoder"
    teacher = recipe.teacher
    facts = {
        "teacher": ", ".join(teacher.models) or "the lists' own order",
        "what the student saw of it": f"{teacher.says}, the first {teacher.top}" if teacher.top else teacher.says,
        "student": recipe.student.model,
        "training lists": int((lists.part != HELDOUT).sum()),
        "candidates per list, at most": lists.candidates.shape[1],
        "learning rate": learning_rate,
        "seed": seed,
    }
    header = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="text-ranking" if cross else "sentence-similarity",
        tags=["knowledge-distillation", "grkd", f"grkd-{method.name}"],
    ).to_yaml()
    rows = "\n".join(f"| {name} | {str(value).replace('|', '/')} |" for name, value in facts.items())
    title = recipe.title or "A distilled ranker"
    opener = "CrossEncoder" if cross else "SentenceTransformer"
    return str(ModelCard(_TEXT.format(header=header, title=title, method=method.label, opener=opener, rows=rows)))
