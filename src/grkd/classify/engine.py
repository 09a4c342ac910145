"""How students and teacher are trained: together in lock-step, or one at a time by transformers' Trainer."""

from grkd.errors import UserError
from grkd.models.networks import is_transformers
from grkd.recipe import ClassifierModel, ClassifierRecipe, Lockstep, RankedLabels, Training

# Settings of the training section that only transformers' Trainer follows.
OF_TRAINER = (
    "gradient_accumulation",
    "gradient_checkpointing",
    "steps_per_generation",
    "fused_head",
    "report_to",
    "extra",
)


def in_lockstep(recipe: ClassifierRecipe) -> bool:
    """Whether students are trained together on the device; else one at a time by transformers' Trainer.

    In lock-step: built-in networks and factories on data in memory, unless `training` has a setting of the Trainer's.
    """
    return _fits(recipe, recipe.student, recipe.training)


def teacher_in_lockstep(recipe: ClassifierRecipe) -> bool:
    """The same of the teacher's own training."""
    return _fits(recipe, recipe.teacher, recipe.teacher.training or Training())


def trainer_settings(training: Training) -> list[str]:
    """Names of the settings given that only transformers' Trainer follows."""
    return [name for name in OF_TRAINER if getattr(training, name) != getattr(Training(), name)]


def check_engine(recipe: ClassifierRecipe) -> None:
    """Reject settings that the recipe's way of training does not follow."""
    lockstep = recipe.lockstep
    if not in_lockstep(recipe):
        reason = ", ".join(f"training.{name}" for name in trainer_settings(recipe.training)) or recipe.student.model
        given = [f"lockstep.{name}" for name in ("optimizer", "augment") if _changed(lockstep, name)]
        given += ["data.copies"] if recipe.data.copies else []
        if given:
            raise UserError(
                f"{given[0]}: {reason} is trained by transformers' Trainer, which lacks it; remove one of them"
            )
    if (
        not teacher_in_lockstep(recipe)
        and recipe.teacher.training is not None
        and not is_transformers(recipe.teacher.model)
    ):
        for name in ("optimizer", "augment"):
            if _changed(lockstep, name):
                settings = ", ".join(trainer_settings(recipe.teacher.training)) or "data.image_folder"
                raise UserError(f"lockstep.{name}: the teacher cannot be trained so with {settings}; remove it")
    if lockstep.augment and is_transformers(recipe.teacher.model):
        raise UserError("lockstep.augment: needs a built-in network or a factory as the teacher")


def _changed(lockstep: Lockstep, name: str) -> bool:
    return bool(getattr(lockstep, name) != getattr(Lockstep(), name))


def _fits(recipe: ClassifierRecipe, spec: ClassifierModel | RankedLabels, training: Training) -> bool:
    in_memory = recipe.data.image_folder is None and recipe.data.image is None
    return not is_transformers(spec.model) and in_memory and not trainer_settings(training)
