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

    r: Count = 16
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 32.0
    dropout: Fraction = 0.0
    target_modules: str | list[str] = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Model(Section):
    """A language model: hub name, local folder, or a GGUF file inside either."""

    model: ModelPath
    gguf_file: str | None = None
    revision: str | None = None
    # auto: float32 on a CPU, bfloat16 on a GPU; float8: linear layers in 8 bits, the rest in bfloat16, on newer GPUs
    dtype: Dtype | Literal["float8"] = "auto"
    trust_remote_code: bool = False
    placement: Literal["whole", "sharded", "offloaded"] = "whole"  # of its weights: docs/guide/several-gpus.md


@dataclass(frozen=True, kw_only=True)
class ServedModel(Section):
    """A teacher behind an OpenAI-compatible server, such as vLLM. Its key comes from the environment alone."""

    url: Text  # such as http://127.0.0.1:8000/v1
    served_model: Text  # its name there
    model: ModelPath | None = None  # the same model on this machine: the first responses are compared with it
    tokenizer: ModelPath | None = None  # the served model's; null: that of `model`, else the student's
    log_probs: bool = True  # the server gives log-probabilities of prompts, as vLLM does; false: text alone
    top_k: Count = 20  # likeliest tokens that token-level methods learn from; vLLM's --max-logprobs must allow it
    tolerance_nats: Positive = 0.1  # per token: largest difference between the server and `model`
    key_env: Text | None = None  # environment variable with the key; null: OPENAI_API_KEY, if the server wants one
    concurrency: Count = 8  # requests at a time, of all processes of a launch; one each at least
    timeout_seconds: Positive = 600.0  # longest wait for one answer
    max_requests: Count | None = None  # most requests per command, retries included; its processes share them


@dataclass(frozen=True, kw_only=True)
class SelfTeacher(Section):
    """The student before training, which is shown more than the student will be: a solution, say, or instructions.

    One of context and system, or both: their texts stand in this order, behind the recipe's or the record's own.
    """

    self: Literal[True]
    context: Text | None = None  # column of the records whose text the teacher reads as a system message
    system: Text | None = None  # a system message that the teacher reads with every record


@dataclass(frozen=True, kw_only=True)
class CachedTeacher(Section):
    """A cache of ranks in place of the teacher: its prompts' responses and the teacher's order of their tokens."""

    cache: FilePath  # folder of `grkd cache build`; no weight of the teacher is needed here


@dataclass(frozen=True, kw_only=True)
class ModelOfSeveral(Model):
    """One of several teachers, in this process."""

    label: Text | None = None  # its name in reports; null: the last part of its model's name
    weight: Positive = 1.0  # of its votes, and of its log-probabilities
    only: dict[str, Any] = field(default_factory=dict)  # column and value of the records that it teaches; empty: all


@dataclass(frozen=True, kw_only=True)
class ServedOfSeveral(ServedModel):
    """One of several teachers, behind a server."""

    label: Text | None = None  # its name in reports; null: served_model
    weight: Positive = 1.0  # of its votes, and of its log-probabilities
    only: dict[str, Any] = field(default_factory=dict)  # column and value of the records that it teaches; empty: all


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
    """A language model to train: `model`, or `layers` cut from the teacher, or `config` (fresh, like the teacher's)."""

    model: ModelPath | None = None
    layers: list[Annotated[int, Field(ge=0)]] | None = None  # the teacher's layers to keep, from 0, rising
    config: dict[str, Any] | None = None  # the teacher's config with these fields changed, random weights
    gguf_file: str | None = None
    revision: str | None = None
    dtype: Dtype = "auto"  # of training: auto is float32 on a CPU, bfloat16 autocast over float32 weights on a GPU
    trust_remote_code: bool = False
    lora: Lora | None = None


@dataclass(frozen=True, kw_only=True)
class Prompts(Section):
    """Records of conversations (docs/guide/data.md): a file (JSONL, Parquet, JSON, CSV) or a `dataset` by name."""

    train: FilePath | None = None
    heldout: FilePath | None = None
    dataset: ModelPath | None = None  # instead of train: a name on the hub or a local folder, read by `datasets`
    name: str | None = None  # the dataset's configuration
    split: Text | None = None  # of the dataset; null: train
    heldout_split: str | None = None  # of the dataset, instead of a heldout file
    streaming: bool = False  # read the dataset without a copy on disk
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the prompts, without heldout or heldout_split
    train_on_turns: Literal["all", "last"] = "all"  # every assistant turn of a conversation is learnt, or the last
    system: str | None = None  # a system message before every prompt
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # such as {enable_thinking: false}
    max_prompt_tokens: Count = 1800  # longer prompts are dropped and counted
    limit: Count | None = None  # use only the first records of train

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

    teacher: Annotated[int, Field(ge=0)] = 0
    student: Annotated[int, Field(ge=0)] = 0
    data: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Responses(Section):
    """Groups of `n` responses per prompt: sampled from the teacher or the student, taken from the data, or a mixture.

    when: in_training: methods that compare responses learn from groups of n that the student samples at every step,
    at temperature 1, and score.rankers order; on-policy methods that compare none sample n, too. The groups made before
    training then serve evaluation, the other methods, and stored_share of the prompts. temperature, top_p: of those.
    """

    source: Literal["teacher", "student", "data", "mixture"] = "teacher"
    n: GroupSize = 1  # responses per prompt; a mixture's numbers add up to it
    candidates: GroupSize | None = None  # sampled per prompt, of which the n most different are kept; null: n
    mixture: Mixture | None = None
    max_new_tokens: Count = 256
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0  # 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    batch_size: Count | None = None  # responses generated at a time; null: what a GPU's memory holds, 16 on a CPU
    shard_size: Count = 64  # prompts per file; complete shards survive a kill
    when: Literal["before", "in_training"] = "before"
    stored_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in_training: prompts that keep their stored groups
    use_vllm: bool = False  # vLLM, in the training's process, samples what is sampled in training


@dataclass(frozen=True, kw_only=True)
class Score(Section):
    """The teacher's signal. signal: of tokens, its hidden states stored once ("cache"), or run in every step ("live").

    rankers: who orders the responses of a prompt (grkd.rankers): names, or mappings {name, label, weight, options...}.
    combine: several rankers' orders into one. reward: one ranker by name, the short form.
    other_vocabulary: what is learnt from a teacher of another vocabulary: the order of responses alone, or tokens too,
    at the places where both tokenisations meet (docs/guide/tokenizers.md).
    token_order: of several teachers, for grkd's pairs of tokens: the order of their mean log-probability, votes on each
    pair, or the pairs on which all agree (docs/guide/several-teachers.md).
    """

    signal: Literal["cache", "live"] = "cache"
    batch_size: Count = 8
    reward: Literal["log_prob", "calibrated", "choice", "data"] | None = None  # null without rankers: log_prob
    # Share of the log-probability in reward: calibrated; null: 0.8.
    calibration: Annotated[float, Field(ge=0, le=1)] | None = None
    rankers: Rankers | None = None
    combine: Combine | None = None  # of rankers; null: weights, of several teachers votes
    other_vocabulary: Literal["responses", "tokens"] = "responses"
    token_order: Literal["log_probs", "votes", "unanimous"] = "log_probs"


@dataclass(frozen=True, kw_only=True)
class LanguageEvaluation(Section):
    """Rank fidelity on the held-out responses, sample answers, and questions with one right answer.

    Ranks are measured in float32; text is written in bfloat16 on a GPU (or in student.dtype), also in a search.
    """

    top_k: Annotated[int, Field(ge=2)] = 16  # Kendall tau and pair accuracy over the teacher's top k tokens
    questions: FilePath | None = None  # JSONL of {"question", "answer"}: the share answered right (exact match)
    answer_tokens: Count = 256  # longest answer to them
    answer_batch_size: Count = 64
    batch_size: Count = 8
    samples: Whole = 4
    sample_tokens: Count = 64
    # What an hour of this machine costs, in any currency: the report then has a price per million tokens.
    price_per_hour: Positive | None = None
    teacher_price: Positive | None = None  # per million tokens, of a teacher behind an API
    # Questions that a student answers while it is trained, every so many steps: exact match over training's time
    # (train/<student>/curve.jsonl). They train nothing; their time is not counted.
    curve_questions: FilePath | None = None
    curve_every: Count = 100
    curve_points: Count | None = None  # instead of curve_every: so many, evenly over training, beside the start


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(Section):
    """Distil a language model."""

    task: Literal["language_model"]
    output: FilePath
    teacher: Teacher
    student: Student
    data: Prompts
    methods: list[Method]
    title: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0])
    device: Device = "auto"
    responses: Responses = field(default_factory=Responses)
    score: Score = field(default_factory=Score)
    training: Training = field(default_factory=Training)
    evaluation: LanguageEvaluation = field(default_factory=LanguageEvaluation)
    search: Search | None = None
