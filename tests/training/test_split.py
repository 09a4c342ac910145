"""The same training whatever the split of a step: over micro-batches and over ranks, for every method.

`python tests/training/test_split.py` prints the table of docs/method.md.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from grkd import objectives
from tests._forked import on_ranks
from tests.training.test_trainer import grouped, per_method, ragged, tiny, trainer

STEPS = 8  # of the table in docs/method.md; tests take fewer, which show a difference as well
TESTED = 3
# Examples per micro-batch, micro-batches per step; a step has 8 examples.
SPLITS = {"8 x 1": (8, 1), "4 x 2": (4, 2), "2 x 4": (2, 4)}
LIMIT = 1e-6
FRESH = ("grkd", "grpo-kl", "dpo")  # of test_fresh_groups.METHODS
DOCUMENT = Path(__file__).parents[2] / "docs" / "method.md"
PAIRS: dict[str, Any] = {"part": "pairs", "group": "sample", "group_size": 6}
RESPONSES: dict[str, Any] = {"part": "pairs", "level": "response", "tau": 0.1}
SAMPLED: dict[str, Any] = {"ranking": [PAIRS]}
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    # grpo needs rankers: see test_fresh_groups.py.
    **{name: (name, {}) for name in objectives.names() if name != "grpo"},
    "rkd": ("rkd", {"on": "logits"}),
    "ranknet": ("ranknet", {"sigma": 0.01}),  # a sum over hundreds of pairs: at sigma 1 its steps are of no use
    "grkd": ("grkd", SAMPLED),
    "grkd over responses": ("grkd", {"ranking": [RESPONSES]}),
    "grkd over both": ("grkd", {"ranking": [PAIRS, RESPONSES]}),
    "grkd on policy": ("grkd", {"on_policy_fraction": 0.5, **SAMPLED}),
    "grkd across rows": ("grkd", {"ranking": [{"part": "pairs"}, {"part": "pairs", "over": "batch", "group": "all"}]}),
}


@cache
def weights_after(name: str, batch: int, accumulation: int, steps: int = TESTED) -> dict[str, torch.Tensor]:
    """The student's weights after some steps of plain gradient descent."""
    method, options = NAMED[name]
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            Path(folder), grouped(ragged(16)), method, options=options, max_steps=steps, learning_rate=0.05,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        made.train()
    return {key: value.detach().clone() for key, value in made.model.state_dict().items()}


def fresh_weights(folder: Path, method: str, batch: int) -> dict[str, torch.Tensor]:
    """After three steps on groups that are sampled and ranked in training, two steps' responses at once."""
    from tests.training.test_fresh_groups import made, weights

    options: dict[str, Any] = {"max_steps": 3, "learning_rate": 0.02, "steps_per_generation": 2}
    found = made(folder / method, method, per_device_train_batch_size=batch, **options)
    found.train()
    return weights(found)


def evaluation_losses(folder: Path, batch: int) -> dict[int, torch.Tensor]:
    """Losses of evaluation sets whose sizes leave ranks with less than a batch, or with nothing."""
    made = trainer(folder, grouped(ragged(8)), "grkd", options=SAMPLED, per_device_eval_batch_size=batch)
    sizes = (1, 3, 4, 5, 7, 8)
    return {size: torch.tensor(made.evaluate(grouped(ragged(size)))["eval_loss"]) for size in sizes}


def couples(name: str) -> bool:
    """Whether rows of different examples are compared; minillm's are tokens of one response, which no split parts."""
    method, options = NAMED[name]
    return method != "minillm" and objectives.load(method, **options).couples_rows


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def moved(weights: dict[str, torch.Tensor]) -> float:
    return difference(weights, tiny(1).state_dict())


def on_two_ranks(folder: Path, steps: int = TESTED) -> dict[str, dict[Any, torch.Tensor]]:
    """Every method's weights from 2 gloo processes with 4 examples each."""

    def rank() -> None:
        found: dict[str, dict[Any, torch.Tensor]] = {name: weights_after(name, 4, 1, steps) for name in NAMED}
        found["evaluation"] = evaluation_losses(folder, 2)
        if torch.distributed.get_rank() == 0:
            torch.save(found, folder / "out.pt")

    on_ranks(rank, folder)
    found: dict[str, dict[Any, torch.Tensor]] = torch.load(folder / "out.pt", weights_only=True)
    return found


@pytest.mark.parametrize("name", NAMED)
def test_micro_batches_make_the_same_training(name: str) -> None:
    steps = STEPS if name == "lambdaloss" else TESTED  # its steps are the smallest
    whole = weights_after(name, 8, 1, steps)
    assert moved(whole) > 1e-3, "the example must train"
    split = weights_after(name, 2, 4, steps)
    assert difference(whole, split) <= LIMIT or couples(name)


@pytest.mark.parametrize("name", ["dist", "grkd across rows"])
def test_methods_that_compare_rows_show_it(name: str) -> None:
    """The example can show a difference."""
    whole, split = (weights_after(name, size, 8 // size) for size in (8, 2))
    assert difference(whole, split) > 10 * LIMIT


def test_ranks_make_the_same_training(tmp_path: Path) -> None:
    found = on_two_ranks(tmp_path)
    for name in NAMED:
        whole = weights_after(name, 8, 1)
        assert difference(whole, found[name]) <= LIMIT or couples(name), name
    for size, loss in evaluation_losses(tmp_path, 4).items():
        assert float(found["evaluation"][size]) == pytest.approx(float(loss), rel=1e-6), size


def test_ranks_make_the_same_training_on_fresh_groups(tmp_path: Path) -> None:
    """Groups that are sampled and ranked in training: 1 x 8 and 2 ranks x 4 prompts."""

    def rank() -> None:
        found = {name: fresh_weights(tmp_path / "ranks", name, 4) for name in FRESH}
        if torch.distributed.get_rank() == 0:
            torch.save(found, tmp_path / "out.pt")

    on_ranks(rank, tmp_path)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    for name in FRESH:
        whole = fresh_weights(tmp_path / "alone", name, 8)
        assert moved(whole) > 1e-3
        assert difference(whole, found[name]) <= LIMIT, name


def test_the_document_has_a_line_for_every_method() -> None:
    """Each with a difference below the limit, but for those that compare rows of a micro-batch, which say so."""
    lines = DOCUMENT.read_text(encoding="utf-8").split("<!-- split -->")[1].strip().splitlines()[2:]
    table = {cells[0].strip("` "): cells[1:] for line in lines if (cells := line.strip("|").split("|"))}
    assert set(table) == set(NAMED)
    for name, cells in table.items():
        values = [float(cell) for cell in cells[1:4]]
        assert max(values) <= LIMIT or couples(name), name
        assert ("compares rows" in cells[4]) == couples(name), name
    assert per_method(coupled=False)


def table(folder: Path) -> str:
    """The table of docs/method.md."""
    ranks = on_two_ranks(folder, STEPS)
    lines = ["| method | weights moved by | 4 x 2 | 2 x 4 | 2 ranks x 4 | |", "|---|---|---|---|---|---|"]
    for name in NAMED:
        runs = {split: weights_after(name, *sizes, STEPS) for split, sizes in SPLITS.items()}
        whole = runs["8 x 1"]
        others = [runs["4 x 2"], runs["2 x 4"], ranks[name]]
        cells = [f"{value:.0e}" for value in (moved(whole), *(difference(whole, other) for other in others))]
        lines.append(
            f"| `{name}` | {' | '.join(cells)} | {'compares rows of a micro-batch' if couples(name) else ''} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(table(Path(place)))
