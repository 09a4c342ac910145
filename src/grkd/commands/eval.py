"""`grkd eval`: benchmarks and a judge."""

import argparse

SUMMARY = "run benchmarks, or compare two models by a judge"
DESCRIPTION = """\
Run benchmarks on a model, have a judge compare or grade its answers, and print the metrics.

MODEL is a folder, a hub name, or the URL of an OpenAI-compatible endpoint. The judge is such an endpoint too. Keys are
read only from the environment. Every answer and judgement is saved as it arrives, so that the same command resumes.

  grkd eval runs/a/train/grkd-seed0/student --tasks gsm8k,mt_bench --data bench --output runs/eval \\
      --judge https://api.openai.com/v1 --judge-model gpt-4-1106-preview
  grkd eval runs/a/train/grkd-seed0/student --tasks gsm8k --data bench --fewshot 0 --chat    # GSM8K zero-shot
  grkd eval runs/a/train/grkd-seed0/student runs/a/train/kd-seed0/student --prompts heldout.jsonl \\
      --judge http://127.0.0.1:8000/v1 --judge-model large       # your own prompts: who wins, in both orders
  grkd eval --from-annotations annotations.json --task alpaca_eval       # metrics of existing judgements, as JSON
  grkd eval --from-battles battles.jsonl --task arena_hard
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments, made from the benchmarks."""
    from grkd.evaluation.arguments import add_arguments

    add_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.evaluation.arguments import settings_of

    if options.other is not None:
        from grkd.evaluation.duel import check, duel

        settings = settings_of(options)
        check(settings, options.other)
        return duel(settings, options.other, other_name=options.other_name)
    from grkd.evaluation.run import evaluate

    return evaluate(settings_of(options), task=options.task)
