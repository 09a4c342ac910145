"""Relations between the examples of a batch: distances of pairs, angles of triplets. Features of any width."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from grkd.groups import wide

# Entries of one [vertices, rows, rows or width] block; about three such blocks live at once (256 MB each in float32).
_BLOCK = 1 << 26


def relational_distance(
    student_features: Float[Tensor, "rows student_features"],
    teacher_features: Float[Tensor, "rows teacher_features"],
    *,
    counted: Bool[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    """How far each row's distances to the other rows differ between student and teacher, one value per row.

        D(i, j) = |x_i - x_j| / mean distance over all pairs
        L_i = mean over j != i of Huber(D_S(i, j) - D_T(i, j))

    The mean over rows is the paper's loss as a mean over pairs.

    Parameters
    ----------
    student_features : Tensor [rows, student_features]
        What the student's last layer reads.
    teacher_features : Tensor [rows, teacher_features]
        The same of the teacher; the widths may differ.
    counted : bool Tensor [rows]
        Rows that are compared; the others give 0.

    Returns
    -------
    Tensor [rows]
        Without unit.

    References
    ----------
    Park et al., arXiv 1904.05068, Eq. 4-7 (Huber with delta 1).

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import relational_distance
    >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> relational_distance(points, 7 * points, counted=torch.ones(3, dtype=torch.bool))
    tensor([0., 0., 0.])
    """
    pairs = _pairs(counted)
    student, teacher = (
        _distances(student_features, pairs, counted),
        _distances(teacher_features.detach(), pairs, counted),
    )
    loss = smooth_l1_loss(student, teacher, reduction="none")
    return torch.where(pairs, loss, 0.0).sum(-1) / pairs.sum(-1).clamp_min(1)


def relational_angle(
    student_features: Float[Tensor, "rows student_features"],
    teacher_features: Float[Tensor, "rows teacher_features"],
    *,
    counted: Bool[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    """How far the angles at each row differ between student and teacher, one value per row.

        A(i, j, k) = cos of the angle at x_j between x_i and x_k
        L_j = mean over i != k, both not j, of Huber(A_S - A_T)

    The mean over rows is the mean over triplets. An angle with a point equal to x_j has cosine 0.
    Work is O(rows^3); memory is bounded by blocks of vertices.

    Parameters
    ----------
    student_features : Tensor [rows, student_features]
        What the student's last layer reads.
    teacher_features : Tensor [rows, teacher_features]
        The same of the teacher; the widths may differ.
    counted : bool Tensor [rows]
        Rows that are compared; the others give 0.

    Returns
    -------
    Tensor [rows]
        Without unit.

    References
    ----------
    Park et al., arXiv 1904.05068, Eq. 8-10 (Huber with delta 1).

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import relational_angle
    >>> line, corner = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> relational_angle(line, corner, counted=torch.ones(3, dtype=torch.bool))[0]  # cos 0 against cos 90: 1/2
    tensor(0.5000)
    """
    student = torch.where(counted.unsqueeze(-1), wide(student_features), 0.0)
    teacher = torch.where(counted.unsqueeze(-1), wide(teacher_features.detach()), 0.0)
    rows = len(counted)
    step = max(1, _BLOCK // max(1, rows * max(rows, student.shape[-1], teacher.shape[-1])))
    pairs = _pairs(counted)
    parts = []
    for start in range(0, rows, step):
        part = slice(start, start + step)
        parts.append(
            _angles(student, teacher, pairs, part)
            if step >= rows
            else checkpoint(_angles, student, teacher, pairs, part, use_reentrant=False, preserve_rng_state=False)
        )
    totals = torch.cat(parts) if parts else student.new_zeros(0)
    neighbours = pairs.sum(-1)
    return totals / (neighbours * (neighbours - 1)).clamp_min(1)


def _pairs(counted: Tensor) -> Tensor:
    both = counted.unsqueeze(-1) & counted.unsqueeze(-2)
    return both & ~torch.eye(len(counted), dtype=torch.bool, device=counted.device)


def _distances(features: Tensor, pairs: Tensor, counted: Tensor) -> Tensor:
    """Distances over their mean. cdist's gradient is 0 if two rows are equal (sqrt's would be infinite)."""
    points = torch.where(counted.unsqueeze(-1), wide(features), 0.0)
    # Exact differences: a product of the features would lose the small distances to cancellation.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    mean = torch.where(pairs, distances, 0.0).sum() / pairs.sum().clamp_min(1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(student: Tensor, teacher: Tensor, pairs: Tensor, vertices: slice) -> Tensor:
    loss = smooth_l1_loss(_cosines(student, vertices), _cosines(teacher, vertices), reduction="none")
    here = pairs[vertices]
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return torch.where(here.unsqueeze(-1) & here.unsqueeze(-2) & apart, loss, 0.0).sum((-1, -2))


def _cosines(points: Tensor, vertices: slice) -> Tensor:
    edges = points.unsqueeze(0) - points[vertices].unsqueeze(1)
    # Between equal points there is no direction: cosines 0 and no gradient, which `normalize` would multiply by 1e12.
    nowhere = (edges == 0).all(-1, keepdim=True)
    edges = normalize(torch.where(nowhere, 0.0, edges), dim=-1)
    return edges @ edges.transpose(-1, -2)
