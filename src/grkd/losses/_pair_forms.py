"""What one pair costs: a form is an object that gives its value and slope; one that nobody knows is an error."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from grkd.errors import UserError, meant

# (student margin d, teacher margin D), both over tau, of pairs that the teacher orders -> a tensor of their shape.
Margins = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PairForm:
    """The loss of one pair (i, j) with t_i > t_j, element by element.

        d = (s_i - s_j) / tau,  D = (t_i - t_j) / tau

    Parameters
    ----------
    name : str
        As it is written in recipes and messages.
    value : callable
        (d, D) -> loss in nats. Finite at every finite margin: it is computed for pairs that the teacher does not order
        too.
    slope : callable
        (d, D) -> d value / d d; finite as well.
    kernel : int, optional
        Id under which the Triton kernels compute this form. None: torch computes it.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import PairForm, group_relative
    >>> hinge = PairForm("hinge", lambda d, D: (1 - d).relu(), lambda d, D: -(d < 1).to(d.dtype))
    >>> group_relative(torch.tensor([[0.0, 0.25]]), torch.tensor([[1.0, 0.0]]), pair_target=hinge)
    tensor([1.2500])
    """

    name: str
    value: Margins
    slope: Margins
    kernel: str | None = None


def _hard(margin: Tensor, _: Tensor) -> Tensor:
    return -logsigmoid(margin)


def _hard_slope(margin: Tensor, _: Tensor) -> Tensor:
    return -torch.sigmoid(-margin)


def _soft(margin: Tensor, wanted: Tensor) -> Tensor:
    return torch.sigmoid(-wanted) * margin - logsigmoid(margin)


def _soft_slope(margin: Tensor, wanted: Tensor) -> Tensor:
    return torch.sigmoid(-wanted) - torch.sigmoid(-margin)


def _margin(margin: Tensor, wanted: Tensor) -> Tensor:
    return (margin - wanted).square() / 8


def _margin_slope(margin: Tensor, wanted: Tensor) -> Tensor:
    return (margin - wanted) / 4


# -log sigmoid(d): the paper's (arXiv 2504.20482).
HARD = PairForm("hard", _hard, _hard_slope, kernel="hard")
# -(q log sigmoid(d) + (1 - q) log sigmoid(-d)), q = sigmoid(D): least at d = D.
SOFT = PairForm("soft", _soft, _soft_slope, kernel="soft")
# (d - D)^2 / 8: what tau^2 * soft becomes (less its least value) as tau grows.
MARGIN = PairForm("margin", _margin, _margin_slope, kernel="margin")
PAIR_FORMS = {form.name: form for form in (HARD, SOFT, MARGIN)}


def pair_form(form: PairForm | str) -> PairForm:
    """The pair form of this name, or the form itself.

    Parameters
    ----------
    form : str or PairForm
        "hard", "soft", "margin", or a form.

    Returns
    -------
    PairForm
        The form.

    Raises
    ------
    UserError
        For an unknown name.

    Examples
    --------
    >>> from grkd.losses import pair_form
    >>> pair_form("soft").name
    'soft'
    """
    if isinstance(form, PairForm):
        return form
    if form not in PAIR_FORMS:
        near = meant(str(form), PAIR_FORMS)
        raise UserError(f"unknown pair_target {form!r}{near}; known: {', '.join(PAIR_FORMS)}, or a grkd PairForm")
    return PAIR_FORMS[form]
