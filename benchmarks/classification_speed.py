"""What a student's step costs in lock-step training, by method: python -m benchmarks.classification_speed OUT.json

200 classes, batches of 512 images of 32 x 32, the small student of the recipes, a live teacher. step_ms: of one student
among `students`, the teacher's share included. `ratio_to_kd`: of step_ms, with CUDA graphs.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from grkd import objectives
from grkd.files import write_json
from grkd.models.networks import build
from grkd.training.lockstep.batches import DeviceExamples
from grkd.training.lockstep.loop import train_lockstep
from grkd.training.lockstep.student import Job, Plan

CLASSES, BATCH, EPOCHS = 200, 512, 4.0
MIXED: dict[str, Any] = {"alpha_shape": "constant", "alpha_ceiling": 0.5, "label_weight": 1.0}
ADVANTAGE = {"part": "contrib.advantage", "weight": 4.0}
RELATIONS = {"part": "correlation", "over": "batch", "weight": 8.0}
LISTS = {"part": "soft_target", "over": "batch", "divergence": "forward_kl", "weight": 6.0}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ce": ("ce", {}),
    "kd": ("kd", {"label_weight": 1.0}),
    "kd-z": ("kd", {"label_weight": 1.0, "standardize": True}),
    "dkd": ("dkd", {}),
    "dist": ("dist", {}),
    "rkd": ("rkd", {"angle_weight": 0.0}),
    "pld": ("pld", {}),
    "grkd, all pairs": ("grkd", {"pairs.group": "all", "pairs.normalize": "candidates"}),
    "grkd, top 32": ("grkd", {"pairs.group": "top", "pairs.group_size": 32, "pairs.normalize": "candidates"}),
    "grkd, gap pairs": ("grkd", {**MIXED, "ranking": [{"part": "contrib.weighted_pairs", "normalize": "candidates"}]}),
    "grkd, advantage": ("grkd", {**MIXED, "ranking": [ADVANTAGE]}),
    "grkd, relations": ("grkd", {**MIXED, "ranking": [RELATIONS]}),
    "grkd, lists": ("grkd", {**MIXED, "ranking": [LISTS]}),
    "grkd, advantage, relations, lists": ("grkd", {**MIXED, "ranking": [ADVANTAGE, RELATIONS, LISTS]}),
    "grkd, the form for classes": ("grkd", {"preset": "classes", "label_weight": 1.0}),
    "grkd, 32 sampled": ("grkd", {"pairs.group": "sample", "pairs.group_size": 32, "pairs.normalize": "candidates"}),
}


def step_ms(method: str, options: dict[str, Any], *, students: int, graphs: bool, batches: int = 16) -> float:
    """Milliseconds a step and student, over all epochs but the first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batches * BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    examples = DeviceExamples(inputs=images.to(device), labels=labels.to(device))
    shape: dict[str, Any] = {"input_shape": (3, 32, 32), "classes": CLASSES}
    jobs = [
        Job(name=str(seed), objective=objectives.load(method, **options), seed=seed, learning_rate=0.05)
        for seed in range(students)
    ]
    plan = Plan(epochs=EPOCHS, batch_size=BATCH, augment=True, weight_decay=5e-4, max_grad_norm=5.0, graphs=graphs)
    plan = Plan(**{**vars(plan), "bf16": device.type == "cuda"})
    times = []

    def watch(_: int, __: Any) -> tuple[()]:
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        return ()

    train_lockstep(
        jobs,
        examples,
        build=lambda seed: build("cnn", **shape, options={"channels": [16, 32, 64]}, seed=seed),
        plan=plan,
        teacher=build("grkd.models.residual:residual", **shape, options={"width": 32, "blocks": 2}, seed=0),
        watch=watch,
    )
    return 1000 * (times[-1] - times[0]) / (len(times) - 1) / batches / students


def main(out: Path) -> None:
    """Measure every method, print and write."""
    rows = []
    for students, graphs in ((8, True), (1, True), (1, False)):
        kd = None
        for label, (method, options) in METHODS.items():
            found = step_ms(method, options, students=students, graphs=graphs)
            kd = found if label == "kd" else kd
            ratio = None if kd is None or label == "ce" else found / kd
            rows.append(
                {"method": label, "students": students, "graphs": graphs, "step_ms": found, "ratio_to_kd": ratio}
            )
            print(f"{students:2} students, {'graphs' if graphs else 'plain '} {label:34} {found:.3f} ms", flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    write_json(out, {"device": where, "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
