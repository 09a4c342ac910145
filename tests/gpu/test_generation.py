"""On a GPU the compiled step and continuous batching write what the growing cache writes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from grkd.models.generate import Method, free_memory, generate_responses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of inductor and of transformers, which are not ours
]

PROMPTS = [[5], [3, 4, 9, 8, 7, 11], [6, 2], [10, 12, 13, 14], [3, 3, 3]]


@pytest.mark.parametrize("method", ["static", "continuous"])
def test_greedy_text_is_that_of_the_growing_cache(method: Method) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.3)).eval().cuda()

    def written(how: Method, temperature: float, seed: int = 0) -> list[list[int]]:
        batches = generate_responses(
            model,
            PROMPTS,
            max_new_tokens=12,
            temperature=temperature,
            top_p=1.0,
            stop_ids=[1, 17],
            pad_token_id=1,
            seed=seed,
            batch_size=2,
            method=how,
        )
        found = {response.index: response.response_ids for batch in batches for response in batch}
        return [found[index] for index in range(len(PROMPTS))]

    try:
        assert written(method, 0.0) == written("dynamic", 0.0)
        assert written(method, 1.0) == written(method, 1.0)
        assert written(method, 1.0, seed=1) != written(method, 1.0)
    finally:
        free_memory()
