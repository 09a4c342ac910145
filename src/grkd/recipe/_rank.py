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
    device: Device = "auto"
    training: Training = field(default_factory=Training)
    evaluation: RankEvaluation = field(default_factory=RankEvaluation)
    search: Search | None = None
