"""`grkd run` and `grkd compare` for lists: one path. A comparison adds the search before the final runs."""

from collections.abc import Sequence

from grkd.compare.best import keep_best
from grkd.compare.comparison import Comparison
from grkd.compare.student_job import StudentJob
from grkd.files import write_json
from grkd.lists.check import check_rank
from grkd.lists.context import RankContext
from grkd.lists.evaluate import evaluate_teacher
from grkd.lists.prepare import prepare
from grkd.lists.score import score
from grkd.lists.train import evaluate_before, train_group
from grkd.recipe import RankRecipe
from grkd.run.folder import RunFolder
from grkd.run.results import describe


class ListComparison(Comparison):
    """Students are trained one at a time per process."""

    train_group = staticmethod(train_group)

    def __init__(self, recipe: RankRecipe, run: RunFolder) -> None:
        self.context = RankContext(recipe, run)
        super().__init__(self.context)

    def prepare(self) -> None:
        """Mistakes are found first, then lists, the teacher's scores and the baselines."""
        context = self.context
        check_rank(context)
        prepare(context)
        describe(context.recipe, context.run)
        if context.recipe.search is not None:
            _ = context.search_queries  # too few are found before the teacher is asked
        score(context)
        evaluate_teacher(context)
        evaluate_before(context)

    def keep_best(self, jobs: Sequence[StudentJob]) -> None:
        """Copy the best student to best/: by the search's metric if the recipe names one, else by NDCG over the
        candidates, or without people's grades by Kendall's tau with the teacher."""
        search = self.context.recipe.search
        given = [search.metric] if search is not None and search.metric is not None else []
        keep_best(
            self.context.run,
            jobs,
            by=[*given, "list_ndcg10", "kendall_tau"],
            every_method=False,
            describe=lambda folder, about: write_json(folder / "ranker.json", about),
        )
