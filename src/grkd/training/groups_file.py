"""The groups of a training, kept as Parquet shards: responses, every ranker's scores, the student's scores."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grkd.data.language import Group
from grkd.data.tables import write_table

# One line per group. Scores are one per response, in the order of `responses`; null: no opinion.
GROUPS = pa.schema(
    {
        "step": pa.int64(),
        "id": pa.string(),
        "prompt": pa.string(),  # text, or the conversation as JSON
        "responses": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),  # the order that the method was given
        "by_ranker": pa.map_(pa.string(), pa.list_(pa.float64())),
        "student_before": pa.list_(pa.float64()),  # mean token log-probability as sampled, in nats
    }
)


class GroupsFile:
    """Shards `<step>-<rank>.parquet` in a folder; lines wait in memory until `flush`."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self._lines: list[dict[str, Any]] = []

    def add(
        self,
        steps: Sequence[int],
        groups: Sequence[Group],
        prompts: Sequence[Any],
        texts: Sequence[Sequence[str]],
        before: Sequence[Sequence[float]],
    ) -> None:
        """Keep these groups with the rankers' scores, each of its own optimiser step."""
        for number, group in enumerate(groups):
            prompt = prompts[number]
            self._lines.append(
                {
                    "step": steps[number],
                    "id": group.id,
                    "prompt": prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
                    "responses": list(texts[number]),
                    "scores": known(group.teacher_scores),
                    "by_ranker": [(label, known(scores)) for label, scores in (group.by_ranker or {}).items()],
                    "student_before": list(before[number]),
                }
            )

    def flush(self, step: int) -> None:
        """Write what has been added since the last time, as the shard of this step."""
        if self._lines:
            write_table(self.folder / f"{step:08d}-{self.rank}.parquet", self._lines, GROUPS)
            self._lines = []

    def forget_after(self, step: int) -> None:
        """Remove shards of later steps, which a resumed training makes again; the first process alone does, for all.

        An earlier training may have had more processes than this one.
        """
        for path in self.folder.glob("*-*.parquet") if self.rank == 0 else ():
            if int(path.name.split("-")[0]) > step:
                path.unlink()


class KeepGroups(TrainerCallback):
    """Writes the groups with every checkpoint and at the end, so that a resumed training keeps each step's once."""

    def __init__(self, file: GroupsFile) -> None:
        self.file = file

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.file.forget_after(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.file.flush(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.file.flush(state.global_step)


def read_groups_files(folder: Path) -> list[dict[str, Any]]:
    """All groups of a training in the order of its steps."""
    tables = (pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet")))
    lines = [{**line, "by_ranker": dict(line["by_ranker"])} for table in tables for line in table]
    return sorted(lines, key=lambda line: int(line["step"]))


def known(scores: Sequence[float]) -> list[float | None]:
    """The scores as Parquet and JSON hold them: null for no opinion."""
    return [None if math.isnan(score) else float(score) for score in scores]
