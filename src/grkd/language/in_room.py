"""Answers that stay inside of a model's context: behind it positions are unknown, or an index is out of range."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from grkd.models.generate import Response

Sample = Callable[..., Iterable[list[Response]]]  # of prompts, with max_new_tokens


def in_room(sample: Sample, prompts: list[list[int]], *, max_new_tokens: int, context: int) -> Iterator[list[Response]]:
    """`sample` of the prompts; one that leaves less room than max_new_tokens is answered alone, by as many as it has.

    A prompt that fills the context gets an empty answer, which counts as cut.
    """
    room = [context - len(prompt) for prompt in prompts]
    roomy = [at for at, left in enumerate(room) if left >= max_new_tokens]
    parts = [(roomy, max_new_tokens)] if roomy else []
    parts += [([at], left) for at, left in enumerate(room) if 0 < left < max_new_tokens]
    for places, most in parts:
        for some in sample([prompts[at] for at in places], max_new_tokens=most):
            yield [replace(response, index=places[response.index]) for response in some]
    if full := [at for at, left in enumerate(room) if left < 1]:
        yield [Response(at, [], finished=False) for at in full]
