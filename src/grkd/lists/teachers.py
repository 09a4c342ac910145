"""Models that score the candidates of a query: bi-encoders, cross-encoders, language models asked one by one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError
from grkd.files import read_json
from grkd.lists.context import RankContext
from grkd.lists.libraries import library

Kind = Literal["bi_encoder", "cross_encoder", "language_model"]
PROMPT = (
    "Document: {document}\n\nQuestion: {query}\n\nDoes the document answer the question? Answer Yes or No.\nAnswer:"
)


def kind_of(model: str) -> Kind:
    """What a folder or hub name holds. Raises UserError for what can score no candidates."""
    if library("sentence_transformers.util.file_io").is_sentence_transformer_model(model):
        return "cross_encoder" if _is_cross_encoder(model) else "bi_encoder"
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:150]
        raise UserError(f"teacher.models: {model}: neither sentence-transformers' nor transformers' ({text})") from None
    names = " ".join(config.architectures or [])
    if "ForSequenceClassification" in names:
        if config.num_labels != 1:
            text = f"has {config.num_labels} scores per pair; a ranker has one"
            raise UserError(f"teacher.models: {model}: {text}")
        return "cross_encoder"
    if "ForCausalLM" in names or "LMHead" in names:
        return "language_model"
    raise UserError(f"teacher.models: {model}: {names or 'this model'} scores no pairs of query and document")


def scored_by(context: RankContext, model: str) -> Float[Tensor, "queries candidates"]:
    """The model's score of every candidate, NaN where there is none; float64 on the CPU. They must be finite."""
    ways: dict[Kind, Callable[[RankContext, str], list[float]]] = {
        "bi_encoder": _by_bi_encoder,
        "cross_encoder": _by_cross_encoder,
        "language_model": _by_language_model,
    }
    lists = context.lists
    found = torch.full(lists.candidates.shape, torch.nan, dtype=torch.float64)
    with torch.no_grad():
        scores = torch.tensor(ways[kind_of(model)](context, model), dtype=torch.float64)
    if not bool(scores.isfinite().all()):
        raise UserError(f"teacher.models: {model}: some of its scores are not finite")
    found[lists.exists] = scores
    return found


def _pairs(context: RankContext) -> list[tuple[str, str]]:
    """(query, document) of every candidate, list by list."""
    lists = context.lists
    rows, columns = lists.exists.nonzero(as_tuple=True)
    documents = lists.candidates[rows, columns].tolist()
    return [(lists.queries[row], lists.documents[one]) for row, one in zip(rows.tolist(), documents, strict=True)]


def _by_bi_encoder(context: RankContext, model: str) -> list[float]:
    encoder = library("sentence_transformers").SentenceTransformer(model, device=str(context.device))
    lists, size = context.lists, context.recipe.teacher.batch_size
    options: dict[str, Any] = {"batch_size": size, "convert_to_tensor": True, "show_progress_bar": False}
    options["normalize_embeddings"] = True
    used = lists.candidates[lists.exists].unique()
    queries = encoder.encode(lists.queries, **options)
    documents = encoder.encode([lists.documents[one] for one in used.tolist()], **options)
    rows, columns = lists.exists.nonzero(as_tuple=True)
    places = torch.searchsorted(used, lists.candidates[rows, columns])
    parts = zip(rows.split(8192), places.split(8192), strict=True)
    scores = [(queries[a.to(queries.device)] * documents[b.to(queries.device)]).sum(-1).cpu() for a, b in parts]
    return list((context.recipe.teacher.scale * torch.cat(scores)).tolist())


def _by_cross_encoder(context: RankContext, model: str) -> list[float]:
    teacher = context.recipe.teacher
    encoder = library("sentence_transformers").CrossEncoder(
        model, device=str(context.device), max_length=teacher.max_tokens, activation_fn=torch.nn.Identity()
    )
    scores = encoder.predict(_pairs(context), batch_size=teacher.batch_size, show_progress_bar=False)
    return [float(one) for one in scores.reshape(-1)]


def _by_language_model(context: RankContext, model: str) -> list[float]:
    """log p(Yes) - log p(No) as the next token behind the prompt; a long document is cut at its end."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = context.recipe.teacher
    tokenizer = AutoTokenizer.from_pretrained(model)
    dtype = torch.bfloat16 if context.device.type == "cuda" else torch.float32
    network = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(context.device).eval()
    yes, no = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    pairs = _pairs(context)
    prompts = [_prompt(tokenizer, teacher.prompt or PROMPT, *pair, most=teacher.max_tokens) for pair in pairs]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    scores = [0.0] * len(prompts)
    for start in range(0, len(order), teacher.batch_size):
        part = order[start : start + teacher.batch_size]
        ids, mask = _padded([prompts[number] for number in part])
        logits = network(
            input_ids=ids.to(context.device), attention_mask=mask.to(context.device), logits_to_keep=1
        ).logits[:, -1]
        margins = (logits[:, yes].float() - logits[:, no].float()).cpu().tolist()
        for number, margin in zip(part, margins, strict=True):
            scores[number] = margin
    return scores


def _prompt(tokenizer: Any, prompt: str, query: str, document: str, *, most: int) -> list[int]:
    """Token ids of the prompt, the document shortened until they are `most` at the most."""

    def encoded(text: str) -> list[int]:
        filled = prompt.replace("{query}", query).replace("{document}", text)
        return list(tokenizer(filled)["input_ids"])

    ids = encoded(document)
    while len(ids) > most and document:
        document = document[: max(0, int(len(document) * most / len(ids)) - 8)]
        ids = encoded(document)
    return ids


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids padded on the left, and where they are."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*[0] * (longest - len(row)), *row] for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _is_cross_encoder(model: str) -> bool:
    """By the settings that sentence-transformers 6 writes beside a model."""
    path = Path(model) / "config_sentence_transformers.json"
    return path.is_file() and read_json(path).get("model_type") == "CrossEncoder"
