"""A run, as typed dataclasses: every key that a recipe may have, its type and its default.

Over 300 lines: one class per section of a recipe, looked for in one place.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from grkd.recipe._words import WHOLE_BELOW

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=WHOLE_BELOW)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0, le=1e3)]  # a learning rate
Epochs = Annotated[float, Field(gt=0, le=1e6)]
GroupSize = Annotated[int, Field(ge=1, le=4096)]
Whole = Annotated[int, Field(ge=0, lt=WHOLE_BELOW)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class IsPath:
    """Marks text that is a path: always ("file"), or if it is not a hub name ("model") or a network's ("network").

    "rankers" marks a list of rankers: the model of a reward_model in it is one.
    """

    kind: Literal["file", "model", "network", "rankers"]


FilePath = Annotated[str, Field(min_length=1), IsPath("file")]
ModelPath = Annotated[str, Field(min_length=1), IsPath("model")]
NetworkPath = Annotated[str, Field(min_length=1), IsPath("network")]
Combine = Literal["weights", "sum", "lexicographic", "votes"]
Rankers = Annotated[list[str | dict[str, Any]], IsPath("rankers")]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

BUILT_IN_NETWORKS = ("mlp", "cnn")


@dataclass(frozen=True, kw_only=True)
class Section:
    """What every part of a recipe is: no unknown keys, no conversion between types, finite numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Method(Section):
    """A method and its options; `label` names it in tables (default: its name), so that one method can run twice.

    rankers, combine: who orders the groups that this method samples in training; null: score.rankers.
    """

    name: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    rankers: Rankers | None = None
    combine: Combine | None = None


@dataclass(frozen=True, kw_only=True)
class Lora(Section):
    """Train low-rank adapters (peft) instead of all weights; they are merged into the saved student."""

    r: Count = 16
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 32.0
    dropout: Fraction = 0.0
    target_modules: str | list[str] = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """One optimiser run; lengths in optimiser steps, `batch_size` in examples a device and micro-batch."""

    epochs: Epochs = 1.0
    steps: Count | None = None  # instead of epochs
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    learning_rate: Rate = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: Fraction = 0.1  # share of the steps
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    max_grad_norm: NonNegative = 1.0
    # Compute layers twice, which takes less memory; auto: of language models, where the GPU's memory is too small.
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    # On-policy methods sample for so many optimiser steps at once, before the first of them: faster, and for the later
    # steps from a student some steps old. minillm's importance weights account for that; gkd and grkd have none.
    steps_per_generation: Count = 1
    fused_head: bool | None = None  # loss from hidden states, without whole logits; null: on a GPU
    # Language models: the responses of a micro-batch in one row without padding, in passes of at most so many tokens.
    tokens_per_batch: Count | None = None  # null: padded batches
    compile: bool | Literal["auto"] = "auto"  # language models: compile the layers; auto: on a GPU, if that pays
    log_every: Count = 10
    save_every: Count = 200  # steps between checkpoints, which are for going on after a kill
    report_to: str | list[str] = "none"
    extra: dict[str, Any] = field(default_factory=dict)  # any other field of transformers.TrainingArguments


@dataclass(frozen=True, kw_only=True)
class Model(Section):
    """A language model: hub name, local folder, or a GGUF file inside either."""

    model: ModelPath
    gguf_file: str | None = None
    revision: str | None = None
    dtype: Dtype = "auto"  # auto: float32 on a CPU, bfloat16 on a GPU
    trust_remote_code: bool = False
    placement: Literal["whole", "sharded", "offloaded"] = "whole"  # of several GPUs: docs/guide/several-gpus.md


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
    concurrency: Count = 8  # requests at a time
    timeout_seconds: Positive = 600.0  # longest wait for one answer
    max_requests: Count | None = None  # most requests per command, retries included


@dataclass(frozen=True, kw_only=True)
class SelfTeacher(Section):
    """The student before training, which is shown more than the student will be: a solution, say, or instructions."""

    self: Literal[True]
    context: Text  # column of the records whose text the teacher reads as a system message


def _kind_of_teacher(value: Any) -> str:
    """The tag of a teacher's section, by the key that tells: a mapping of the recipe, or the section itself."""
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "<served>" if "url" in keys else "<self>" if "self" in keys else "<model>"


# Tags stand in pydantic's locations of mistakes; <> keeps them apart from keys.
Teacher = Annotated[
    Annotated[Model, Tag("<model>")] | Annotated[ServedModel, Tag("<served>")] | Annotated[SelfTeacher, Tag("<self>")],
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
    candidates: GroupSize | None = None  # sampled a prompt, of which the n most different are kept; null: n
    mixture: Mixture | None = None
    max_new_tokens: Count = 256
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0  # 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    batch_size: Count | None = None  # responses generated at a time; null: what a GPU's memory holds, 16 on a CPU
    shard_size: Count = 64  # prompts per file; complete shards survive a kill
    when: Literal["before", "in_training"] = "before"
    stored_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in_training: prompts that keep their stored groups


@dataclass(frozen=True, kw_only=True)
class Score(Section):
    """The teacher's signal. signal: of tokens, its hidden states stored once ("cache"), or run in every step ("live").

    rankers: who orders the responses of a prompt (grkd.rankers): names, or mappings {name, label, weight, options...}.
    combine: several rankers' orders into one. reward: one ranker by name, the short form.
    """

    signal: Literal["cache", "live"] = "cache"
    batch_size: Count = 8
    reward: Literal["log_prob", "calibrated", "choice", "data"] | None = None  # null without rankers: log_prob
    # Share of the log-probability in reward: calibrated; null: 0.8.
    calibration: Annotated[float, Field(ge=0, le=1)] | None = None
    rankers: Rankers | None = None
    combine: Combine | None = None  # of rankers; null: weights


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
    # Questions that a student answers while it is trained, every so many steps: exact match over training's time
    # (train/<student>/curve.jsonl). They train nothing; their time is not counted.
    curve_questions: FilePath | None = None
    curve_every: Count = 100


@dataclass(frozen=True, kw_only=True)
class ClassifierModel(Section):
    """A classifier: "mlp" or "cnn" (built in), "package.module:factory", a transformers hub name or folder."""

    model: NetworkPath
    options: dict[str, Any] = field(default_factory=dict)  # of the built-in network or the factory
    training: Training | None = None  # of the teacher: train it first on the labels; None: it is loaded as it is
    weights: FilePath | None = None  # a safetensors file for built-in networks and factories

    @property
    def has_factory(self) -> bool:
        """Built in, or made by a factory: no transformers model."""
        return self.model in BUILT_IN_NETWORKS or (":" in self.model and "/" not in self.model)


CifarLabels = Literal["clean", "aggregate", "random1", "random2", "random3", "worst"]


@dataclass(frozen=True, kw_only=True)
class ClassifierData(Section):
    """One of: `dataset` (digits is built in, of the others the user gives the `folder`: see grkd.data.known_sets),
    `train` (CSV or JSONL of text and label), `image_folder` (class/file)."""

    dataset: Literal["digits", "cifar10", "tiny_imagenet32", "banking77", "clinc150"] | None = None
    folder: FilePath | None = None  # of a dataset that is not built in
    labels: CifarLabels = "clean"  # cifar10: the students' training labels; others are people's, with their mistakes
    teacher_labels: CifarLabels | None = None  # cifar10: the teacher's; null: the same
    train: FilePath | None = None
    heldout: FilePath | None = None
    image_folder: FilePath | None = None  # with train/ and heldout/ inside, or one folder a class
    text: str = "text"  # column names
    label: str = "label"
    features: Literal["tokens", "tfidf"] = "tokens"  # how text reaches networks that are no transformers models
    image_size: Annotated[int, Field(ge=1, le=4096)] = 32
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    max_tokens: Count = 128
    limit: Count | None = None  # use only this many training examples (drawn with the seed, classes in their shares)
    copies: Annotated[int, Field(ge=0, le=10_000)] = (
        0  # texts: of each, with words left out, which the teacher scores too
    )
    word_dropout: Fraction = 0.2  # how likely a word is left out of a copy
    student_limit: Count | None = None  # students see only this many of them, drawn anew for each seed; the teacher all


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(Section):
    """groups: name -> classes that look alike, such as breeds of dog; accuracy is also measured inside each."""

    batch_size: Count = 256
    groups: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Search(Section):
    """What `grkd compare` tries for every method before the final runs: the same number of trials for all.

    learning_rate and options (a method's label -> its option -> values) are lists of values. Trials are measured on a
    validation part of the training data; final runs train on all of it. A classifier's teacher that is trained here
    never sees the validation part. metric: null takes the task's own.
    """

    trials: Annotated[int, Field(ge=1, le=10_000)] = 6
    learning_rate: list[Rate] = field(default_factory=list)  # empty: training.learning_rate alone
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    metric: Text | None = None
    questions: FilePath | None = None  # language models, metric exact_match: JSONL of {"question", "answer"}
    steps_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # language models: share of a trial's steps
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1


@dataclass(frozen=True, kw_only=True)
class Lockstep(Section):
    """How networks on data in memory are trained: on the device, several students together on the same batches."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Fraction = 0.9  # of sgd, Nesterov's
    augment: bool = False  # images: random crops (after padding by 4 pixels) and flips, which the teacher sees too
    students: Count = 16  # trained together, at most
    search_epochs: Epochs | None = None  # of a trial; null: as training
    prune: bool = True  # half-way, trials below the median of those that have ended stop
    teachers: FilePath | None = None  # folder where trained teachers are kept for other recipes; null: the output


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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    responses: Responses = field(default_factory=Responses)
    score: Score = field(default_factory=Score)
    training: Training = field(default_factory=Training)
    evaluation: LanguageEvaluation = field(default_factory=LanguageEvaluation)
    search: Search | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Section):
    """Distil a classifier."""

    task: Literal["classifier"]
    output: FilePath
    teacher: ClassifierModel
    student: ClassifierModel
    data: ClassifierData
    methods: list[Method]
    title: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0])
    device: Literal["auto", "cpu", "cuda"] = "auto"
    training: Training = field(default_factory=Training)
    evaluation: ClassifierEvaluation = field(default_factory=ClassifierEvaluation)
    search: Search | None = None
    lockstep: Lockstep = field(default_factory=Lockstep)
    keep: Literal["best", "all"] = "best"  # in best/: the best student; all: each method's best seed, too


@dataclass(frozen=True, kw_only=True)
class RankData(Section):
    """Lists: `train` (JSONL of query, candidates and their order), or `folder`, a retrieval set whose candidates are
    mined (corpus.jsonl, queries.jsonl, qrels; see docs/guide/lists.md)."""

    train: FilePath | None = None
    heldout: FilePath | None = None
    folder: FilePath | None = None  # instead of train
    split: Text | None = None  # of the folder: the column of split.tsv; null: the first
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the queries, if nothing else says which
    pool: Literal["mined", "judged"] = "mined"  # of a folder: candidates from the corpus, or those with a judgement
    candidates: Annotated[int, Field(ge=2)] = 32  # mined per query
    dense_model: ModelPath | None = None  # mines half of the candidates (the other half: BM25)
    limit: Count | None = None  # use only the first queries of each part


@dataclass(frozen=True, kw_only=True)
class RankTeacher(Section):
    """Who orders the candidates: `models`, the data's own word, or both.

    models: sentence-transformers bi-encoders or cross-encoders, sequence classification models with one score, causal
    language models (asked whether the candidate answers the query). combine: several teachers' orders into one.
    """

    models: Annotated[list[str], IsPath("model")] = field(default_factory=list)
    from_data: bool | None = None  # the lists' own scores, order, tiers or grades; null: if there are no models
    combine: Combine | None = None  # null: weights
    says: Literal["scores", "order"] = "scores"  # order: of its scores the students see no more than places
    top: Count | None = None  # of an order: only the first places; the other candidates share the last one
    places_as_scores: bool = False  # methods that need scores get -log(place) where the teacher gives an order
    scale: Positive = 20.0  # a bi-encoder's score is this times the cosine, as the student's
    prompt: Text | None = None  # of a language model, with {query} and {document}
    max_tokens: Count = 256
    batch_size: Count = 64


@dataclass(frozen=True, kw_only=True)
class RankStudent(Section):
    """ "tower": words of the training texts, embedded, averaged and projected, for CPUs; or a transformers encoder.

    kind: of a transformers model: a bi-encoder embeds query and document apart, a cross-encoder reads both together.
    """

    model: ModelPath = "tower"
    kind: Literal["bi_encoder", "cross_encoder"] = "bi_encoder"
    dimensions: Count = 128  # of a tower's embeddings
    hidden: list[Count] = field(default_factory=list)  # of a tower: widths of tanh layers between words and embedding
    words: Count = 20_000  # of a tower: the most frequent words of the training texts
    scale: Positive = 20.0  # a bi-encoder's score is this times the cosine
    max_tokens: Count = 128  # of a transformers model


@dataclass(frozen=True, kw_only=True)
class RankEvaluation(Section):
    """NDCG, recall, MRR and MAP over the held-out queries' candidates, and over the whole corpus if there is one."""

    corpus: bool = True
    batch_size: Count = 256  # texts or pairs at a time


@dataclass(frozen=True, kw_only=True)
class RankRecipe(Section):
    """Distil a ranker of documents, passages, products or labels."""

    task: Literal["rank"]
    output: FilePath
    data: RankData
    methods: list[Method]
    teacher: RankTeacher = field(default_factory=RankTeacher)
    student: RankStudent = field(default_factory=RankStudent)
    title: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0])
    device: Literal["auto", "cpu", "cuda"] = "auto"
    training: Training = field(default_factory=Training)
    evaluation: RankEvaluation = field(default_factory=RankEvaluation)
    search: Search | None = None


Recipe = LanguageRecipe | ClassifierRecipe | RankRecipe
