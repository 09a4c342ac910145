"""Table 1 of the paper: facts to compare with, none of them measured by this project.

Source: Li, Zhou, Chen, "Group Relative Knowledge Distillation: Learning from Teacher's Relational Inductive Bias",
arXiv 2504.20482 (2025), Table 1. Columns: AlpacaEval 2 LC and WR, Arena-Hard WR, MT-Bench, GSM8K.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PaperResults:
    """One half of the table: a pair of models, its rows by our name for them, and what the reader must know."""

    pair: str
    rows: dict[str, tuple[float, float, float, float, float]]
    notes: tuple[str, ...] = ()


# Columns of the table by the names that grkd's benchmarks give them.
COLUMN_NAMES = (
    "alpaca_eval_lc_percent",
    "alpaca_eval_wr_percent",
    "arena_hard_wr_percent",
    "mt_bench",
    "gsm8k_percent",
)

NAMES = {
    "teacher": "Teacher",
    "student": "Student",
    "dpo": "DPO",
    "simpo": "SimPO",
    "pro": "PRO",
    "kd": "Standard KD",
    "seqkd": "SeqKD",
    "minillm": "MiniLLM",
    "grkd": "GRKD",
}

PAPER = {
    "gemma2": PaperResults(
        pair="Gemma-2-9B-It to Gemma-2-2B-It",
        rows={
            "teacher": (55.27, 42.50, 61.16, 6.99, 87.41),
            "student": (39.51, 41.99, 37.55, 6.70, 51.63),
            "dpo": (43.77, 54.02, 57.43, 6.87, 57.07),
            "simpo": (44.94, 54.16, 58.64, 6.91, 57.24),
            "pro": (45.87, 56.48, 58.95, 6.96, 58.83),
            "kd": (41.67, 45.24, 52.36, 6.78, 54.37),
            "seqkd": (42.91, 46.44, 54.87, 6.88, 55.72),
            "minillm": (42.97, 48.32, 55.75, 6.88, 55.26),
            "grkd": (49.71, 59.60, 60.10, 7.11, 59.71),
        },
    ),
    "llama3": PaperResults(
        pair="Llama-3.1-8B-Instruct to Llama-3.2-3B-Instruct",
        rows={
            "teacher": (37.01, 38.93, 52.66, 7.00, 84.00),
            "student": (27.82, 29.02, 31.70, 6.42, 57.09),
            "dpo": (31.42, 32.01, 44.71, 6.62, 61.63),
            "simpo": (32.74, 32.46, 44.85, 6.73, 61.22),
            "pro": (32.11, 32.23, 45.09, 6.71, 61.47),
            "kd": (29.11, 29.60, 41.68, 6.49, 59.15),
            "seqkd": (29.48, 30.04, 42.52, 6.53, 60.94),
            "minillm": (30.05, 31.38, 42.21, 6.67, 60.35),
            "grkd": (33.81, 32.65, 46.92, 6.85, 63.29),
        },
        notes=(
            "The paper prints MiniLLM's AlpacaEval 2 WR as 31.38 with a gain of 1.4; the two do not agree "
            "(31.38 is a gain of 2.36).",
        ),
    ),
}
