"""Columns of the tables of a run's stages."""

import pyarrow as pa

TOKENS = pa.list_(pa.int32())

# One line per prompt. data_*: what the data has as responses, where responses.source takes them from there.
PROMPTS = pa.schema(
    {
        "id": pa.string(),
        "split": pa.string(),
        "prompt": pa.string(),  # as people read it: the last message
        "messages": pa.string(),  # the conversation as JSON, without the recipe's system message
        "context": pa.string(),  # tools and variables of the chat template as JSON, null without any
        "prompt_ids": TOKENS,
        "data_response_ids": pa.list_(TOKENS),
        "data_scores": pa.list_(pa.float64()),
    }
)

# One line per response; `id` is <group>#<index>, `group` the prompt's id.
RESPONSES = pa.schema(
    {
        "id": pa.string(),
        "group": pa.string(),
        "index": pa.int32(),
        "source": pa.string(),  # teacher, student or data
        "writer": pa.string(),  # label of the teacher that wrote it, if there are several
        "split": pa.string(),
        "prompt": pa.string(),
        "messages": pa.string(),
        "context": pa.string(),
        "prompt_ids": TOKENS,
        "response_ids": TOKENS,
        "response": pa.string(),
        "finished": pa.bool_(),  # ended by a stop token, not by the limit of length
        "data_score": pa.float64(),
    }
)
