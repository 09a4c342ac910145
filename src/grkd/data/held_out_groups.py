"""The file of held-out groups that reports read: a prompt's responses, who ordered them, and a student's scores."""

import pyarrow as pa

# One line per group and student. Scores are one per response; null: no opinion.
HELD_OUT = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.string(),
        "responses": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),  # the order that methods learn
        "by_ranker": pa.map_(pa.string(), pa.list_(pa.float64())),
        "student": pa.list_(pa.float64()),  # mean token log-probability, in nats
    }
)
