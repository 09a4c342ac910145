"""What the distillation head minimises: options, checked once."""

from dataclasses import dataclass
from typing import Literal, get_args

from grkd.errors import UserError
from grkd.losses import HARD, Normalize, PairForm, pair_form
from grkd.losses.checks import check_pairs

Divergence = Literal["soft_target", "forward_kl", "reverse_kl", "jsd"]
GroupName = Literal["auto", "all", "top", "sample"]
Implementation = Literal["auto", "torch", "triton"]
Memory = Literal["fast", "lean"]
Accumulate = Literal["float32", "weight"]

# Pair forms (PairForm.kernel) that the all-pairs and head kernels know, and those that the weighted one knows.
PAIR_KERNELS = ("hard", "soft")
WEIGHTED_PAIR_KERNELS = (*PAIR_KERNELS, "margin")

# Up to here "auto" takes every candidate, as the grkd objective does.
ALL_UP_TO = 1_000


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """The pair term: tau, the form of a pair and what their sum is divided by."""

    tau: float = 1.0
    form: PairForm = HARD
    normalize: Normalize = "pairs"

    @classmethod
    def of(cls, *, tau: float, pair_target: PairForm | str, normalize: Normalize) -> "PairOptions":
        """Options with the pair form by name or as an object. Raises UserError for an unknown one."""
        return cls(tau=tau, form=pair_form(pair_target), normalize=normalize)

    @property
    def soft(self) -> bool:
        """Which of their two pair forms the all-pairs and head kernels compute. Raises ValueError for any other."""
        if self.form.kernel not in PAIR_KERNELS:
            raise ValueError(f"the kernels know the pair forms {', '.join(PAIR_KERNELS)}, not {self.form.name!r}")
        return self.form.kernel == "soft"

    def __post_init__(self) -> None:
        check_pairs(self.tau, self.normalize)


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """One row's loss: pair_weight * L_GR over the group + divergence_weight * divergence over the vocabulary."""

    pairs: PairOptions
    pair_weight: float
    divergence: Divergence = "soft_target"
    divergence_weight: float
    beta: float = 0.5
    temperature: float = 1.0
    t_squared: bool = False
    group: GroupName | Literal["given"]
    group_size: int
    group_temperature: float = 1.0
    student_softcap: float | None
    teacher_softcap: float | None

    def __post_init__(self) -> None:
        _known("divergence", self.divergence, get_args(Divergence))
        _known("group", self.group, (*get_args(GroupName), "given"))
        for name in ("temperature", "group_temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("student_softcap", "teacher_softcap"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, or None for no cap, got {getattr(self, name)}")
        if not 0 < self.beta < 1:
            raise UserError(f"beta of the JSD must be between 0 and 1 (both excluded), got {self.beta}")
        if self.group_size < 2:
            raise UserError(f"group_size must be 2 or more, got {self.group_size}")

    @property
    def divergence_scale(self) -> float:
        """Weight of the divergence, T^2 included if it is asked for."""
        return self.divergence_weight * (self.temperature**2 if self.t_squared else 1.0)

    def named_group(self, vocabulary: int) -> str:
        """The group with "auto" resolved for this vocabulary."""
        if self.group == "auto":
            return "all" if vocabulary <= ALL_UP_TO else "sample"
        return self.group


def implementation_of(form: PairForm, known: tuple[str, ...], implementation: Implementation) -> Implementation:
    """ "torch" for a pair form that the kernels do not know, else what was asked for.

    Raises UserError if "triton" is asked for such a form.
    """
    if form.kernel in known:
        return implementation
    if implementation == "triton":
        raise UserError(f"implementation 'triton' has no kernel for the pair form {form.name!r}: use auto")
    return "torch" if implementation == "auto" else implementation


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}")
