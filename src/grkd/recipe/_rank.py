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
    """Lists (docs/guide/lists.md), one of: `train`, a file of records of a query, its candidates and their order;
    `dataset`, such records by name; `folder`, a retrieval set whose candidates are mined."""

    train: FilePath | None = None  # JSONL, Parquet or JSON
    heldout: FilePath | None = None
    dataset: ModelPath | None = None  # instead of train: a name on the hub or a local folder, read by `datasets`
    name: str | None = None  # the dataset's configuration
    heldout_split: str | None = None  # of the dataset, instead of a heldout file
    folder: FilePath | None = None  # instead of train: corpus.jsonl, queries.jsonl, qrels
    split: Text | None = None  # of a dataset: null: train; of a folder: the column of split.tsv, null: the first
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the queries, if nothing else says which
    pool: Literal["mined", "judged"] = "mined"  # of a folder: candidates from the corpus, or those with a judgement
    candidates: Annotated[int, Field(ge=2)] = 32  # mined per query
    dense_model: ModelPath | None = None  # mines half of the candidates (the other half: BM25)
    limit: Count | None = None  # use only the first queries of each part

    @property
    def train_split(self) -> str:
        return self.split or "train"


@dataclass(frozen=True, kw_only=True)
class RankServed(Section):
    """A language model behind an OpenAI-compatible API that orders the candidates."""

    url: Text  # such as http://localhost:8000/v1
    model: Text  # as the server calls it
    key_env: Text | None = None  # environment variable with the key; null: OPENAI_API_KEY
    concurrency: Count = 8  # requests at a time
    timeout_seconds: Positive = 120.0  # of one request


@dataclass(frozen=True, kw_only=True)
class RankTeacher(Section):
    """Who orders the candidates: `models`, a `served` language model, the data's own word, or several of them.

    models: sentence-transformers bi-encoders or cross-encoders, sequence classification models with one score, causal
    language models. combine: several teachers' orders into one.
    asks: of language models: "yes_no", whether a candidate answers the query, one at a time; "permutation", the order
    of a window of candidates, which then moves up the list.
    """

    models: Annotated[list[str], IsPath("model")] = field(default_factory=list)
    served: RankServed | None = None  # a language model behind an API
    asks: Literal["yes_no", "permutation"] = "yes_no"  # of language models
    window: Annotated[int, Field(ge=2)] = 20  # candidates in a prompt that asks for a permutation
    stride: Count = 10  # places by which the window moves up
    from_data: bool | None = None  # the lists' own scores, order, tiers or grades; null: if there are no models
    combine: Combine | None = None  # null: weights
    says: Literal["scores", "order"] = "scores"  # order: of its scores the students see no more than places
    top: Count | None = None  # of an order: only the first places; the other candidates share the last one
    places_as_scores: bool = False  # methods that need scores get -log(place) if the teacher gives an order
    # A bi-encoder's score is this times the cosine, as the student's; one made for dot products or distances has those.
    scale: Positive = 20.0
    prompt: Text | None = None  # of asks: yes_no, with {query} and {document}
    max_tokens: Count = 256
    batch_size: Count = 64

    @property
    def is_named(self) -> bool:
        """Whether a model is asked, here or behind an API."""
        return bool(self.models) or self.served is not None


Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


@dataclass(frozen=True, kw_only=True)
class RankStudent(Section):
    """ "tower": words of the training texts, embedded, averaged and projected, for CPUs; or a transformers encoder.

    kind: of a transformers model: a bi-encoder embeds query and document apart, a cross-encoder reads both together.
    """

    model: ModelPath = "tower"
    kind: Literal["bi_encoder", "cross_encoder"] = "bi_encoder"
    dimensions: Width = 128  # of a tower's embeddings
    hidden: list[Width] = field(default_factory=list)  # of a tower: widths of tanh layers between words and embedding
    words: Count = 20_000  # of a tower: the most frequent words of the training texts
    pieces: Annotated[int, Field(ge=0)] = 0  # of a tower: frequent pieces that other words are read in; 0: not read
    # Of a tower without a vocabulary: rows that words are hashed to, such as 65536; 0: it has a vocabulary.
    buckets: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    scale: Positive = 20.0  # a bi-encoder's score is this times the cosine
    max_tokens: Count = 128  # of a transformers model


@dataclass(frozen=True, kw_only=True)
class RankEvaluation(Section):
    """NDCG, recall, MRR and MAP over the held-out queries' candidates, and over the whole corpus if there is one."""

    corpus: bool = True
    batch_size: Count = 256  # texts or pairs at a time
    # What an hour of this machine costs, in any currency: the report then has a price per million queries.
    price_per_hour: Positive | None = None


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
    device: Device = "auto"
    training: Training = field(default_factory=Training)
    evaluation: RankEvaluation = field(default_factory=RankEvaluation)
    search: Search | None = None
