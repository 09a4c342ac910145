"""cuDNN's attention over rows of several sequences, forward and backward; graphs by the package nvidia-cudnn-frontend.

On Hopper and newer GPUs. Sequences lie one after the other, [tokens, heads, width], and cuDNN is told where each begins
(ragged offsets). A graph is built once for a number of sequences, a greatest length and rounded numbers of tokens.
"""

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from grkd.models._packed_row import PackedRow

_MULTIPLE = 4096  # numbers of tokens are rounded up to it, so that few graphs are built
_IDS = ("q", "k", "v", "o", "stats", "do", "dq", "dk", "dv", "q_at", "k_at", "stats_at", "q_lengths", "k_lengths")
_UID = {name: number for number, name in enumerate(_IDS, start=1)}


def attend(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
    """Attention of query [T, heads, width] to key, value [K, key heads, width] -> [T, heads, width].

    Gradients of keys behind the last sequence are not written.
    """
    shared = row.key_starts is not None
    found: Tensor = torch.ops.grkd.ragged_attention(
        query, key, value, row.starts, row.starts_of_keys, row.longest, row.scale, row.window or 0, shared
    )[0]
    return found


@torch.library.custom_op("grkd::ragged_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    scale: float,
    window: int,
    shared: bool,
) -> tuple[Tensor, Tensor]:
    """The output, and of every query and head the logarithm of its scores' sum, float32 [T, heads]."""
    out = torch.empty_like(query)
    stats = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
    given = {"q": query, "k": key, "v": value, "o": out, "stats": stats}
    _run(False, given, starts, key_starts, (longest, scale, window, shared))
    return out, stats


@_forward.register_fake
def _(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)


@torch.library.custom_op("grkd::ragged_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    stats: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    scale: float,
    window: int,
    shared: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value."""
    made = [torch.empty_like(tensor) for tensor in (query, key, value)]
    given = {"q": query, "k": key, "v": value, "o": out, "stats": stats, "do": gradient.contiguous()}
    given |= dict(zip(("dq", "dk", "dv"), made, strict=True))
    _run(True, given, starts, key_starts, (longest, scale, window, shared))
    return made[0], made[1], made[2]


@_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _saved(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, starts, key_starts, *ctx.options = inputs
    ctx.save_for_backward(query, key, value, *output, starts, key_starts)


def _differentiated(context: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.grkd.ragged_attention_backward(gradient, *context.saved_tensors, *context.options)
    return (*found, None, None, None, None, None, None)


_forward.register_autograd(_differentiated, setup_context=_saved)


def _run(
    backward: bool,
    given: dict[str, Tensor],
    starts: Tensor,
    key_starts: Tensor,
    options: tuple[int, float, int, bool],
) -> None:
    """Run the graph for these tensors; what it writes is among them."""
    query, key = given["q"], given["k"]
    (tokens, heads, width), (keys, key_heads, _) = query.shape, key.shape
    given = {name: tensor.contiguous() for name, tensor in given.items()}
    given |= _places(starts, key_starts, (heads, key_heads, width))
    rounded = tuple(-(-many // _MULTIPLE) * _MULTIPLE for many in (tokens, keys))
    with torch.cuda.device(query.device):
        handle = _handle(query.device)
        graph, bytes_beside = _graph(
            backward, query.device, query.dtype, len(starts) - 1, (heads, key_heads, width), rounded, *options
        )
        _cudnn().set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        workspace = torch.empty(max(1, bytes_beside), dtype=torch.uint8, device=query.device)
        graph.execute({_UID[name]: tensor.data_ptr() for name, tensor in given.items()}, workspace, handle=handle)


_kept: OrderedDict[tuple[int, int, tuple[int, int, int]], tuple[Tensor, Tensor, dict[str, Tensor]]] = OrderedDict()


def _places(starts: Tensor, key_starts: Tensor, heads: tuple[int, int, int]) -> dict[str, Tensor]:
    """Where sequences begin, in numbers, and their lengths; made once for all layers of a model and a batch.

    Kept by identity: a batch's tensors are never written to again.
    """
    key = (id(starts), id(key_starts), heads)
    if key not in _kept or _kept[key][0] is not starts or _kept[key][1] is not key_starts:
        queries, keys, width = heads
        ends = starts.long()
        made = {
            "q_at": ends * (queries * width),
            "k_at": key_starts.long() * (keys * width),
            "stats_at": ends * queries,
            "q_lengths": starts.diff(),
            "k_lengths": key_starts.diff(),
        }
        _kept[key] = (starts, key_starts, made)
        while len(_kept) > 8:
            _kept.popitem(last=False)
    return _kept[key][2]


@functools.cache
def _cudnn() -> Any:
    import cudnn

    return cudnn


@functools.cache
def _handle(device: torch.device) -> Any:
    return _cudnn().create_handle()


class _Layout:
    """The tensors of one graph. heads: of queries, of keys, and their width."""

    def __init__(self, graph: Any, kind: Any, sequences: int, heads: tuple[int, int, int], longest: int) -> None:
        queries, keys, width = heads
        types = _cudnn().data_type
        self.graph, self.kind, self.wide = graph, kind, types.FLOAT
        offsets = {name: self._small(name, sequences + 1, types.INT64) for name in ("q_at", "k_at", "stats_at")}
        self.lengths = {
            f"seq_len_{name}": self._small(f"{end}_lengths", sequences, types.INT32)
            for name, end in (("q", "q"), ("kv", "k"))
        }
        lies = {
            end: ([sequences, many, longest, each], [longest * many * each, each, many * each, 1], offsets[f"{end}_at"])
            for end, many, each in (("q", queries, width), ("k", keys, width), ("stats", queries, 1))
        }
        like = {"o": "q", "do": "q", "dq": "q", "v": "k", "dk": "k", "dv": "k"}
        self.lies = {name: lies[like.get(name, name)] for name in _IDS[:9]}

    def given(self, name: str) -> Any:
        dim, stride, offsets = self.lies[name]
        kind = self.wide if name == "stats" else self.kind
        made = self.graph.tensor(name=name, dim=dim, stride=stride, data_type=kind, uid=_UID[name])
        made.set_ragged_offset(offsets)
        return made

    def written(self, tensor: Any, name: str) -> None:
        dim, stride, offsets = self.lies[name]
        tensor.set_output(True).set_dim(dim).set_stride(stride)
        tensor.set_uid(_UID[name])
        tensor.set_data_type(self.wide if name == "stats" else self.kind)
        tensor.set_ragged_offset(offsets)

    def _small(self, name: str, many: int, kind: Any) -> Any:
        return self.graph.tensor(name=name, dim=[many, 1, 1, 1], stride=[1, 1, 1, 1], data_type=kind, uid=_UID[name])


@functools.lru_cache(maxsize=256)
def _graph(
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    sequences: int,
    heads: tuple[int, int, int],
    rounded: tuple[int, int],
    longest: int,
    scale: float,
    window: int,
    shared: bool,
) -> tuple[Any, int]:
    """A built graph, and the bytes that it works in. rounded: numbers of query tokens and of keys."""
    cudnn = _cudnn()
    kind, wide = (cudnn.data_type.BFLOAT16 if dtype == torch.bfloat16 else cudnn.data_type.HALF), cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=kind, intermediate_data_type=wide, compute_data_type=wide, handle=_handle(device)
    )
    layout = _Layout(graph, kind, sequences, heads, longest)
    options: dict[str, Any] = {
        "attn_scale": scale,
        "use_padding_mask": True,
        "diagonal_alignment": getattr(cudnn.diagonal_alignment, "BOTTOM_RIGHT" if shared else "TOP_LEFT"),
        "diagonal_band_right_bound": 0,
        **({"diagonal_band_left_bound": window} if window else {}),
        **layout.lengths,
    }
    inputs = {name: layout.given(name) for name in ("q", "k", "v")}
    if backward:
        inputs |= {"o": layout.given("o"), "dO": layout.given("do"), "stats": layout.given("stats")}
        limits = {"max_total_seq_len_q": rounded[0], "max_total_seq_len_kv": rounded[1]}
        made = graph.sdpa_backward(name="backward", **inputs, **options, **limits)
    else:
        made = graph.sdpa(name="forward", **inputs, **options, generate_stats=True)
    for tensor, name in zip(made, ("dq", "dk", "dv") if backward else ("o", "stats"), strict=True):
        layout.written(tensor, name)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    return graph, graph.get_workspace_size()
