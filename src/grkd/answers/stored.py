"""Answers generated once, stored as they come, and reused."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.answers.question import Question, Sampling, Text
from grkd.console import progress_bar
from grkd.endpoint.client import Messages
from grkd.endpoint.journal import Journal
from grkd.errors import UserError
from grkd.files import digest

if TYPE_CHECKING:
    from grkd.answers.local import LocalModel
    from grkd.answers.remote import RemoteModel


def answer(
    source: "LocalModel | RemoteModel",
    questions: Sequence[Question],
    *,
    sampling: Sampling,
    store: Path,
    description: str = "answer",
) -> dict[str, list[Text]]:
    """Each question's answers, one per turn, from `store` (JSON lines) or from the model, which are then stored.

    A line holds the messages asked, the answer and its cost. A stored answer counts only for the same model, messages
    and sampling. Raises what the source raises.
    """
    journal = Journal(store)
    found: dict[str, list[Text]] = {question.id: [] for question in questions}
    with progress_bar() as bar:
        task = bar.add_task(description, total=0, unit="answers", visible=False)
        for group, turn in _groups(questions):
            records = [_record(source, question, turn, found[question.id], sampling) for question in group]
            stored = {index for index, record in enumerate(records) if record["key"] in journal}
            if len(stored) < len(group):
                bar.update(task, total=bar.tasks[task].completed + len(group) - len(stored), visible=True)
                for index, text in source.answers(
                    [record["messages"] for record in records],
                    stored=stored,
                    sampling=sampling,
                    temperature=group[0].temperature,
                ):
                    journal.add(records[index]["key"], {**records[index], **vars(text)})
                    bar.advance(task)
            for question, record in zip(group, records, strict=True):
                line = journal.get(record["key"])
                assert line is not None
                if not all(name in line for name in Text.__dataclass_fields__):
                    raise UserError(f"{store}: the stored answer to {question.id!r} is damaged; remove its line")
                found[question.id].append(Text(**{name: line[name] for name in Text.__dataclass_fields__}))
    return found


def _groups(questions: Sequence[Question]) -> Iterator[tuple[list[Question], int]]:
    """Questions of one temperature that have a turn of this number (from 0): what is answered together."""
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        asked = [question for question in questions if len(question.turns) > turn]
        for temperature in sorted({question.temperature for question in asked}):
            yield [question for question in asked if question.temperature == temperature], turn


def _record(
    source: "LocalModel | RemoteModel", question: Question, turn: int, answers: list[Text], sampling: Sampling
) -> dict[str, Any]:
    """What is asked of the model at a turn, and the key that its answer is stored under."""
    messages, temperature = _messages(question, turn, answers), question.temperature
    drawn = [sampling.top_p, sampling.seed] if temperature > 0 else []
    return {
        "key": digest([source.identity, messages, temperature, sampling.max_new_tokens, drawn]),
        "id": question.id,
        "turn": turn + 1,
        "model": source.identity,
        "messages": messages,
        "temperature": temperature,
        "max_new_tokens": sampling.max_new_tokens,
    }


def _messages(question: Question, turn: int, answers: list[Text]) -> Messages:
    """The conversation up to the user's turn number `turn` (from 0)."""
    messages: Messages = []
    for earlier in range(turn):
        messages.append({"role": "user", "content": question.turns[earlier]})
        messages.append({"role": "assistant", "content": answers[earlier].text})
    return [*messages, {"role": "user", "content": question.turns[turn]}]
