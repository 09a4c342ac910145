"""The recipe of a classifier: every key that it may have, its type and its default."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from grkd.recipe._sections import (
    Count,
    Device,
    Epochs,
    FilePath,
    Fraction,
    Method,
    NetworkPath,
    Positive,
    Search,
    Section,
    Seed,
    Text,
    Training,
)

BUILT_IN_NETWORKS = ("mlp", "cnn")


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


@dataclass(frozen=True, kw_only=True)
class RankedLabels(Section):
    """A teacher that orders some classes of each text and gives no scores: the data's records, or a served model."""

    ranking: Text | None = None  # column of the JSONL records: classes, best first, such as ["refund", "card"]
    url: Text | None = None  # instead: of an OpenAI-compatible server, which is asked for the best classes
    served_model: Text | None = None  # its name there
    top: Count = 3  # classes that it is asked for
    key_env: Text | None = None  # environment variable with the key; null: OPENAI_API_KEY, if the server wants one
    concurrency: Count = 8  # requests at a time
    timeout_seconds: Positive = 600.0  # longest wait for one answer
    max_requests: Count | None = None  # most requests per command, retries included

    # What every teacher of classes answers: it is no model, so that nothing is trained or loaded.
    training: ClassVar[None] = None
    weights: ClassVar[None] = None
    model: ClassVar[str] = "an order of classes"
    has_factory: ClassVar[bool] = False


def _kind_of_teacher(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "<ranked>" if "ranking" in keys or "url" in keys else "<model>"


ClassTeacher = Annotated[
    Annotated[ClassifierModel, Tag("<model>")] | Annotated[RankedLabels, Tag("<ranked>")],
    Discriminator(_kind_of_teacher),
]

CifarLabels = Literal["clean", "aggregate", "random1", "random2", "random3", "worst"]


@dataclass(frozen=True, kw_only=True)
class ClassifierData(Section):
    """One of: `dataset` (digits is built in, of the others the user gives the `folder`: see grkd.data.known_sets),
    `train` (CSV or JSONL of text and label, or of image files and labels), `image_folder` (class/file)."""

    dataset: Literal["digits", "cifar10", "tiny_imagenet32", "banking77", "clinc150"] | None = None
    folder: FilePath | None = None  # of a dataset that is not built in
    labels: CifarLabels = "clean"  # cifar10: the students' training labels; others are people's, with their mistakes
    teacher_labels: CifarLabels | None = None  # cifar10: the teacher's; null: the same
    train: FilePath | None = None
    heldout: FilePath | None = None
    image_folder: FilePath | None = None  # with train/ and heldout/ inside, or one folder per class
    text: str = "text"  # column names
    label: str = "label"
    image: Text | None = None  # column of train with names of image files, instead of text
    image_root: FilePath | None = None  # the folder where those files are
    features: Literal["tokens", "tfidf"] = "tokens"  # how text reaches networks that are no transformers models
    image_size: Annotated[int, Field(ge=1, le=4096)] = 32
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    max_tokens: Count = 128
    limit: Count | None = None  # use only this many training examples (drawn with the seed, classes in their shares)
    copies: Annotated[int, Field(ge=0, le=10_000)] = (
        0  # texts: of each, with words left out, which the teacher scores too
    )
    word_dropout: Fraction = 0.2  # how likely a word is left out of a copy
    student_limit: Count | None = None  # students see only this many of them, drawn for each seed; the teacher all


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(Section):
    """groups: name -> classes that look alike, such as breeds of dog; accuracy is also measured inside each."""

    batch_size: Count = 256
    groups: dict[str, list[str]] = field(default_factory=dict)
    # What an hour of this machine costs, in any currency: the report then has a price per million examples.
    price_per_hour: Positive | None = None


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
class ClassifierRecipe(Section):
    """Distil a classifier."""

    task: Literal["classifier"]
    output: FilePath
    teacher: ClassTeacher
    student: ClassifierModel
    data: ClassifierData
    methods: list[Method]
    title: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0])
    device: Device = "auto"
    training: Training = field(default_factory=Training)
    evaluation: ClassifierEvaluation = field(default_factory=ClassifierEvaluation)
    search: Search | None = None
    lockstep: Lockstep = field(default_factory=Lockstep)
    keep: Literal["best", "all"] = "best"  # in best/: the best student; all: each method's best seed, too
