"""The model card of a distilled ranker."""

from grkd.lists.context import HELDOUT, RankContext
from grkd.recipe import Method
from grkd.run.model_card import model_card

_ABOUT = """\
A ranker distilled with `grkd` by the method `{method}`: it was trained to order the candidates of a query as its
teacher does. Open it with sentence-transformers:

```python
from sentence_transformers import {opener}

model = {opener}("path/to/this/folder"{options})
```"""
_HASHED = """

The folder has the code that reads its words, `hashed_words.py`: it needs PyTorch and sentence-transformers alone."""
_LIMITS = "It inherits the teacher's mistakes. The run's report says what it reaches on held-out queries."


def card_of(context: RankContext, method: Method, seed: int, learning_rate: float) -> str:
    """Text of a README.md: the hub's metadata header, and a table of how the student was made."""
    recipe, lists = context.recipe, context.lists
    cross = recipe.student.kind == "cross_encoder"
    teacher = recipe.teacher
    names = [*teacher.models, *([teacher.served.model] if teacher.served is not None else [])]
    facts = {
        "teacher": ", ".join(names) or "the lists' own order",
        "what the student saw of it": f"{teacher.says}, the first {teacher.top}" if teacher.top else teacher.says,
        "student": recipe.student.model,
        "training lists": int((lists.part != HELDOUT).sum()),
        "candidates per list, at most": lists.candidates.shape[1],
        "learning rate": learning_rate,
        "seed": seed,
    }
    return model_card(
        title=recipe.title or "A distilled ranker",
        about=_ABOUT.format(
            method=method.label,
            opener="CrossEncoder" if cross else "SentenceTransformer",
            options=", trust_remote_code=True" if recipe.student.buckets else "",
        )
        + (_HASHED if recipe.student.buckets else ""),
        facts=facts,
        limits=_LIMITS,
        method=method.name,
        library="sentence-transformers",
        task="text-ranking" if cross else "sentence-similarity",
    )
