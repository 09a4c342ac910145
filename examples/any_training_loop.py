"""GRKDLoss in a plain PyTorch loop: a small network learns to rank the digits as a large one does.

python examples/any_training_loop.py
"""

import torch
from torch import nn

from grkd import GRKDLoss
from grkd.data.classification import digits
from grkd.metrics.rank import kendall_tau_b
from grkd.objectives.parts import Pairs


def network(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.GELU(), nn.Linear(hidden, 10))


def main(epochs: int = 40) -> float:
    """Returns Kendall's tau between student and teacher on held-out digits."""
    torch.manual_seed(0)
    data = digits(heldout_fraction=0.3, seed=0)
    teacher, student = network(256), network(8)

    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(epochs):
        nn.functional.cross_entropy(teacher(data.train_inputs), data.train_labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    criterion = GRKDLoss(ranking=[Pairs(target="soft", normalize="candidates")])
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    steps = 5 * epochs
    for step in range(steps):
        with torch.no_grad():
            teacher_logits = teacher(data.train_inputs)
        loss = criterion(student(data.train_inputs), teacher_logits, progress=step / (steps - 1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        tau = kendall_tau_b(student(data.heldout_inputs), teacher(data.heldout_inputs)).mean()
        accuracy = (student(data.heldout_inputs).argmax(-1) == data.heldout_labels).float().mean()
    print(f"held-out accuracy {accuracy:.3f}, Kendall's tau with the teacher {tau:.3f}")
    return float(tau)


if __name__ == "__main__":
    main()
