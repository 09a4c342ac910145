"""The arguments of `grkd eval`, made from the benchmarks in grkd.benchmarks. Needs no torch."""

import argparse
from pathlib import Path
from typing import Any

from grkd.benchmarks import Option, Settings, all_benchmarks, settings_from
from grkd.data.conversation import read_template_options
from grkd.errors import UserError
from grkd.files import NotJSON, parse_json

ONLY_COMMAND = ("command", "task", "other", "other_name")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add every argument; what is not given stays None, so that defaults are those of Settings."""
    add, known = command.add_argument, all_benchmarks()
    add("model", nargs="?", metavar="MODEL", help="a folder, a hub name, or the URL of an endpoint")
    add("other", nargs="?", metavar="OTHER", help="a second model, compared with MODEL on --prompts by --judge")
    add("--other-name", metavar="NAME", help="if OTHER is a URL: the model's name there")
    add("--tasks", metavar="A,B", help=f"{', '.join(known)}, lm_eval:TASK, or your own as package.module:OBJECT")
    needed = "; ".join(one.data_hint for one in known.values() if one.data_hint)
    add("--data", type=Path, metavar="DIR", help=f"folder with the benchmarks' files: {needed}")
    add("--output", type=Path, metavar="DIR", help="output folder (default: runs/eval)")
    add("--limit", type=int, metavar="N", help="only N questions per task")
    add("--seed", type=int, help="seed of sampled answers and bootstrap intervals (default: 0)")
    add("--concurrency", type=int, metavar="N", help="requests at a time (default: 4)")
    add("--timeout", type=float, dest="timeout_seconds", metavar="SECONDS", help="timeout per request (default: 600)")
    _add_model(command.add_argument_group("the model"))
    _add_judge(command.add_argument_group("the judge", f"for {', '.join(n for n, one in known.items() if one.judged)}"))
    for name, one in known.items():
        if one.options:
            group = command.add_argument_group(name)
            for option in one.options:
                _add_option(group, option)
    files = {name: one.from_file for name, one in known.items() if one.from_file is not None}
    group = command.add_argument_group("metrics of existing judgements, without a model")
    for from_file in files.values():
        group.add_argument(from_file.flag, type=Path, metavar="FILE", help=from_file.help)
    group.add_argument("--task", choices=tuple(files), help="the benchmark of this file (checked)")


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings that these arguments ask for."""
    known: dict[str, Any] = {name: value for name, value in vars(given).items() if name not in ONLY_COMMAND}
    if known.get("tasks") is not None:
        known["tasks"] = tuple(dict.fromkeys(filter(None, known["tasks"].split(","))))
    return settings_from(known)


def _add_model(group: Any) -> None:
    add = group.add_argument
    add("--model-name", metavar="NAME", help="if MODEL is a URL: the model's name there")
    add("--model-key-env", metavar="VARIABLE", help="if MODEL is a URL: environment variable with its key")
    add("--answer-tokens", type=int, metavar="N", help="maximum tokens of an answer (default: the benchmark's)")
    add("--batch-size", type=int, metavar="N", help="local MODEL: answers generated at a time (default: 8)")
    add("--device", choices=("auto", "cpu", "cuda"))
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    words = "local MODEL: variables of its chat template, such as '{\"enable_thinking\": false}'"
    add("--chat-template-kwargs", type=_template_options, metavar="JSON", help=words)
    add("--trust-remote-code", action="store_true", default=None, help="run code from MODEL's folder")


def _template_options(text: str) -> dict[str, Any]:
    """Variables of the chat template, as records and recipes have them."""
    try:
        return read_template_options(parse_json(text), "it") or {}
    except NotJSON as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}); give an object") from None
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_judge(group: Any) -> None:
    add = group.add_argument
    add("--judge", metavar="URL", help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1")
    add("--judge-model", metavar="NAME", help="the judge's name there")
    add("--judge-key-env", metavar="VARIABLE", help="environment variable with its key (default: OPENAI_API_KEY)")
    add("--judge-tokens", type=int, metavar="N", help="maximum tokens of a judgement (default: the benchmark's)")
    add("--max-requests", type=int, metavar="N", help="budget of this command in requests, including retries")
    add("--max-tokens", type=int, metavar="N", help="budget of this command in tokens of prompts and judgements")


def _add_option(group: Any, option: Option) -> None:
    default = f" (default: {option.default})" if option.default else ""
    words = option.help + default
    if option.kind is bool:
        group.add_argument(option.flag, action="store_true", default=None, help=words)
    else:
        group.add_argument(option.flag, type=option.kind, metavar=option.metavar, help=words)
