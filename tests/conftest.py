"""Settings shared by all tests (repeatable property tests, one thread), and a tiny language model on disk."""

from tests import _type_checks  # isort: skip  # before grkd is imported

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import accelerate.utils.memory
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests._endpoint_server import EndpointServer
from tests._model_server import ModelServer

settings.register_profile("grkd", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("grkd")
torch.set_num_threads(1)


# accelerate asks for a full garbage collection at every start of a training, .2 s each with everything imported.
accelerate.utils.memory.gc = SimpleNamespace(collect=lambda: gc.collect(0))


def pytest_collection_finish() -> None:
    """Take what imports and collection made out of garbage collection, which then costs less."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    _type_checks.next_test()


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a third of a tiny run's time: only tests of reports draw them, and those marked so."""
    if "figures" not in request.keywords and "tests/reports" not in request.path.as_posix():
        monkeypatch.setattr("grkd.reports.page.draw", lambda *_, **__: [])


SPECIAL = ["<pad>", "<unk>", "<turn>", "<end>"]
WORDS = ["user", "assistant", *[f"w{number}" for number in range(34)]]
TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """40 words split at spaces, a chat template, <end> as end of sequence."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 3 layers, far from uniform, and its tokenizer."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=3,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 prompts of different lengths."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [" ".join(f"w{(3 * n + k) % 34}" for k in range(1 + n % 4)) for n in range(24)]
    path.write_text("".join(json.dumps({"prompt": f"{line} w{n}"}) + "\n" for n, line in enumerate(lines)))
    return path


@pytest.fixture
def tiny_recipe(tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path) -> Path:
    """A recipe that distils the tiny teacher into its first and last layer within seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
task: language_model
output: {tmp_path / "run"}
device: cpu
teacher: {{model: {tiny_teacher}}}
student: {{layers: [0, 2]}}
data: {{train: {tiny_prompts}, heldout_fraction: 0.25}}
responses: {{source: teacher, max_new_tokens: 6, batch_size: 6, shard_size: 6}}
methods: [kd, {{name: grkd, pairs.group: sample, pairs.group_size: 8}}]
training: {{epochs: 4, batch_size: 4, learning_rate: 5e-3, log_every: 1, save_every: 2}}
evaluation: {{top_k: 5, samples: 2, sample_tokens: 4}}
"""
    )
    return path


@pytest.fixture(scope="session")
def running_model_server(tiny_teacher: Path) -> Iterator[ModelServer]:
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    made = ModelServer(tiny_teacher)
    yield made
    made.close()


@pytest.fixture
def model_server(running_model_server: ModelServer) -> Iterator[ModelServer]:
    """tiny_teacher behind a server, without faults and with nothing asked yet."""
    yield running_model_server
    running_model_server.faults, running_model_server.always = [], None
    running_model_server.asked.clear()
    running_model_server.answered.clear()


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    """A running chat endpoint."""
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    made = EndpointServer()
    yield made
    made.close()
