"""A language model that writes a permutation of the candidates: prompts, sliding windows, answers."""

import re
from collections.abc import Callable, Sequence

from grkd.console import console
from grkd.data.thoughts import TAGS
from grkd.endpoint.client import Messages

# Asks for one answer per conversation; None for one that could not be had.
Complete = Callable[[Sequence[Messages]], Sequence[str | None]]
_NUMBER, _BRACKETED = re.compile(r"\d+"), re.compile(r"\[(\d+)\]")
_LONGEST = 1_200  # characters of a candidate in a prompt


def permuted(
    lists: Sequence[tuple[str, Sequence[str]]], complete: Complete, *, window: int, stride: int
) -> tuple[list[list[int]], int]:
    """Each list's candidates in the model's order, best first, and how many answers could not be read.

    lists: (query, candidates), the candidates in the order to start from. The last `window` of a list are ordered
    first; the window then moves up by `stride`, so that a good candidate can rise to the top (RankGPT, arXiv
    2304.09542). All lists ask for their next window together. An unreadable answer leaves the order as it is.
    """
    orders = [list(range(len(candidates))) for _, candidates in lists]
    left = [windows(len(order), window, stride) for order in orders]
    unread = 0
    while any(left):
        asked = [(number, left[number].pop(0)) for number in range(len(lists)) if left[number]]
        prompts = []
        for number, (start, end) in asked:
            query, candidates = lists[number]
            prompts.append(messages_of(query, [candidates[one] for one in orders[number][start:end]]))
        for (number, (start, end)), answer in zip(asked, complete(prompts), strict=True):
            found = None if answer is None else permutation(answer, end - start)
            if found is None:
                unread += 1
                continue
            orders[number][start:end] = [orders[number][start + place] for place in found]
    return orders, unread


def windows(count: int, window: int, stride: int) -> list[tuple[int, int]]:
    """[start, end) of the places that are ordered, the last ones first; each begins `stride` before the one below.

    >>> windows(5, 3, 2)
    [(2, 5), (0, 3)]
    """
    found = [(max(0, count - window), count)]
    while found[-1][0] > 0:
        start = max(0, found[-1][0] - stride)
        found.append((start, min(count, start + window)))
    return found


def messages_of(query: str, candidates: Sequence[str]) -> Messages:
    """The prompt: numbered candidates, and how to answer."""
    passages = "\n".join(f"[{number}] {_short(text)}" for number, text in enumerate(candidates, start=1))
    asked = f"Order these {len(candidates)} passages by how well they answer the query."
    how = "List the numbers of all passages, the best first, like this: [2] > [1] > [3]. Write nothing else."
    text = f"{asked}\n\nQuery: {query}\n\n{passages}\n\nQuery: {query}\n\n{how}"
    return [{"role": "user", "content": text}]


def permutation(answer: str, count: int) -> list[int] | None:
    """Places from 0 in the order of the answer's numbers, each once; those it leaves out follow as they were.

    Numbers in brackets, if there are any: "the 5 passages in order: [2] > [1]" does not begin with 5.
    None if no number of a candidate is in it. Thoughts are not read, nor such as were cut before they ended.
    """
    for opened, closed in TAGS:
        answer = answer.rpartition(closed)[2].partition(opened)[0]
    numbers = [int(one) - 1 for one in _BRACKETED.findall(answer) or _NUMBER.findall(answer)]
    named = list(dict.fromkeys(one for one in numbers if 0 <= one < count))
    if not named:
        return None
    return [*named, *(place for place in range(count) if place not in named)]


def note_unread(unread: int) -> None:
    """Say how many answers could not be read."""
    if unread:
        console.print(f"teacher: {unread} permutations could not be parsed; they left the order unchanged")


def answer_tokens(window: int) -> int:
    """Enough for a permutation of a window."""
    return 8 * window + 16


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST else plain[:_LONGEST] + " ..."
