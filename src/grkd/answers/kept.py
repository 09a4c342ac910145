"""Answers of a model kept as they come, so that a kill loses those of one batch at most."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.endpoint.journal import Journal
from grkd.errors import UserError
from grkd.models.generate import Response


@dataclass(frozen=True)
class Answers:
    """Some responses and the milliseconds that sampling them took; kept: by an earlier process."""

    responses: list[Response]
    milliseconds: int
    kept: bool = False


def kept_answers(
    path: Path | None, prompts: Sequence[list[int]], sample: Callable[[list[list[int]]], Iterator[list[Response]]]
) -> Iterator[Answers]:
    """One response per prompt: first those that `path` holds from before, then the others as `sample` yields them.

    sample: such as grkd.models.generate.generate_responses. A text depends on the number of equal prompts before it, so
    equal prompts are kept together or sampled again together. `path` is appended to with every list that comes, and
    on the disk before the list is given on; the caller deletes it when it has stored the answers elsewhere.
    Raises UserError for a file that holds anything else.
    """
    journal = Journal(path)
    found = _stored(journal, prompts)
    asked, answered = Counter(map(tuple, prompts)), Counter(tuple(prompts[index]) for index in found)
    kept = [index for index in found if answered[tuple(prompts[index])] == asked[tuple(prompts[index])]]
    if kept:
        spent = sum(int(record["milliseconds"]) for record in journal)
        yield Answers([found[index] for index in sorted(kept)], spent, kept=True)
    missing = sorted(set(range(len(prompts))) - set(kept))
    if not missing:
        return
    begin = time.perf_counter()
    for batch in sample([prompts[index] for index in missing]):
        own = [Response(missing[response.index], response.response_ids, response.finished) for response in batch]
        spent, begin = round(1000 * (time.perf_counter() - begin)), time.perf_counter()
        rows = [[response.index, response.response_ids, response.finished] for response in own]
        journal.add(str(len(journal)), {"milliseconds": spent, "responses": rows})
        yield Answers(own, spent)


def _stored(journal: Journal, prompts: Sequence[list[int]]) -> dict[int, Response]:
    """The journal's responses by index."""
    found: dict[int, Response] = {}
    for record in journal:
        try:
            rows: list[Any] = record["responses"]
            int(record["milliseconds"])
            for index, ids, finished in rows:
                prompts[index]
                found[index] = Response(index, [int(token) for token in ids], bool(finished))
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{journal.path}: damaged; delete it and repeat the command") from None
    return found
