"""The recipe of a language model: every key that it may have, its type and its default."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from grkd.recipe._sections import (
    Combine,
    Count,
    Device,
    FilePath,
    Fraction,
    GroupSize,
    Method,
    ModelPath,
    Positive,
    Rankers,
    Search,
    Section,
    Seed,
    Text,
    Training,
    Whole,
)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Lora(Section):
    """Train low-rank adapters (peft) instead of all weights; they are merged into the saved student."""

    r: Count = 16  # rank of the adapters
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 32.0  # the adapters' output is scaled by alpha / r
    dropout: Fraction = 0.0  # dropout of the adapters' inputs
    target_modules: str | list[str] = "all-linear"  # layers that get adapters, as in peft


@dataclass(frozen=True, kw_only=True)
class Model(Section):
    """A language model: hub name, local folder, or a GGUF file inside either."""

    model: ModelPath  # hub name, local folder or GGUF file
    gguf_file: str | None = None  # name of a GGUF file inside the folder or repository
    revision: str | None = None  # branch, tag or commit on the hub
    # auto: float32 on a CPU, bfloat16 on a GPU; float8: linear layers in 8 bits, the rest in bfloat16 (Ada, Hopper or
    # newer GPUs)
    dtype: Dtype | Literal["float8"] = "auto"
    trust_remote_code: bool = False  # run code from the model's repository
    # several GPUs: every GPU holds all weights (whole), a shard of them, or they stay in host memory (offloaded)
    placement: Literal["whole", "sharded", "offloaded"] = "whole"


@dataclass(frozen=True, kw_only=True)
class ServedModel(Section):
    """A teacher behind an OpenAI-compatible server, such as vLLM. Its key is read only from the environment."""

    url: Text  # the server's address, such as http://127.0.0.1:8000/v1
    served_model: Text  # the model's name on the server
    model: ModelPath | None = None  # a local copy of the model, to check the server's first responses against
    tokenizer: ModelPath | None = None  # the served model's tokenizer; null: that of `model`, else the student's
    log_probs: bool = True  # whether the server gives log-probabilities of prompts, as vLLM does; false: only text
    top_k: Count = 20  # tokens per position that token-level methods learn from; vLLM: at most --max-logprobs
    tolerance_nats: Positive = 0.1  # largest allowed difference between server and `model`, in nats per token
    key_env: Text | None = None  # environment variable with the key; null: OPENAI_API_KEY, if the server needs a key
    concurrency: Count = 8  # requests at a time, over all processes of a launch (at least one per process)
    timeout_seconds: Positive = 600.0  # longest wait for one answer
    max_requests: Count | None = None  # most requests per command, over all processes and including retries


@dataclass(frozen=True, kw_only=True)
class SelfTeacher(Section):
    """The teacher is the student before training, with extra text in its prompt, such as a solution or instructions.

    Give context, system or both. Their texts follow the recipe's or the record's system message, in this order.
    """

    self: Literal[True]  # use the student as its own teacher
    context: Text | None = None  # column of the records with text for the teacher's system message
    system: Text | None = None  # text for the teacher's system message, for every record


@dataclass(frozen=True, kw_only=True)
class CachedTeacher(Section):
    """A cache of ranks instead of the teacher: stored responses with the teacher's order of tokens."""

    cache: FilePath  # folder made by `grkd cache build`; the teacher's weights are not needed


@dataclass(frozen=True, kw_only=True)
class ModelOfSeveral(Model):
    """One of several teachers, loaded in this process."""

    label: Text | None = None  # name in reports; null: the last part of the model's name
    weight: Positive = 1.0  # weight of its votes and of its log-probabilities
    only: dict[str, Any] = field(default_factory=dict)  # use it only for records with this column value; empty: all


@dataclass(frozen=True, kw_only=True)
class ServedOfSeveral(ServedModel):
    """One of several teachers, behind a server."""

    label: Text | None = None  # name in reports; null: served_model
    weight: Positive = 1.0  # weight of its votes and of its log-probabilities
    only: dict[str, Any] = field(default_factory=dict)  # use it only for records with this column value; empty: all


_TELLING = {"url": "served", "self": "self", "cache": "cached"}


def _kind_of_teacher(value: Any) -> str:
    """The tag of a teacher's section, by the key that tells: a mapping of the recipe, or the section itself."""
    if isinstance(value, list):
        return "<several>"
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return next((f"<{tag}>" for key, tag in _TELLING.items() if key in keys), "<model>")


# Tags stand in pydantic's locations of mistakes; <> keeps them apart from keys.
OneOfTeachers = Annotated[
    Annotated[ModelOfSeveral, Tag("<model>")] | Annotated[ServedOfSeveral, Tag("<served>")],
    Discriminator(_kind_of_teacher),
]
Teacher = Annotated[
    Annotated[Model, Tag("<model>")]
    | Annotated[ServedModel, Tag("<served>")]
    | Annotated[SelfTeacher, Tag("<self>")]
    | Annotated[CachedTeacher, Tag("<cached>")]
    | Annotated[list[OneOfTeachers], Tag("<several>")],
    Discriminator(_kind_of_teacher),
]


@dataclass(frozen=True, kw_only=True)
class Student(Section):
    """The language model to train. Give one of `model`, `layers` and `config`."""

    model: ModelPath | None = None  # a pretrained student: hub name, local folder or GGUF file
    layers: list[Annotated[int, Field(ge=0)]] | None = None  # keep these layers of the teacher: rising numbers from 0
    config: dict[str, Any] | None = None  # random weights; the teacher's config with these fields changed
    gguf_file: str | None = None  # name of a GGUF file inside the folder or repository
    revision: str | None = None  # branch, tag or commit on the hub
    dtype: Dtype = "auto"  # dtype of training; auto: float32 on a CPU, bfloat16 autocast with float32 weights on a GPU
    trust_remote_code: bool = False  # run code from the model's repository
    lora: Lora | None = None  # train adapters instead of all weights


@dataclass(frozen=True, kw_only=True)
class Prompts(Section):
    """Records of prompts or conversations (docs/guide/data.md). Give `train` or `dataset`."""

    train: FilePath | None = None  # file of training records: JSONL, Parquet, JSON, CSV or TSV
    heldout: FilePath | None = None  # file of held-out records; null: heldout_fraction of train
    dataset: ModelPath | None = None  # instead of train: hub name or local folder, read by the package `datasets`
    name: str | None = None  # configuration of the dataset
    split: Text | None = None  # training split of the dataset; null: train
    heldout_split: str | None = None  # held-out split of the dataset
    streaming: bool = False  # stream the dataset instead of downloading it
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the prompts, without heldout or heldout_split
    train_on_turns: Literal["all", "last"] = "all"  # train on all assistant turns of a conversation, or on the last
    system: str | None = None  # system message for every prompt
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # template variables: {enable_thinking: false}
    max_prompt_tokens: Count = 1800  # longer prompts are skipped and counted
    limit: Count | None = None  # use only this many training records, from the start

    @property
    def source(self) -> str:
        """Where the training records come from, as errors name it."""
        return self.train or f"{self.dataset}, split {self.train_split}"

    @property
    def train_split(self) -> str:
        return self.split or "train"


@dataclass(frozen=True, kw_only=True)
class Mixture(Section):
    """How many of a group's responses come from each source."""

    teacher: Annotated[int, Field(ge=0)] = 0  # sampled from the teacher
    student: Annotated[int, Field(ge=0)] = 0  # sampled from the student
    data: Annotated[int, Field(ge=0)] = 0  # taken from the record


@dataclass(frozen=True, kw_only=True)
class Responses(Section):
    """The responses to train on: groups of `n` responses per prompt.

    With when: in_training, methods that compare responses learn from fresh groups: at every step the student samples n
    responses per prompt at temperature 1, and score.rankers order them. Other on-policy methods sample n responses too.
    Responses sampled before training then serve evaluation, the other methods, and stored_share of the prompts.
    """

    source: Literal["teacher", "student", "data", "mixture"] = "teacher"  # who writes the responses before training
    n: GroupSize = 1  # responses per prompt; the numbers of a mixture add up to it
    candidates: GroupSize | None = None  # sample this many responses and keep the n most different; null: n
    mixture: Mixture | None = None  # source: mixture: number of responses from each source
    max_new_tokens: Count = 256  # longest response in tokens
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0  # sampling temperature before training; 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95  # nucleus sampling before training; 1: off
    batch_size: Count | None = None  # responses generated at a time; null: what fits a GPU's memory, 16 on a CPU
    shard_size: Count = 64  # prompts per file; complete files are kept after an interruption
    when: Literal["before", "in_training"] = "before"  # sample only before training, or also in every step
    stored_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in_training: share of prompts that use stored groups
    use_vllm: bool = False  # in_training: sample with vLLM, in the training process


@dataclass(frozen=True, kw_only=True)
class Score(Section):
    """The teacher's signal: scores of tokens, and the order of responses."""

    # scores of tokens: store the teacher's hidden states once (cache), or run the teacher in every step (live)
    signal: Literal["cache", "live"] = "cache"
    batch_size: Count = 8  # responses scored at a time
    # short form for a single ranker of responses; null without rankers: log_prob
    reward: Literal["log_prob", "calibrated", "choice", "data"] | None = None
    # reward: calibrated: weight of the log-probability; null: 0.8
    calibration: Annotated[float, Field(ge=0, le=1)] | None = None
    # who orders the responses of a prompt: names or mappings {name, label, weight, options...} (docs/guide/rankers.md)
    rankers: Rankers | None = None
    combine: Combine | None = None  # how several rankers are combined; null: weights, or votes for several teachers
    # learn from a teacher with another vocabulary: only the order of responses, or also tokens at aligned positions
    # (docs/guide/tokenizers.md)
    other_vocabulary: Literal["responses", "tokens"] = "responses"
    # several teachers, grkd's pairs of tokens: order by mean log-probability, votes on each pair, or only pairs on
    # which all agree (docs/guide/several-teachers.md)
    token_order: Literal["log_probs", "votes", "unanimous"] = "log_probs"


@dataclass(frozen=True, kw_only=True)
class LanguageEvaluation(Section):
    """Rank fidelity on held-out responses, sample answers, and questions with one right answer.

    Rank metrics are computed in float32; text is generated in bfloat16 on a GPU (or in student.dtype).
    """

    top_k: Annotated[int, Field(ge=2)] = 16  # rank metrics are computed over the teacher's top k tokens
    questions: FilePath | None = None  # JSONL of {"question", "answer"}, graded by exact match
    answer_tokens: Count = 256  # longest answer to a question, in tokens
    answer_batch_size: Count = 64  # questions answered at a time
    batch_size: Count = 8  # responses measured at a time
    samples: Whole = 4  # number of sample answers in the report
    sample_tokens: Count = 64  # longest sample answer in tokens
    # price of this machine per hour, in any currency; the report then shows a price per million tokens
    price_per_hour: Positive | None = None
    teacher_price: Positive | None = None  # price per million tokens of a teacher behind an API
    # questions that the student answers at intervals during training, as exact match over time
    # (train/<student>/curve.jsonl); not trained on, and their time is not counted
    curve_questions: FilePath | None = None
    curve_every: Count = 100  # optimiser steps between two points of the curve
    curve_points: Count | None = None  # instead of curve_every: number of evenly spaced points after the start


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(Section):
    """Distil a language model."""

    task: Literal["language_model"]  # the kind of student
    output: FilePath  # folder of the run's results
    teacher: Teacher  # the model to learn from, or a list of several
    student: Student  # the model to train
    data: Prompts  # training and held-out prompts
    methods: list[Method]  # names, or mappings {name, label, options...}; each is trained with every seed
    title: str | None = None  # title of the report
    seeds: list[Seed] = field(default_factory=lambda: [0])  # one training per method and seed
    device: Device = "auto"  # auto: a GPU if there is one
    responses: Responses = field(default_factory=Responses)  # which responses are trained on
    score: Score = field(default_factory=Score)  # the teacher's signal and the rankers
    training: Training = field(default_factory=Training)  # optimiser settings
    evaluation: LanguageEvaluation = field(default_factory=LanguageEvaluation)  # what is measured
    search: Search | None = None  # `grkd compare`: the search of settings before the final runs
