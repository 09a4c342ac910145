"""Answers inside of a model's context, beside a model that has no positions behind it."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from grkd.language.in_room import in_room
from grkd.models.generate import Response, generate_responses


def test_prompts_near_the_context_are_answered_by_what_room_they_leave() -> None:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, **ends)).eval()

    def sample(prompts: list[list[int]], *, max_new_tokens: int) -> list[list[Response]]:
        options = {"temperature": 0.0, "top_p": 1.0, "stop_ids": [], "pad_token_id": 0, "seed": 0, "batch_size": 2}
        return list(generate_responses(model, prompts, max_new_tokens=max_new_tokens, **options))

    lengths = [3, 20, 14, 12, 16, 2]
    prompts = [[1 + at] * length for at, length in enumerate(lengths)]
    found = {one.index: one for some in in_room(sample, prompts, max_new_tokens=4, context=16) for one in some}
    assert [len(found[at].response_ids) for at in range(6)] == [4, 0, 2, 4, 0, 4]
    assert not any(one.finished for one in found.values())
    for at in (0, 3, 5):  # as without the others
        assert found[at].response_ids == sample([prompts[at]], max_new_tokens=4)[0][0].response_ids
