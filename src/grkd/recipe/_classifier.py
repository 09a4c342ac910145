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
    """A classifier: a built-in network, a function of your own, or a transformers model."""

    model: NetworkPath  # mlp or cnn (built in), package.module:function, or a transformers hub name or folder
    options: dict[str, Any] = field(default_factory=dict)  # options of the built-in network or the function
    training: Training | None = None  # teacher: train it first on the labels; null: use it as loaded
    weights: FilePath | None = None  # safetensors file, for built-in networks and functions

    @property
    def has_factory(self) -> bool:
        """Built in, or made by a factory: no transformers model."""
        return self.model in BUILT_IN_NETWORKS or (":" in self.model and "/" not in self.model)


@dataclass(frozen=True, kw_only=True)
class RankedLabels(Section):
    """A teacher that names the best classes of each text, without scores: from the data, or from a served model."""

    ranking: Text | None = None  # column of the JSONL records with classes, best first: ["refund", "card"]
    url: Text | None = None  # instead of ranking: an OpenAI-compatible server that is asked for the best classes
    served_model: Text | None = None  # the model's name on the server
    top: Count = 3  # number of classes to ask for
    key_env: Text | None = None  # environment variable with the key; null: OPENAI_API_KEY, if the server needs a key
    concurrency: Count = 8  # requests at a time
    timeout_seconds: Positive = 600.0  # longest wait for one answer
    max_requests: Count | None = None  # most requests per command, including retries

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
    """The data. Give one of `dataset`, `train` and `image_folder`."""

    # a known data set; digits is built in, the others are read from `folder`
    dataset: Literal["digits", "cifar10", "tiny_imagenet32", "banking77", "clinc150"] | None = None
    folder: FilePath | None = None  # folder of the dataset, unless it is built in
    labels: CifarLabels = "clean"  # cifar10: the students' training labels; all but clean are noisy human labels
    teacher_labels: CifarLabels | None = None  # cifar10: the teacher's training labels; null: as labels
    train: FilePath | None = None  # CSV, TSV or JSONL of texts and labels, or of image files and labels
    heldout: FilePath | None = None  # held-out file; null: heldout_fraction of train
    image_folder: FilePath | None = None  # one folder per class, or train/ and heldout/ with such folders
    text: str = "text"  # column with the text
    label: str = "label"  # column with the label
    image: Text | None = None  # column with names of image files, instead of text
    image_root: FilePath | None = None  # folder of the image files
    features: Literal["tokens", "tfidf"] = "tokens"  # input of networks that are not transformers models
    image_size: Annotated[int, Field(ge=1, le=4096)] = 32  # images are resized to this width and height
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2  # held-out share, if no held-out data are given
    max_tokens: Count = 128  # longer texts are truncated
    limit: Count | None = None  # use only this many training examples, drawn with the seed, stratified by class
    # texts: augmented copies of each text, with words dropped, which the teacher scores too
    copies: Annotated[int, Field(ge=0, le=10_000)] = 0
    word_dropout: Fraction = 0.2  # probability that a word is dropped from a copy
    student_limit: Count | None = None  # students see only this many examples, drawn per seed; the teacher sees all


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(Section):
    """What is measured on the held-out examples."""

    batch_size: Count = 256  # examples at a time
    # groups of look-alike classes, in which accuracy is also measured: {dogs: [beagle, pug]}
    groups: dict[str, list[str]] = field(default_factory=dict)
    # price of this machine per hour, in any currency; the report then shows a price per million examples
    price_per_hour: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Lockstep(Section):
    """Lockstep training of small networks on data in memory: several students learn from the same batches together."""

    optimizer: Literal["adamw", "sgd"] = "adamw"  # optimiser
    momentum: Fraction = 0.9  # sgd: Nesterov momentum
    augment: bool = False  # images: random crops (after padding by 4 pixels) and flips, also for the teacher
    students: Count = 16  # most students trained together
    search_epochs: Epochs | None = None  # epochs of a trial; null: as training
    prune: bool = True  # stop trials half-way that are below the median of finished trials
    teachers: FilePath | None = None  # folder for trained teachers, to share them between recipes; null: the output


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Section):
    """Distil a classifier."""

    task: Literal["classifier"]  # the kind of student
    output: FilePath  # folder of the run's results
    teacher: ClassTeacher  # the classifier to learn from
    student: ClassifierModel  # the classifier to train
    data: ClassifierData  # training and held-out examples
    methods: list[Method]  # names, or mappings {name, label, options...}; each is trained with every seed
    title: str | None = None  # title of the report
    seeds: list[Seed] = field(default_factory=lambda: [0])  # one training per method and seed
    device: Device = "auto"  # auto: a GPU if there is one
    training: Training = field(default_factory=Training)  # optimiser settings
    evaluation: ClassifierEvaluation = field(default_factory=ClassifierEvaluation)  # what is measured
    search: Search | None = None  # `grkd compare`: the search of settings before the final runs
    lockstep: Lockstep = field(default_factory=Lockstep)  # training of small networks on data in memory
    keep: Literal["best", "all"] = "best"  # best/ has the best student; all: also each method's best seed
