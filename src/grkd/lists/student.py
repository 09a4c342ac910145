"""Students: from texts to scores of lists, as one module; saved as folders that sentence-transformers opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grkd import hub
from grkd.data.classification_batches import moved
from grkd.errors import UserError
from grkd.lists.context import HELDOUT, NONE, PreparedLists, RankContext
from grkd.lists.libraries import library
from grkd.lists.tower import build_tower, leave_out_unknown, open_encoder, prompts_of, save_encoder, shorten
from grkd.models.evaluation_mode import evaluation_mode
from grkd.recipe import RankStudent


class BiEncoder(nn.Module):
    """Query and document are embedded apart; a score is `scale` times their cosine."""

    embeds = True

    def __init__(self, encoder: Any, *, scale: float) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.query_prompt, self.document_prompt = prompts_of(encoder)
        self._ids: dict[str, list[int]] = {}  # of a tower: its tokens are made once per text

    def prepare(self, queries: Sequence[str], documents: Sequence[str], candidates: Tensor) -> dict[str, Any]:
        """Features of the queries, and of every document of the lists once; `place` says which is which."""
        used, place = candidates.unique(return_inverse=True)
        first = int(used[0] == NONE)
        texts = [documents[one] for one in used[first:].tolist()]
        features = {
            "queries": self.features(queries, self.query_prompt),
            "documents": self.features(texts, self.document_prompt),
        }
        return {**features, "place": (place - first).clamp_min(0)}

    def features(self, texts: Sequence[str], prompt: str | None) -> dict[str, Tensor]:
        """What the encoder reads: the prompt and the text."""
        first = self.encoder[0]
        is_tower = type(first).__name__ in ("HashedWords", "StaticEmbedding")
        if not is_tower:
            return dict(self.encoder.preprocess(list(texts), prompt=prompt))
        texts = [(prompt or "") + text for text in texts]
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if type(first).__name__ == "HashedWords":
            self._ids.update({text: first.ids(text) for text in new})
        else:
            encodings = first.tokenizer.encode_batch(new, add_special_tokens=False)
            self._ids.update({text: one.ids or [0] for text, one in zip(new, encodings, strict=True)})
        ids = [self._ids[text] for text in texts]
        lengths = torch.tensor([0, *map(len, ids)])
        return {"input_ids": torch.tensor([one for row in ids for one in row]), "offsets": lengths.cumsum(0)[:-1]}

    def embed(self, features: dict[str, Tensor]) -> Float[Tensor, "texts dimensions"]:
        """Embeddings of length 1."""
        found: Tensor = self.encoder(dict(features))["sentence_embedding"]
        return nn.functional.normalize(found, dim=-1)

    def forward(
        self, *, queries: dict[str, Tensor], documents: dict[str, Tensor], place: Int[Tensor, "rows candidates"]
    ) -> Float[Tensor, "rows candidates"]:
        """Scores; what stands in the place of a missing candidate means nothing."""
        asked, offered = self.embed(queries), self.embed(documents)
        return self.scale * (asked @ offered.T).gather(-1, place)

    @torch.no_grad()
    def embedded(
        self, texts: Sequence[str], *, prompt: str | None = None, batch_size: int, device: torch.device
    ) -> Float[Tensor, "texts dim"]:
        """Embeddings of many texts, on the device. prompt: query_prompt or document_prompt."""
        parts = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        return torch.cat([self.embed(moved(self.features(part, prompt), device)) for part in parts])


class CrossEncoder(nn.Module):
    """Query and document are read together; the score is the model's one logit."""

    embeds = False

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def prepare(self, queries: Sequence[str], documents: Sequence[str], candidates: Tensor) -> dict[str, Any]:
        """Features of every pair, and each pair's row and column."""
        rows, columns = (candidates != NONE).nonzero(as_tuple=True)
        chosen = candidates[rows, columns].tolist()
        pairs = [(queries[row], documents[one]) for row, one in zip(rows.tolist(), chosen, strict=True)]
        features = dict(self.encoder.preprocess(pairs))
        return {"pairs": features, "place": torch.stack([rows, columns]), "shape": torch.tensor(candidates.shape)}

    def forward(
        self, *, pairs: dict[str, Tensor], place: Int[Tensor, "2 pairs"], shape: Int[Tensor, " 2"]
    ) -> Float[Tensor, "rows candidates"]:
        """Scores; 0 in the place of a missing candidate."""
        scores = self.encoder(dict(pairs))["scores"].reshape(-1)
        return scores.new_zeros(tuple(shape.tolist())).index_put(tuple(place), scores)


Student = BiEncoder | CrossEncoder


def new_student(context: RankContext, *, seed: int) -> Student:
    """The student before training. Raises UserError for a model that cannot be loaded.

    seed: of a tower's weights, and of the head of an encoder that has been no cross-encoder.
    """
    spec = context.recipe.student
    if spec.model != "tower":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return opened(spec.model, spec, context.device)
    tower = build_tower(
        training_texts(context.lists),
        dimensions=spec.dimensions,
        hidden=spec.hidden,
        words=spec.words,
        pieces=spec.pieces,
        buckets=spec.buckets,
        seed=seed,
    )
    return BiEncoder(tower, scale=spec.scale).to(context.device)


def training_texts(lists: PreparedLists) -> list[str]:
    """All documents, and the queries that are not held out."""
    known = (lists.part != HELDOUT).tolist()
    return [*lists.documents, *(query for query, one in zip(lists.queries, known, strict=True) if one)]


def opened(folder: str, spec: RankStudent, device: torch.device) -> Student:
    """A saved student, or a model by its hub name."""
    try:
        if spec.kind == "cross_encoder":
            hub.look_for(folder)
            encoder = library("sentence_transformers").CrossEncoder(
                folder, num_labels=1, activation_fn=nn.Identity(), device=str(device)
            )
            shorten(encoder, spec.max_tokens)
            return CrossEncoder(encoder)
        encoder = open_encoder(folder, device)
        leave_out_unknown(encoder)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"student.model: {folder}: {text}") from None
    if hasattr(encoder[0], "auto_model") or hasattr(encoder[0], "model"):
        shorten(encoder, spec.max_tokens)
    return BiEncoder(encoder, scale=spec.scale)


def save_student(student: Student, folder: Path, card: str) -> None:
    """A folder that SentenceTransformer or CrossEncoder opens, with its model card."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(student, BiEncoder):
        student.encoder.similarity_fn_name = "cosine"  # by which it was trained, whatever its base says
    save_encoder(student.encoder, folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


@torch.no_grad()
def scored(context: RankContext, student: Student, queries: Tensor) -> Float[Tensor, "rows candidates"]:
    """The student's scores of these queries' candidates, float32 on the CPU, in eval mode."""
    lists = context.lists
    width = lists.candidates.shape[1]
    step = max(1, context.recipe.evaluation.batch_size // width)
    found = []
    with evaluation_mode(student):
        for part in queries.split(step):
            texts = [lists.queries[one] for one in part.tolist()]
            inputs = student.prepare(texts, lists.documents, lists.candidates[part])
            found.append(student(**moved(inputs, context.device)).float().cpu())
    return torch.cat(found)
