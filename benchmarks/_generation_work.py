"""What benchmarks/generation.py gives every method to do, the sizes that it knows, and the bytes that it must read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from grkd.models.generate import generate_responses

_LLAMA_3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0}
SIZES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
    },
    "llama-3b": {
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_parameters": {**_LLAMA_3, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    },
    "tiny": {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


@dataclass(frozen=True)
class Work:
    """What every method has to do."""

    model: PreTrainedModel
    prompts: list[list[int]]
    max_new_tokens: int
    top_p: float
    stop_ids: list[int]
    pad_token_id: int

    def once(
        self, method: Any, batch_size: int, *, seed: int = 0, temperature: float = 1.0, most: int | None = None
    ) -> list[list[int]]:
        """The responses, in the order of the prompts; of at most so many tokens, in the same cache."""
        found: dict[int, list[int]] = {}
        for batch in generate_responses(
            self.model,
            self.prompts,
            max_new_tokens=self.max_new_tokens if most is None else min(most, self.max_new_tokens),
            temperature=temperature,
            top_p=self.top_p,
            stop_ids=self.stop_ids,
            pad_token_id=self.pad_token_id,
            seed=seed,
            batch_size=batch_size,
            method=method,
            room=self.room,
        ):
            found |= {response.index: response.response_ids for response in batch}
        return [found[index] for index in range(len(self.prompts))]

    @property
    def room(self) -> int:
        return -(-(max(map(len, self.prompts)) + max(4, self.max_new_tokens)) // 128) * 128

    def bytes_read(self, responses: Sequence[Sequence[int]], batch_size: int) -> float:
        """Weights once per step of all rows, and the keys and values that each token sees."""
        config = self.model.config
        table = self.model.get_input_embeddings().weight
        tied = table is self.model.get_output_embeddings().weight
        weights = sum(p.numel() for p in self.model.parameters()) - (0 if tied else table.numel())
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        state = 2 * config.num_hidden_layers * config.num_key_value_heads * dim
        steps = sum(max(map(len, responses[at : at + batch_size])) for at in range(0, len(responses), batch_size))
        seen = sum(
            len(response) * (len(prompt) + (len(response) - 1) / 2)
            for prompt, response in zip(self.prompts, responses, strict=True)
        )
        return (steps * weights + seen * state) * table.element_size()
