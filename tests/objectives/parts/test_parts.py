"""The room of parts: names, parts of one's own, what parts share, and how many operations they take."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grkd import losses, objectives, testing
from grkd.errors import UserError
from grkd.objectives import GRKD, PRESETS, Batch, combine, contrib, option, parts
from grkd.objectives.parts import Correlation, Pairs, Part, ScorePair, SoftTarget, _score_pair
from tests.objectives.parts._scores import a_batch


def test_names_are_the_files() -> None:
    own, left = (Path(room.__path__[0]) for room in (parts, contrib))
    files = [path.stem for path in own.glob("[!_]*.py")] + [f"contrib.{path.stem}" for path in left.glob("[!_]*.py")]
    assert sorted(parts.names()) == sorted(files)


@pytest.mark.parametrize("name", parts.names())
def test_every_part_is_found_by_its_name_and_written_by_it(name: str) -> None:
    kind = parts.part(name)
    assert parts.part_name(kind) == name
    assert kind.short_name() == name.rpartition(".")[2]
    assert parts.to_plain(kind()) == {"part": name}
    assert parts.read({"part": name, "weight": 2}) == kind(weight=2.0)
    assert all(option.help for option in objectives.options_of(kind).values())
    assert len(fields(kind)) <= 14


BASES = {
    "group": {"group": "top", "group_size": 4},
    "group_size": {"group": "top", "group_size": 4},
    "group_temperature": {"group": "sample", "group_size": 4},
}
WITH_GROUPS = ("pairs", "contrib.weighted_pairs", "contrib.z_score_pairs")
# part, option -> what else must be set for it to have an effect
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    **{(part, name): others for part in WITH_GROUPS for name, others in BASES.items()},
    ("pairs", "temperature"): {"over": "batch"},
    ("contrib.z_score_pairs", "temperature"): {"over": "batch"},
    ("soft_target", "t_squared"): {"temperature": 2.0},
    ("contrib.z_score_soft_target", "t_squared"): {"temperature": 2.0},
}


@pytest.mark.parametrize("name", parts.names())
def test_every_option_of_a_part_has_an_effect(name: str) -> None:
    kind = parts.part(name)
    short, anchor = kind.short_name(), (SoftTarget(temperature=2.0),)
    bases = {
        f"ranking.{short}.{option}": GRKD(ranking=(kind(**others),), anchor=anchor)
        for (part, option), others in TOGETHER.items()
        if part == name
    }
    testing.check_options(GRKD(ranking=(kind(),), anchor=anchor, label_weight=0.1), bases)


OWN = '''
from dataclasses import dataclass
import torch
from grkd import groups
from grkd.objectives import option
from grkd.objectives.parts import Part

@dataclass(frozen=True, kw_only=True)
class Hinge(Part):
    """Mean of max(0, margin - (s_i - s_j)) over the pairs that the teacher orders."""

    margin: float = option(1.0, "margin to reach")

    def loss(self, scores, batch):
        s, ordered = scores.student, groups.pairs(scores.teacher, mask=scores.mask)
        short = (self.margin - s[..., :, None] + s[..., None, :]).relu()
        return torch.where(ordered, short, 0.0).sum((-1, -2)) / ordered.sum((-1, -2)).clamp_min(1)

class NoPart:
    pass
'''


def test_a_part_of_ones_own_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    given = {"ranking": [{"part": "my_parts:Hinge", "margin": 2}, {"part": "pairs"}], "hinge.weight": 3.0}
    objective = objectives.load("grkd", **given)
    batch = Batch(student=torch.tensor([[1.5, 0.0]]), teacher=torch.tensor([[3.0, 2.0]]), progress=0.5)
    hinge, *_ = objective.terms(batch)
    assert (hinge.name, hinge.weight, hinge.rows.tolist()) == ("hinge", 1.5, [0.5])
    spelt_out = GRKD.spelt_out(given)
    assert spelt_out["ranking"][0] == {"part": "my_parts:Hinge", "weight": 3.0, "margin": 2.0}
    assert objectives.load("grkd", **spelt_out) == objective
    for wrong, said in (
        ("my_parts:NoPart", r"it is the class NoPart, it must be a subclass of grkd.objectives.parts._base.Part"),
        ("my_parts:Hing", "my_parts has no 'Hing'; it has: .*Hinge"),
    ):
        with pytest.raises(UserError, match=said):
            objectives.load("grkd", ranking=[{"part": wrong}])


@dataclass(frozen=True, kw_only=True)
class Doubled(Pairs):
    """A subclass that computes something else."""

    extra: float = option(0.0, "added to every row")

    def rows_and_counted(self, scores: ScorePair, batch: Batch) -> Any:
        rows, counted = super().rows_and_counted(scores, batch)
        return 2 * rows + self.extra, counted


def test_what_a_subclass_changes_is_never_computed_as_its_parent() -> None:
    assert Pairs().head_options() is not None
    assert Doubled().head_options() is None
    assert GRKD(ranking=(Doubled(),)).head_options(0.5) is None
    assert Doubled().term_name == "group_relative"


def test_a_part_needs_a_loss() -> None:
    class Nothing(Part):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]


def test_parts_at_one_temperature_share_their_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def counting(scores: Tensor, exists: Tensor | None, temperature: float) -> Tensor:
        calls.append(temperature)
        return losses.masked_log_softmax(scores, exists, temperature)

    monkeypatch.setattr(_score_pair, "masked_log_softmax", counting)
    ranking = (Correlation(), Correlation(over="batch"), SoftTarget(over="batch", temperature=2.0), Pairs(over="batch"))
    GRKD(ranking=ranking, anchor=(SoftTarget(temperature=2.0),)).terms(a_batch(progress=0.5))
    # Both sides at either temperature, and the lists' own over the columns.
    assert sorted(calls) == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0]


class Operations(TorchDispatchMode):
    """Counts operations that would be launches on a GPU."""

    FREE = ("detach", "view", "expand", "t", "transpose", "permute", "unsqueeze", "alias", "slice", "select")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0] not in self.FREE
        return func(*args, **(kwargs or {}))


# What the class of 31 options took, forward and backward, on a CPU.
@pytest.mark.parametrize(("preset", "operations"), [("paper", 70), ("tokens", 75), ("classes", 165)])
def test_no_more_operations_than_as_one_class(preset: str, operations: int) -> None:
    student, teacher = torch.randn(16, 10, requires_grad=True), torch.randn(16, 10)
    objective = GRKD(**PRESETS[preset])
    with Operations() as seen:
        combine(objective.terms(Batch(student=student, teacher=teacher, progress=0.5)), rows=16).backward()
    assert seen.count <= operations
