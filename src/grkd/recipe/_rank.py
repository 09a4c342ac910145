"""The recipe of a ranker of lists: every key that it may have, its type and its default."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from grkd.recipe._sections import (
    Combine,
    Count,
    Device,
    FilePath,
    IsPath,
    Method,
    ModelPath,
    Positive,
    Search,
    Section,
    Seed,
    Text,
    Training,
)


@dataclass(frozen=True, kw_only=True)
class RankData(Section):
    """Lists of candidates (docs/guide/lists.md). Give one of `train`, `dataset` and `folder`."""

    train: FilePath | None = None  # file of queries, candidates and their order: JSONL, Parquet or JSON
    heldout: FilePath | None = None  # held-out file; null: heldout_fraction of the queries
    dataset: ModelPath | None = None  # instead of train: hub name or local folder, read by the package `datasets`
    name: str | None = None  # configuration of the dataset
    heldout_split: str | None = None  # held-out split of the dataset
    folder: FilePath | None = None  # instead of train: a retrieval set (corpus.jsonl, queries.jsonl, qrels)
    split: Text | None = None  # dataset: training split, null: train; folder: column of split.tsv, null: the first
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the queries, if no held-out data are given
    pool: Literal["mined", "judged"] = "mined"  # folder: mine candidates from the corpus, or use the judged documents
    candidates: Annotated[int, Field(ge=2)] = 32  # mined candidates per query
    dense_model: ModelPath | None = None  # bi-encoder that mines half of the candidates; BM25 mines the others
    limit: Count | None = None  # use only this many queries of each part, from the start

    @property
    def train_split(self) -> str:
        return self.split or "train"


@dataclass(frozen=True, kw_only=True)
class RankServed(Section):
    """A language model behind an OpenAI-compatible API that orders the candidates."""

    url: Text  # the server's address, such as http://localhost:8000/v1
    model: Text  # the model's name on the server
    key_env: Text | None = None  # environment variable with the key; null: OPENAI_API_KEY
    concurrency: Count = 8  # requests at a time
    timeout_seconds: Positive = 120.0  # longest wait for one answer


@dataclass(frozen=True, kw_only=True)
class RankTeacher(Section):
    """Who orders the candidates: `models`, a `served` language model, the order in the data, or several of these."""

    # bi-encoders or cross-encoders of sentence-transformers, sequence classification models with one score, or causal
    # language models
    models: Annotated[list[str], IsPath("model")] = field(default_factory=list)
    served: RankServed | None = None  # a language model behind an API
    # language models: ask whether each candidate answers the query, or ask for the order of a window of candidates,
    # which then moves up the list
    asks: Literal["yes_no", "permutation"] = "yes_no"
    window: Annotated[int, Field(ge=2)] = 20  # permutation: candidates per prompt
    stride: Count = 10  # permutation: places by which the window moves up
    from_data: bool | None = None  # use the scores, order, tiers or grades in the data; null: if there is no model
    combine: Combine | None = None  # how several teachers are combined; null: weights
    says: Literal["scores", "order"] = "scores"  # order: students see only the order of the scores
    top: Count | None = None  # students see only this many first places; the other candidates share the last place
    places_as_scores: bool = False  # if the teacher gives an order, methods that need scores get -log(place)
    # a bi-encoder's score is scale * cosine, as the student's; models made for dot products or distances use those
    scale: Positive = 20.0
    prompt: Text | None = None  # yes_no: the prompt, with {query} and {document}
    max_tokens: Count = 256  # longer texts are truncated
    batch_size: Count = 64  # texts or pairs scored at a time

    @property
    def is_named(self) -> bool:
        """Whether a model is asked, here or behind an API."""
        return bool(self.models) or self.served is not None


Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


@dataclass(frozen=True, kw_only=True)
class RankStudent(Section):
    """The ranker to train: a small tower of word embeddings for CPUs, or a transformers encoder."""

    model: ModelPath = "tower"  # tower, or a transformers hub name or folder
    # transformers models: embed query and document separately (bi_encoder), or read both together (cross_encoder)
    kind: Literal["bi_encoder", "cross_encoder"] = "bi_encoder"
    dimensions: Width = 128  # tower: size of the embedding
    hidden: list[Width] = field(default_factory=list)  # tower: widths of tanh layers between words and embedding
    words: Count = 20_000  # tower: vocabulary of the most frequent words
    pieces: Annotated[int, Field(ge=0)] = 0  # tower: number of word pieces for unknown words; 0: ignore unknown words
    # tower: hash words to this number of rows, such as 65536, instead of a vocabulary; 0: off
    buckets: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    scale: Positive = 20.0  # a bi-encoder's score is scale * cosine
    max_tokens: Count = 128  # transformers models: longer texts are truncated


@dataclass(frozen=True, kw_only=True)
class RankEvaluation(Section):
    """NDCG, recall, MRR and MAP over the held-out queries' candidates, and over the whole corpus if there is one."""

    corpus: bool = True  # also rank the whole corpus of a folder
    batch_size: Count = 256  # texts or pairs at a time
    # price of this machine per hour, in any currency; the report then shows a price per million queries
    price_per_hour: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class RankRecipe(Section):
    """Distil a ranker of documents, passages, products or labels."""

    task: Literal["rank"]  # the kind of student
    output: FilePath  # folder of the run's results
    data: RankData  # training and held-out lists
    methods: list[Method]  # names, or mappings {name, label, options...}; each is trained with every seed
    teacher: RankTeacher = field(default_factory=RankTeacher)  # who orders the candidates
    student: RankStudent = field(default_factory=RankStudent)  # the ranker to train
    title: str | None = None  # title of the report
    seeds: list[Seed] = field(default_factory=lambda: [0])  # one training per method and seed
    device: Device = "auto"  # auto: a GPU if there is one
    training: Training = field(default_factory=Training)  # optimiser settings
    evaluation: RankEvaluation = field(default_factory=RankEvaluation)  # what is measured
    search: Search | None = None  # `grkd compare`: the search of settings before the final runs
