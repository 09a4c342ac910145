"""`grkd eval`: benchmarks and a judge."""

import argparse
from pathlib import Path

SUMMARY = "benchmarks and a judge"
DESCRIPTION = """\
Let a model answer benchmarks, have a judge compare or grade the answers, and print the figures.

MODEL is a folder, a hub name, or the URL of an OpenAI-compatible endpoint; so is the judge's URL. Keys come from the
environment only. Answers and judgements are stored one by one: after a kill the same command asks for the rest.

  grkd eval runs/a/train/grkd-seed0/student --tasks gsm8k,mt_bench --data bench --output runs/eval \\
      --judge https://api.openai.com/v1 --judge-model gpt-4-1106-preview
  grkd eval runs/a/train/grkd-seed0/student --tasks gsm8k --data bench --fewshot 0 --chat    # GSM8K zero-shot
  grkd eval --from-annotations annotations.json --task alpaca_eval       # figures of a finished file, as JSON
  grkd eval --from-battles battles.jsonl --task arena_hard
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments; their names are the fields of evaluation.Options."""
    add = command.add_argument
    add("model", nargs="?", metavar="MODEL", help="a folder, a hub name, or the URL of an endpoint")
    add("--tasks", metavar="A,B", help="gsm8k, alpaca_eval, arena_hard, mt_bench, rank, exact_match")
    add("--data", type=Path, metavar="DIR", help="folder with the benchmarks' files: alpaca_eval/, mt_bench/, ...")
    add("--output", type=Path, metavar="DIR", help="the run's folder (default: runs/eval)")
    add("--limit", type=int, metavar="N", help="only N questions a task")
    add("--judge", metavar="URL", help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1")
    add("--judge-model", metavar="NAME", help="the judge's name there")
    add("--judge-key-env", metavar="VARIABLE", help="environment variable with its key (default: OPENAI_API_KEY)")
    add("--judge-tokens", type=int, metavar="N", help="judgements shorter than the benchmark's")
    add("--judge-prompt", type=Path, metavar="FILE", help="arena_hard: the judge's system prompt (default: the data's)")
    add("--max-requests", type=int, metavar="N", help="the judge's budget of this command, every try counted")
    add("--max-tokens", type=int, metavar="N", help="the same in tokens, prompts and judgements")
    add("--concurrency", type=int, metavar="N", help="requests at a time (default: 4)")
    add("--timeout", type=float, dest="timeout_seconds", metavar="SECONDS", help="of one request (default: 600)")
    add("--answer-tokens", type=int, metavar="N", help="longest answer of MODEL (default: the benchmark's)")
    add("--fewshot", type=int, metavar="N", help="gsm8k: worked examples before each question (default: 5)")
    add("--chat", action="store_true", default=None, help="gsm8k: through the chat template (zero-shot: --fewshot 0)")
    add("--batch-size", type=int, metavar="N", help="answers at a time of a local MODEL (default: 8)")
    add("--device", choices=("auto", "cpu", "cuda"))
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    add("--seed", type=int, help="of sampled answers and bootstrap intervals (default: 0)")
    add("--model-name", metavar="NAME", help="where MODEL is a URL: the model's name there")
    add("--model-key-env", metavar="VARIABLE", help="where MODEL is a URL: variable with its key")
    add("--trust-remote-code", action="store_true", default=None, help="run code that MODEL's folder brings along")
    add("--teacher", metavar="MODEL", help="rank: whose order the student was to learn")
    add("--prompts", type=Path, metavar="PATH", help="rank: a scored run, or prompts with completions (JSONL)")
    add("--questions", type=Path, metavar="FILE", help='exact_match: a JSONL file of {"question", "answer"}')
    add("--task", choices=("alpaca_eval", "arena_hard"), help="what a given file belongs to")
    add("--from-annotations", type=Path, metavar="FILE", help="score a file of AlpacaEval annotations")
    add("--from-battles", type=Path, metavar="FILE", help="score a file of Arena-Hard battles")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.evaluation import Options, evaluate

    given = {name: value for name, value in vars(options).items() if name != "command" and value is not None}
    if "tasks" in given:
        given["tasks"] = tuple(dict.fromkeys(filter(None, given["tasks"].split(","))))
    return evaluate(Options(**given))
