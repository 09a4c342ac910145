"""Zero-shot answers to a file's questions, graded by exact match."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.answers.question import Question
from grkd.benchmarks._results import cost_of_answers, with_asked
from grkd.metrics import exact_match

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session

ANSWER_TOKENS = 512


def answered(session: "Session", path: Path, *, task: str) -> dict[str, Any]:
    """Exact match of the model's zero-shot answers to the questions of a file."""
    questions = exact_match.read_questions(path, limit=session.settings.limit)
    answers = session.answers(
        [Question(id=each.id, turns=(each.question,)) for each in questions], task=task, max_new_tokens=ANSWER_TOKENS
    )
    found = exact_match.score(questions, [answers[each.id][0].text for each in questions])
    return {
        **with_asked(found),
        **cost_of_answers(answers),
        "conditions": {"answer_tokens": session.settings.model.answer_tokens},
    }
