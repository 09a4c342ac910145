"""The ten-line recipe of docs/guide/lists.md, on a user's own JSONL with permutations."""

import re
from pathlib import Path

from sentence_transformers import SentenceTransformer

from grkd.pipeline.run import run
from grkd.recipe import read
from tests.lists._toys import write_lists, write_teacher

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "lists.md"


def test_the_recipe_of_the_guide_trains_a_bi_encoder(tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    recipe = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    assert len(recipe.splitlines()) <= 10
    example = re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0]
    write_lists(tmp_path / "lists.jsonl", word="tiers")
    with (tmp_path / "lists.jsonl").open("a", encoding="utf-8") as file:
        file.write(example)
    write_teacher(tmp_path / "encoder")  # in place of the hub's
    (tmp_path / "recipe.yaml").write_text(recipe)
    overrides = [f"student.model={tmp_path}/encoder", "training={steps: 2, batch_size: 4}", f"output={tmp_path}/run"]
    assert run(read(tmp_path / "recipe.yaml", overrides)) == 0
    encoder = SentenceTransformer(str(tmp_path / "run" / "best" / "model"), device="cpu")
    assert encoder.encode(["wing song"]).shape == (1, 16)
