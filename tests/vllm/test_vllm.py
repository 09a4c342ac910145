"""A real vLLM on the CPU (`make vllm-test`): the teacher's scores, a run killed twice, a student that grkd saved."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from grkd.data.chat import encode_prompt, stop_token_ids
from grkd.data.language import Item
from grkd.data.prompts import Example
from grkd.demo import teacher_folder
from grkd.endpoint.client import Endpoint
from grkd.endpoint.loop import wait_for
from grkd.models.generate import generate_responses
from grkd.models.load import load_language_model, load_tokenizer, vocabulary_size
from grkd.models.save import save_student
from grkd.served import ServedTeacher
from grkd.teacher.local import LocalTeacher

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="needs make vllm-test"),
]
PROMPTS = ["Name a colour.", "What is two plus two?", "Say hello in French."]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextmanager
def serving(folder: Path, name: str, log: Path) -> Iterator[str]:
    """The URL of a vLLM that serves the folder; the first answer takes about two minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [os.environ["VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--dtype", "float32", "--host", "127.0.0.1", "--port", port]
    command += ["--max-model-len", "512", "--enforce-eager"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=out, stderr=out)
    try:
        while "Application startup complete" not in log.read_text(errors="replace"):
            assert server.poll() is None, log.read_text(errors="replace")[-2000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder that vLLM opens."""
    folder = tmp_path_factory.mktemp("smol") / "smol"
    gguf = {"model": str(teacher_folder()), "gguf_file": GGUF}
    save_student(load_language_model(**gguf, dtype=torch.float32), load_tokenizer(**gguf), folder, card="teacher\n")
    return folder


@pytest.fixture(scope="module")
def server(smol: Path) -> Iterator[tuple[str, Path]]:
    log = smol.parent / "vllm.log"
    with serving(smol, "s", log) as url:
        yield url, log


def prompt_ids(tokenizer: Any) -> list[list[int]]:
    return [encode_prompt(tokenizer, Example(id=text, prompt=text)) for text in PROMPTS]


def test_scores_and_choices_are_those_of_the_model_here(server: tuple[str, Path], smol: Path) -> None:
    tokenizer, model = load_tokenizer(str(smol)), load_language_model(str(smol), dtype=torch.float32)
    local = LocalTeacher(model, tokenizer, vocabulary=vocabulary_size(tokenizer), batch_size=4)
    served = ServedTeacher(
        Endpoint(server[0], "s", role="teacher"),
        tokenizer,
        folder=None,
        local=lambda items: local.scored(items)[0],
        tolerance_nats=1e-3,
    )
    served.open()
    answers = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Blue.", "It is four.", "Bonjour!")]
    pairs = zip(prompt_ids(tokenizer), answers, strict=True)
    items = [Item(id=str(at), prompt_ids=ids, response_ids=answer) for at, (ids, answer) in enumerate(pairs)]
    means, rows = served.scored(items, keep={"0"})
    assert means == pytest.approx(local.scored(items)[0], abs=1e-3)
    ids = items[0].prompt_ids + items[0].response_ids
    with torch.no_grad():
        top = model(torch.tensor([ids])).logits[0].log_softmax(-1)[len(items[0].prompt_ids) - 1 : -1].topk(20)
    torch.testing.assert_close(rows["0"][0].long(), top.indices)
    torch.testing.assert_close(rows["0"][1], top.values, atol=1e-3, rtol=0)
    asked = (PROMPTS[:1], [["Blue.", "I cannot name one."]], {"group": ["g"]})
    (verdict,), (own,) = served.choices(*asked), local.choices(*asked)
    assert verdict.log_wins == pytest.approx(own.log_wins, abs=1e-3)


def test_a_run_killed_twice_asks_nothing_twice(server: tuple[str, Path], smol: Path, tmp_path: Path) -> None:
    """And its student, opened by vLLM, answers and stops as it does here."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    lines = "".join(f'{{"prompt": "Name {number} colours."}}\n' for number in range(2, 14))
    (tmp_path / "prompts.jsonl").write_text(lines)
    recipe.write_text(
        f"""
task: language_model
output: {run}
device: cpu
teacher: {{url: "{server[0]}", served_model: s, model: {smol}, concurrency: 2, tolerance_nats: 0.001}}
student: {{model: {smol}}}
data: {{train: prompts.jsonl, heldout_fraction: 0.25}}
responses: {{source: teacher, n: 2, max_new_tokens: 12, shard_size: 6}}
methods: [kd]
training: {{steps: 2, batch_size: 2, learning_rate: 1e-5, save_every: 10}}
evaluation: {{samples: 1, sample_tokens: 4}}
"""
    )
    before = asked(server[1])
    killed_at(recipe, run, "teacher/respond-0/answers.jsonl", lines=5)
    killed_at(recipe, run, "score*/asked-*.jsonl", lines=5)
    assert subprocess.run([sys.executable, "-m", "grkd", "run", str(recipe)], check=False).returncode == 0
    # 12 prompts, two responses each, which are written and scored, after eight prompts were compared with the model
    # here: requests on their way at a kill are asked again.
    assert 56 <= asked(server[1]) - before <= 56 + 2 * 2
    student = run / "train" / "kd-seed0" / "student"
    tokenizer, model = load_tokenizer(str(student)), load_language_model(str(student), dtype=torch.float32)
    stops = stop_token_ids(tokenizer, model.generation_config)
    prompts = prompt_ids(tokenizer)
    options = {"max_new_tokens": 60, "temperature": 0.0, "top_p": 1.0, "stop_ids": stops, "pad_token_id": stops[0]}
    own = {each.index: each for part in generate_responses(model, prompts, seed=0, **options) for each in part}
    with serving(student, "student", tmp_path / "student.log") as url:
        client = Endpoint(url, "student", role="student")
        for at, ids in enumerate(prompts):  # no stop tokens are given: the saved files alone must name them
            body = {"prompt": ids, "max_tokens": 60, "temperature": 0.0, "return_token_ids": True}
            choice = wait_for(client.completion(body, lambda answer: answer["choices"][0]))
            assert choice["token_ids"] == own[at].response_ids
            assert (choice["finish_reason"] == "stop") == own[at].finished
    assert any(each.finished for each in own.values())


def asked(log: Path) -> int:
    return log.read_text(errors="replace").count("POST /v1/completions")


def killed_at(recipe: Path, run: Path, journal: str, *, lines: int) -> None:
    """Run until a journal has so many lines, and kill it there."""
    process = subprocess.Popen([sys.executable, "-m", "grkd", "run", str(recipe)])
    while sum(path.read_bytes().count(b"\n") for path in run.glob(journal)) < lines:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(5)  # the server finishes what it was asked
