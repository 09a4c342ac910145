"""What a classifier's recipe gets wrong, as far as data, methods and untrained networks tell."""

from grkd import objectives
from grkd.classify.context import ClassifierContext
from grkd.classify.engine import check_engine
from grkd.classify.metrics import NEAR_TEACHER, ON_VALIDATION
from grkd.classify.ranked_labels import check_ranked
from grkd.classify.teach import check_teacher
from grkd.errors import UserError
from grkd.recipe import ClassifierRecipe, RankedLabels
from grkd.training.lockstep.student import check_for_classes


def check_classifier(context: ClassifierContext) -> None:
    """Raises UserError for the first thing that would end the run later; reads the data, writes nothing.

    Networks and factories are built once: a student that fails would else be found when the teacher is trained.
    """
    recipe = context.recipe
    _check_metric(context)
    for method in recipe.methods:
        check_for_classes(method.label, objectives.load(method.name, **method.options))
    check_ranked(recipe)
    check_teacher(recipe)
    check_engine(recipe)
    _ = context.data  # read before the names of its classes: those of an earlier run in the folder may be others
    _ = context.class_groups
    for method in recipe.methods:
        objectives.load(method.name, **method.options).check_candidates(context.data.classes)
    for spec in (recipe.teacher, recipe.student):
        if spec.has_factory:
            context.view(spec)
    _check_training(recipe)  # last: it imports transformers, which takes seconds


def _check_metric(context: ClassifierContext) -> None:
    """Reject an unknown search metric, and the nearness to probabilities of a teacher that has none."""
    order_only = isinstance(context.recipe.teacher, RankedLabels)
    known = [name for name in ON_VALIDATION if not (order_only and name in NEAR_TEACHER)]
    if context.metric not in known:
        near = context.metric in NEAR_TEACHER
        what = "the teacher gives an order and no probabilities for" if near else "unknown metric"
        raise UserError(f"search.metric: {what} {context.metric!r}; available: {', '.join(known)}")


def _check_training(recipe: ClassifierRecipe) -> None:
    from grkd.run.training import check

    for where, training in (("", recipe.training), ("teacher.", recipe.teacher.training)):
        if training is not None:
            try:
                check(training)
            except UserError as error:
                raise UserError(f"{where}{error}") from None
