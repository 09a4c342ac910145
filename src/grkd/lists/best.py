"""What stands beside a kept ranker: how it was chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grkd.compare.best import keep_best
from grkd.compare.student_job import StudentJob
from grkd.files import write_json
from grkd.lists.context import RankContext


def keep_best_ranker(context: RankContext, jobs: Sequence[StudentJob]) -> None:
    """Copy the best student to best/: by the search's metric if the recipe names one, else by NDCG over the candidates,
    or without people's grades by Kendall's tau with the teacher."""

    def describe(_: StudentJob, folder: Path, about: dict[str, Any]) -> None:
        write_json(folder / "ranker.json", about)

    search = context.recipe.search
    given = [search.metric] if search is not None and search.metric is not None else []
    by = [*given, "list_ndcg10", "kendall_tau"]
    keep_best(context.run, jobs, by=by, every_method=False, describe=describe)
