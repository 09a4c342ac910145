"""A small world of lists: topics told apart by their words, a tower as the teacher, and recipes on them."""

import json
import random
from pathlib import Path
from typing import Any

from grkd.lists.context import RankContext
from grkd.lists.tower import build_tower
from grkd.recipe import RankRecipe, read
from grkd.run.folder import RunFolder

TOPICS = {
    "birds": ["wing", "feather", "nest", "song"],
    "planes": ["engine", "runway", "pilot", "jet"],
    "boats": ["sail", "anchor", "harbour", "keel"],
}


def texts(seed: int = 0, count: int = 12) -> list[tuple[str, str]]:
    """(topic, text): each text has three words of its topic."""
    random_ = random.Random(seed)
    return [
        (topic, " ".join(random_.choices(words, k=3))) for topic, words in TOPICS.items() for _ in range(count // 3)
    ]


def write_lists(path: Path, *, count: int = 12, word: str = "scores", seed: int = 1) -> Path:
    """Queries of two words; candidates of the same topic are above the others."""
    random_ = random.Random(seed)
    rows = []
    for number in range(count):
        topic = list(TOPICS)[number % 3]
        candidates = list(dict.fromkeys(text for _, text in random_.sample(texts(), 8)))
        owners = {text: owner for owner, text in texts()}
        relevant = [float(owners[text] == topic) for text in candidates]
        row: dict[str, Any] = {
            "query": " ".join(random_.choices(TOPICS[topic], k=2)) + f" {number}",
            "candidates": candidates,
        }
        if word == "scores":
            row["scores"] = [one + random_.random() / 2 for one in relevant]
        elif word == "tiers":
            best = [place for place, one in enumerate(relevant) if one]
            row["order"] = best[:2] or [0]
        row["grades"] = [int(one) for one in relevant]
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_folder(folder: Path) -> Path:
    """The same world as a retrieval set: judgements by topic, half of the queries held out."""
    folder.mkdir(parents=True)
    documents = list(dict.fromkeys(texts()))
    lines = [json.dumps({"_id": f"d{n}", "text": text}) for n, (_, text) in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    queries, judged, split = [], ["query\tdocument\tgrade"], ["query\tpart"]
    for number in range(12):
        topic = list(TOPICS)[number % 3]
        queries.append(json.dumps({"_id": f"q{number}", "text": f"{TOPICS[topic][number % 4]} of {topic}"}))
        judged += [f"q{number}\td{n}\t1" for n, (owner, _) in enumerate(documents) if owner == topic]
        split.append(f"q{number}\t{'test' if number % 2 else 'train'}")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    (folder / "qrels.tsv").write_text("\n".join(judged) + "\n")
    (folder / "split.tsv").write_text("\n".join(split) + "\n")
    return folder


def write_teacher(folder: Path) -> Path:
    """A bi-encoder that knows the words of the world."""
    build_tower([text for _, text in texts()], dimensions=16, seed=0).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


RECIPE = """
task: rank
output: {output}
device: cpu
data: {{train: lists.jsonl, heldout: heldout.jsonl}}
student: {{dimensions: 8}}
methods: [{{name: grkd, preset: lists}}, kd]
training: {{steps: 6, batch_size: 4, learning_rate: 0.05, log_every: 1, save_every: 3}}
"""


def recipe(folder: Path, *overrides: str, text: str = RECIPE) -> RankRecipe:
    path = folder / "recipe.yaml"
    path.write_text(text.format(output=folder / "run"))
    found = read(path, overrides)
    assert isinstance(found, RankRecipe)
    return found


def context(folder: Path, *overrides: str, text: str = RECIPE) -> RankContext:
    found = recipe(folder, *overrides, text=text)
    return RankContext(found, RunFolder(Path(found.output)))
