"""Models that score the candidates of a query: bi-encoders, cross-encoders, language models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grkd import hub
from grkd.errors import UserError
from grkd.files import read_json
from grkd.lists.context import RankContext, pairs_of
from grkd.lists.language_models import written_orders, yes_or_no_margins
from grkd.lists.libraries import library
from grkd.lists.tower import open_encoder, shorten

Kind = Literal["bi_encoder", "cross_encoder", "language_model"]


def kind_of(model: str) -> Kind:
    """What a folder or hub name holds. Raises UserError for what can score no candidates."""
    hub.look_for(model)
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
    """The model's score of every candidate, NaN if there is none; float64 on the CPU. They must be finite."""
    ways: dict[Kind, Callable[[RankContext, str], list[float]]] = {
        "bi_encoder": _by_bi_encoder,
        "cross_encoder": _by_cross_encoder,
        "language_model": written_orders if context.recipe.teacher.asks == "permutation" else yes_or_no_margins,
    }
    lists = context.lists
    found = torch.full(lists.candidates.shape, torch.nan, dtype=torch.float64)
    with torch.no_grad():
        scores = torch.tensor(ways[kind_of(model)](context, model), dtype=torch.float64)
    if not bool(scores.isfinite().all()):
        raise UserError(f"teacher.models: {model}: some of its scores are not finite")
    found[lists.exists] = scores
    return found


def _by_bi_encoder(context: RankContext, model: str) -> list[float]:
    """`scale` times the cosine, or the similarity that the model was made for (dot, distance), with its prompts."""
    encoder = open_encoder(model, context.device)
    lists, size = context.lists, context.recipe.teacher.batch_size
    options: dict[str, Any] = {"batch_size": size, "convert_to_tensor": True, "show_progress_bar": False}
    shorten(encoder, context.recipe.teacher.max_tokens)
    used = lists.candidates[lists.exists].unique()
    queries = encoder.encode_query(lists.queries, **options)
    documents = encoder.encode_document([lists.documents[one] for one in used.tolist()], **options)
    rows, columns = lists.exists.nonzero(as_tuple=True)
    places = torch.searchsorted(used, lists.candidates[rows, columns])
    parts = zip(rows.split(8192), places.split(8192), strict=True)
    alike, where = encoder.similarity_pairwise, queries.device
    scores = torch.cat([alike(queries[a.to(where)], documents[b.to(where)]).cpu() for a, b in parts])
    scale = context.recipe.teacher.scale if encoder.similarity_fn_name == "cosine" else 1.0
    return list((scale * scores).tolist())


def _by_cross_encoder(context: RankContext, model: str) -> list[float]:
    teacher = context.recipe.teacher
    encoder = library("sentence_transformers").CrossEncoder(
        model, device=str(context.device), activation_fn=torch.nn.Identity()
    )
    shorten(encoder, teacher.max_tokens)
    scores = encoder.predict(pairs_of(context), batch_size=teacher.batch_size, show_progress_bar=False)
    return [float(one) for one in scores.reshape(-1)]


def _is_cross_encoder(model: str) -> bool:
    """By the settings that sentence-transformers 6 writes beside a model, in a folder or on the hub."""
    settings = library("sentence_transformers.util.file_io").load_file_path(model, "config_sentence_transformers.json")
    return settings is not None and read_json(Path(settings)).get("model_type") == "CrossEncoder"
