"""One or more example calls for every operation that has a rule, and what must be believed of each.

Read "a (b*c) -> a b c" as: a letter is a free axis, a number a size that stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A call that reaches the operation `name`: directly, or through a Python function."""

    name: str
    expected: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    through: Callable[..., Any] | None = None


EXAMPLES: list[Example] = []

# Operations that cannot be called on a CPU, and why.
EXEMPT = {
    "_fused_dropout": "CUDA only",
    "_scaled_dot_product_flash_attention": "CUDA only; shares its rule with the CPU's kernel",
    "_scaled_dot_product_efficient_attention": "CUDA only; shares its rule",
    "_scaled_dot_product_cudnn_attention": "CUDA only; shares its rule",
    "_scaled_dot_product_fused_attention_overrideable": "for other backends; shares its rule",
    "convolution_overrideable": "for other backends; shares its rule with convolution",
    "cudnn_batch_norm": "CUDA only; shares its rule with native_batch_norm",
    "miopen_batch_norm": "ROCm only; shares its rule with native_batch_norm",
    "mkldnn_linear": "takes tensors in oneDNN's own layout only",
    "mkldnn_max_pool2d": "takes tensors in oneDNN's own layout only",
    "mkldnn_max_pool3d": "takes tensors in oneDNN's own layout only",
    "mkldnn_adaptive_avg_pool2d": "takes tensors in oneDNN's own layout only",
    "_grouped_mm": "refuses sizes that are not multiples of 8; tests/graph/rules/test_matmul.py",
    "_thnn_fused_lstm_cell": "CUDA only; tests/graph/rules/test_recurrent.py",
    "_thnn_fused_gru_cell": "CUDA only; tests/graph/rules/test_recurrent.py",
    "slice_inverse": "only exists inside functionalised graphs",
}


def call(names: str, expected: str, *args: Any, **kwargs: Any) -> None:
    """Add the same direct call for one or more operations."""
    EXAMPLES.extend(Example(name, expected, args, kwargs) for name in names.split())


def through(name: str, expected: str, function: Callable[..., Any], *args: Any) -> None:
    """Add a call of a Python function, whose sizes are then followed."""
    EXAMPLES.append(Example(name, expected, args, {}, function))


_generator = torch.Generator().manual_seed(0)


def R(*shape: int) -> Tensor:
    """Normal values."""
    return torch.randn(shape, generator=_generator)


def P(*shape: int) -> Tensor:
    """Positive values."""
    return torch.rand(shape, generator=_generator) + 0.05


def C(*shape: int) -> Tensor:
    """Complex values."""
    return torch.complex(R(*shape), R(*shape))


def M(*shape: int) -> Tensor:
    """A mask."""
    return P(*shape) > 0.5


def N(high: int, *shape: int) -> Tensor:
    """Whole numbers."""
    return torch.randint(high, shape, generator=_generator)


# --- pointwise ------------------------------------------------------------------------------------
UNARY = """relu_ hardtanh_ silu_ leaky_relu_ elu_ sigmoid_ tanh_ hardsigmoid_ gelu_ celu_ exp_ sqrt_
 neg_ nan_to_num_ floor_ rsqrt_ square_ abs_ round_ sign_ mish_ hardswish hardswish_ erf
 conj_physical resolve_conj real zero_ detach detach_ alias clone contiguous lift lift_fresh
 softplus _to_copy logical_not_"""
call(UNARY, "a b -> a b", R(3, 4))
RANDOM = "normal_ uniform_ exponential_ bernoulli_ log_normal_ cauchy_ normal_functional"
call(RANDOM + " rand_like randn_like", "3 4 -> 3 4", R(3, 4))
call("geometric_", "3 4 -> 3 4", P(3, 4), 0.5)
call("poisson", "3 4 -> 3 4", P(3, 4))
call("imag real _conj", "a b -> a b", C(3, 4))
call("bernoulli", "3 4 -> 3 4", P(3, 4).clamp(max=1))
call("bitwise_not_", "a b -> a b", M(3, 4))
call("log_sigmoid_forward", "a b -> a b, a b", R(3, 4))
BINARY = "add_ sub_ mul_ div_ copy_ maximum minimum rsub floor_divide logical_and_ logical_or_"
call(BINARY + " complex pow_", "a b, b -> a b", P(3, 4), R(4))
call("mul_ add_", "a b, a 1 -> a b", R(3, 4), R(3, 1))
call("copy", "a b, a b -> a b", R(3, 4), R(3, 4))
call("polar", "a b, b -> a b", P(3, 4), R(4))
call("lerp_", "a b, a b, b -> a b", R(3, 4), R(3, 4), R(4))
call("addcmul_ addcdiv_", "a b, b, a 1 -> a b", R(3, 4), R(4), P(3, 1))
call("pow_ fill_", "a b -> a b", P(3, 4), 2.0)
call("masked_fill masked_fill_", "a b, b -> a b", R(3, 4), M(4), 2.0)
call("where", "a, b 1, b a -> b a", M(4), R(3, 1), R(3, 4))
call("searchsorted", "4, a b -> a b", torch.tensor([-0.5, 0.0, 0.1, 0.5]), R(3, 4))
call("_prelu_kernel", "a b c, 1 b 1 -> a b c", R(3, 4, 2), R(1, 4, 1))
call("clamp_ threshold_", "a b -> a b", R(3, 4), -0.5, 0.5)
call("clamp_min_ clamp_max_", "a b -> a b", R(3, 4), 0.0)
call("rrelu_with_noise", "3 4, 3 4 -> 3 4", R(3, 4), R(3, 4))
call("bucketize", "a b, 4 -> a b", R(3, 4), torch.tensor([-0.5, 0.0, 0.1, 0.5]))
call("dropout", "a b -> a b", R(3, 4), 0.5, False)
call("native_dropout", "3 4 -> 3 4, 3 4", R(3, 4), 0.5, True)

# --- shape ----------------------------------------------------------------------------------------
call("view reshape _unsafe_view view_copy _reshape_copy", "a (b*c) -> a b c", R(3, 8), [3, 2, 4])
call("view reshape", "a b c -> (a*b) c", R(3, 2, 4), [6, 4])
call("view reshape", "a b -> (a*b)", R(3, 4), [-1])
call("view reshape", "4 6 -> 3 8", R(4, 6), [3, 8])
call("view_as reshape_as", "a (b*c), d e f -> a b c | a d | b e | c f", R(3, 8), R(3, 2, 4))
call("_reshape_alias", "a (b*c) -> a b c", R(3, 8), [3, 2, 4], [8, 4, 1])
call("view_as_real", "a b -> a b 2", C(3, 4))
call("view_as_complex", "a b 2 -> a b", R(3, 4, 2))
call("permute permute_copy", "a b c -> c a b", R(2, 3, 4), [2, 0, 1])
call("permute", "a b c -> b c a", R(3, 3, 3), [1, 2, 0])
call("transpose transpose_ swapaxes swapaxes_ transpose_copy", "a b c -> c b a", R(2, 3, 4), 0, 2)
call("transpose", "a b c -> a c b", R(3, 3, 3), -1, -2)
call("t t_ numpy_T t_copy", "a b -> b a", R(3, 4))
call("unsqueeze unsqueeze_ unsqueeze_copy", "a b -> a 1 b", R(3, 4), 1)
call("unsqueeze", "a b -> a b 1", R(3, 4), -1)
call("squeeze squeeze_ squeeze_copy", "a 1 b -> a b", R(3, 1, 4), 1)
call("squeeze", "a 1 b -> a b", R(3, 1, 4))
call("squeeze", "a 1 b -> a 1 b", R(3, 1, 4), 0)
call("expand expand_copy broadcast_to", "a 1 b -> c a d b", R(3, 1, 4), [2, 3, 5, 4])
call("expand", "a 1 -> a b", R(3, 1), [-1, 4])
call("expand_as", "a 1 b, c d e -> a f b | a c | b e | d f", R(3, 1, 4), R(3, 5, 4))
call("repeat", "a b -> c (d*a) b", R(3, 4), [2, 3, 1])
call("channel_shuffle native_channel_shuffle", "a (2*b) c d -> a (b*2) c d", R(2, 6, 2, 2), 2)
call("glu", "a (b+b) -> a b", R(3, 8), 1)
call("pixel_shuffle", "a (b*4) 3 3 -> a b 6 6", R(2, 12, 3, 3), 2)
call("pixel_unshuffle", "a b 4 4 -> a (b*4) 2 2", R(2, 3, 4, 4), 2)
call("as_strided as_strided_ as_strided_copy", "a b -> a b", R(3, 8), [3, 8], [8, 1])
call("as_strided", "a 8 -> a 3 4", R(3, 8), [3, 3, 4], [8, 2, 1])
call("flip", "a 4 -> a 4", R(3, 4), [1])
call("roll", "a 4 -> a 4", R(3, 4), [1], [1])
call("roll", "3 4 -> 3 4", R(3, 4), [1])
call("rot90", "a 3 3 -> a 3 3", R(2, 3, 3), 1, [1, 2])

# --- joining --------------------------------------------------------------------------------------
call("cat concat", "a b, a c -> a (b+c)", [R(3, 4), R(3, 2)], 1)
call("cat", "a b, c b -> (a+c) b", [R(3, 4), R(5, 4)])
call("stack", "a b, a b -> a 2 b", [R(3, 4), R(3, 4)], 1)
call("split unsafe_split split_copy", "a (b+c) -> a b, a c | b c", R(3, 8), 4, 1)
SPLIT = "split_with_sizes unsafe_split_with_sizes split_with_sizes_copy"
call(SPLIT, "a (b+c+1) -> a b, a c, a 1", R(3, 8), [2, 5, 1], 1)
through("split", "a (b+c) -> a b, a c | b c", lambda x: x.chunk(2, 1), R(3, 8))
call("chunk unsafe_chunk", "a (b+c) -> a b, a c | b c", R(3, 8), 2, 1)
call("tensor_split", "a 8 -> a 4, a 4", R(3, 8), 2, 1)
call("tensor_split", "a 8 -> a 2, a 3, a 3", R(3, 8), [2, 5], 1)
call("slice slice_copy", "a (5+b) -> a 3", R(3, 8), 1, 2, 5)
call("slice", "a (b+2) -> a b", R(3, 8), 1, 0, -2)
call("slice", "a (b*2) -> a b", R(3, 8), 1, 1, None, 2)
call("narrow", "a (b+c+d) -> a c", R(3, 8), 1, 2, 3)
call("select select_copy", "a 4 -> a", R(3, 4), 1, 2)
call("unbind unbind_copy", "a 2 -> a, a", R(3, 2), 1)
call("constant_pad_nd", "a b -> a (2+b+3)", R(3, 4), [2, 3])
call("constant_pad_nd", "a b -> (1+a) b", R(3, 4), [0, 0, 1, 0])
call("constant_pad_nd", "a 4 -> a 3", R(3, 4), [-1, 0])

# --- matrix products ------------------------------------------------------------------------------
call("mm", "a b, b c -> a c", R(3, 4), R(4, 5))
call("bmm", "a b c, a c d -> a b d", R(2, 3, 4), R(2, 4, 5))
call("addmm addmm_", "a b, a c, c b -> a b", R(3, 5), R(3, 4), R(4, 5))
call("addmm", "a, b c, c a -> b a", R(5), R(3, 4), R(4, 5))
call("baddbmm baddbmm_", "a b c, a b d, a d c -> a b c", R(2, 3, 5), R(2, 3, 4), R(2, 4, 5))
call("mv", "a b, b -> a", R(3, 4), R(4))
call("dot vdot", "a, a -> ()", R(4), R(4))
call("addmv", "a, a b, b -> a", R(3), R(3, 4), R(4))
call("linear", "a b c, d c, d -> a b d", R(2, 3, 4), R(5, 4), R(5))
BILINEAR = (R(3, 4), R(5, 4, 6), R(3, 6), [1, 3], [0], [1, 2], [2, 3])
call("_trilinear", "a b, c b d, a d -> a c", *BILINEAR)
call("_cdist_forward", "a b, c b -> a c", R(3, 4), R(5, 4), 2.0, None)
call("_cdist_forward", "a b, c b -> a c", R(3, 4), R(5, 4), 1.0, None)
call("_euclidean_dist", "a b, c b -> a c", R(3, 4), R(5, 4))

# --- making tensors -------------------------------------------------------------------------------
call("zeros_like ones_like empty_like", "a b -> a b", R(3, 4))
call("full_like", "a b -> a b", R(3, 4), 2.0)
call("randint_like", "3 4 -> 3 4", R(3, 4), 5)
call("zeros ones empty", " -> a b", [3, 4])
call("rand randn", " -> 3 4", [3, 4])
call("_efficientzerotensor", " -> 3 4", [3, 4])
call("full", " -> a b", [3, 4], 2.0)
call("scalar_tensor", " -> ()", 2.0)
call("empty_strided", " -> 3 4", [3, 4], [4, 1])
call("empty_permuted", " -> 3 4", [3, 4], [0, 1])
call("randint", " -> 3 4", 5, [3, 4])
call("new_zeros new_ones new_empty", "a -> b c", R(2), [3, 4])
call("new_full", "a -> b c", R(2), [3, 4], 2.0)
call("new_empty_strided", "a -> 3 4", R(2), [3, 4], [4, 1])
call("arange hann_window randperm", " -> 4", 4)
call("linspace logspace", " -> 4", 0.0, 1.0, 4)
call("eye", " -> 4 4", 4)
call("tril_indices triu_indices", " -> 2 6", 3, 3)

# --- look-ups -------------------------------------------------------------------------------------
IX = torch.tensor([1, 4, 2])
call("embedding", "10 a, b c -> b c a", R(10, 4), N(10, 2, 3))
BAG = "_embedding_bag _embedding_bag_forward_only"
call(BAG, "10 a, 6, 2 -> 2 a, 0, 2, 2", R(10, 4), N(10, 6), torch.tensor([0, 2]))
call("index _unsafe_index", "a 6 b, c d -> a c d b", R(5, 6, 4), [None, N(6, 3, 2)])
call("index", "5 a 4, b, b -> b a", R(5, 6, 4), [N(5, 3), None, N(4, 3)])
call("index", "5 6 a, b 1, c -> b c a", R(5, 6, 4), [N(5, 3, 1), N(6, 2)])
PUT = "index_put index_put_ _index_put_impl_ _unsafe_index_put"
call(PUT, "a 6 b, 3, a 3 b -> a 6 b", R(5, 6, 4), [None, IX], R(5, 3, 4))
call("index_put", "a 6 b, 3, b -> a 6 b", R(5, 6, 4), [None, IX], R(4))
call("index_put", "5 a b, 3, 3 a b -> 5 a b", R(5, 6, 4), [IX], R(3, 6, 4))
call("index_select", "a 6, b -> a b", R(5, 6), 1, N(6, 3))
call("gather", "a 6, a b -> a b", R(5, 6), 1, N(6, 5, 3))
call("gather", "5 6, 2 a -> 2 a", R(5, 6), 1, N(6, 2, 3))
ROWS = torch.stack([torch.randperm(6, generator=_generator)[:3] for _ in range(5)])
SCATTER = "scatter scatter_ scatter_add scatter_add_"
call(SCATTER, "a 6, a 3, a 3 -> a 6", R(5, 6), 1, ROWS, R(5, 3))
call("scatter", "a 6, a 3 -> a 6", R(5, 6), 1, ROWS, 2.0)
call("scatter_reduce scatter_reduce_", "a 6, a 3, a 3 -> a 6", R(5, 6), 1, ROWS, R(5, 3), "sum")
COPY = "index_add index_add_ index_copy index_copy_"
call(COPY, "a 6, 3, a 3 -> a 6", R(5, 6), 1, IX, R(5, 3))
call("index_fill index_fill_", "a 6, 3 -> a 6", R(5, 6), 1, IX, 2.0)
call("masked_scatter masked_scatter_", "5 6, 5 6, 5 6 -> 5 6", R(5, 6), M(5, 6), R(5, 6))
call("select_scatter", "5 6, 5 -> 5 6", R(5, 6), R(5), 1, 2)
call("slice_scatter", "5 6, 5 3 -> 5 6", R(5, 6), R(5, 3), 1, 1, 4)
LENGTHS = torch.tensor([5, 4, 2])
call("_pack_padded_sequence", "5 3 a, 3 -> 11 a, 5", R(5, 3, 4), LENGTHS, False)
BATCHES = torch.tensor([3, 3, 2, 2, 1])
call("_pad_packed_sequence", "11 a, 5 -> 5 3 a, 3", R(11, 4), BATCHES, False, 0.0, 5)
ONE_HOT = torch.tensor([[True, False, True], [False, True, True]])
call("nonzero", "2 3 -> 4 2", ONE_HOT)
call("masked_select", "2 3, 2 3 -> 4", R(2, 3), ONE_HOT)
call("histc", "8 -> 4", R(8), 4)
call("bincount", "5 -> 4", torch.tensor([0, 3, 2, 2, 1]))
call("repeat_interleave", "3 -> 6", torch.tensor([1, 2, 3]))
call("unique_consecutive _unique2", "5 -> 4, 0, 0", torch.tensor([0, 1, 2, 2, 3]))

# --- normalisation --------------------------------------------------------------------------------
NORM = (R(3, 4, 5), R(4), R(4), R(4), P(4))
call("native_batch_norm", "a b c, b, b, b, b -> a b c, 0, 0", *NORM, False, 0.1, 1e-5)
call("native_batch_norm", "a b c, b, b, b, b -> a b c, b, b", *NORM, True, 0.1, 1e-5)
call("_native_batch_norm_legit", "a b c, b, b, b, b -> a b c, 0, 0", *NORM, False, 0.1, 1e-5)
call("_native_batch_norm_legit", "a b c, b, b -> a b c, b, b", *NORM[:3], True, 0.1, 1e-5)
LEGIT = "a b c, b, b, b, b -> a b c, 0, 0"
call("_native_batch_norm_legit_no_training", LEGIT, *NORM, 0.1, 1e-5)
call("_native_batch_norm_legit_functional", LEGIT + ", b, b", *NORM, False, 0.1, 1e-5)
call("_batch_norm_no_update", LEGIT + ", 0", *NORM, 0.1, 1e-5)
call("_batch_norm_with_update", "a b c, b, b, b, b -> a b c, b, b, 0", *NORM, 0.1, 1e-5)
through("native_layer_norm", "a b, b, b -> a b", F.layer_norm, R(3, 4), [4], R(4), R(4))
through("native_layer_norm", "a b c, b c -> a b c", F.layer_norm, R(3, 4, 5), [4, 5], R(4, 5))
call("_fused_rms_norm", "a b, b -> a b, a 1", R(3, 4), [4], R(4), 1e-5)
GROUPS = "a (b*c) 5, (b*c), (b*c) -> a (b*c) 5"
through("native_group_norm", GROUPS, F.group_norm, R(3, 8, 5), 2, R(8), R(8))
call("_weight_norm_interface", "a b, a 1 -> a b, a 1", R(3, 4), P(3, 1), 0)
call("_weight_norm_interface", "a b, 1 b -> a b, 1 b", R(3, 4), P(1, 4), 1)

# --- reductions -----------------------------------------------------------------------------------
ALL = "mean sum nansum var std linalg_vector_norm max min median nanmedian prod norm any all"
call(ALL + " count_nonzero", "a b -> ()", R(3, 4) - 3)
DIMS = "mean sum nansum amax amin logsumexp var std count_nonzero"
call(DIMS, "a b -> a", R(3, 4) - 3, [1])
call("mean sum nansum amax amin logsumexp", "a b -> a 1", R(3, 4) - 3, [1], True)
call("prod any all", "a b -> a", R(3, 4), 1)
call("max min median nanmedian", "a b -> a, ?", R(3, 4) - 3, 1)
call("max min", "a b, b -> a b", R(3, 4), R(4))
call("var_mean std_mean", "a b -> a, a", R(3, 4), [1])
call("norm linalg_vector_norm", "a b -> a", R(3, 4), 2.0, [1])
call("aminmax", "a b -> a, a", R(3, 4), dim=1)
call("_softmax _log_softmax", "a b -> a b", R(3, 4), 1, False)
call("_safe_softmax softmax log_softmax", "a b -> a b", R(3, 4), 1)
call("cumsum cumsum_ cumprod logcumsumexp", "a 4 -> a 4", R(3, 4), 1)
call("cummax cummin sort", "a 4 -> a 4, a 4", R(3, 4), 1)
call("argsort", "a 4 -> a 4", R(3, 4), 1)
call("argmax argmin", "a 4 -> a", R(3, 4), 1)
call("argmax argmin", "3 4 -> ()", R(3, 4))
call("mode", "a 4 -> a, a", R(3, 4), 1)
call("kthvalue", "a 4 -> a, a", R(3, 4), 2, 1)
call("topk", "a 4 -> a 2, a 2", R(3, 4), 2, 1)
call("diff", "a 4 -> a 3", R(3, 4), 1, 1)
call("renorm renorm_", "3 a -> 3 a", R(3, 4), 2.0, 1, 1.0)
call("multinomial", "a 4 -> a 2", P(3, 4), 2)
call("tril triu tril_ triu_", "a 3 4 -> a 3 4", R(2, 3, 4))
call("tril triu tril_ triu_", "a b b -> a b b", R(2, 4, 4))
call("tril tril_", "a b b -> a b b", R(2, 4, 4), -1)
call("triu triu_", "a b b -> a b b", R(2, 4, 4), 1)
call("tril triu", "a 4 4 -> a 4 4", R(2, 4, 4), 2)
call("triu", "a 4 4 -> a 4 4", R(2, 4, 4), -1)
call("diagonal diagonal_copy", "a b b c -> a c b", R(2, 4, 4, 3), 0, 2, 1)
call("diagonal", "4 4 -> 3", R(4, 4), 1)
call("diagonal", "3 4 -> 3", R(3, 4))
call("diag_embed", "a b -> b a b", R(3, 4), 0, 0, 2)
call("diag_embed", "a 4 -> a 5 5", R(3, 4), -1)
call("_fft_r2c", "a 4 -> a 3", R(3, 4), [1], 0, True)
call("_fft_c2c", "a 4 -> a 4", C(3, 4), [1], 0, True)
call("_fft_c2r", "a 4 -> a 6", C(3, 4), [1], 0, 6)

# --- convolution ----------------------------------------------------------------------------------
PLAIN = ([1], [0], [1], False, [0], 1)
call("convolution", "a b 5, c b 3, c -> a c 3", R(2, 4, 5), R(6, 4, 3), R(6), *PLAIN)
UP = ([1, 1], [0, 0], [1, 1], True, [0, 0], 1)
call("convolution", "a b 3 3, b c 2 2, c -> a c 4 4", R(2, 4, 3, 3), P(4, 6, 2, 2), P(6), *UP)
FLAGS = (False, False, False, False)
call("_convolution", "a b 5, c b 3, c -> a c 3", R(2, 4, 5), R(6, 4, 3), R(6), *PLAIN, *FLAGS)
SPACE = "a b 5 5, c b 3 3, c -> a c 3 3"
ONEDNN = (R(2, 4, 5, 5), R(6, 4, 3, 3), R(6), [0, 0], [1, 1], [1, 1], 1)
call("mkldnn_convolution", SPACE, *ONEDNN)
GROUPED = "a (b*c) 5, (b*d) c 3, (b*d) -> a (b*d) 3"
through("convolution", GROUPED, F.conv1d, R(2, 4, 5), R(6, 2, 3), R(6), 1, 0, 1, 2)
DEPTHWISE = "a b 5, (b*c) 1 3, (b*c) -> a (b*c) 3"
through("convolution", DEPTHWISE, F.conv1d, R(2, 4, 5), R(8, 1, 3), R(8), 1, 0, 1, 4)
ONE_EACH = "a b 5, b 1 3, b -> a b 3"
through("convolution", ONE_EACH, F.conv1d, R(2, 4, 5), R(4, 1, 3), R(4), 1, 0, 1, 4)
UPWARDS = "a (b*c) 5, (b*c) d 3, (b*d) -> a (b*d) 7"
through("convolution", UPWARDS, F.conv_transpose1d, R(2, 4, 5), R(4, 3, 3), R(6), 1, 0, 0, 2)
call("im2col", "a b 4 4 -> a (b*4) 4", R(2, 3, 4, 4), [2, 2], [1, 1], [0, 0], [2, 2])
call("col2im", "a (b*4) 4 -> a b 4 4", R(2, 12, 4), [4, 4], [2, 2], [1, 1], [0, 0], [2, 2])
call("unfold", "a 8 -> a 3 4", R(3, 8), 1, 4, 2)

# --- attention ------------------------------------------------------------------------------------
SDPA, FLASH = F.scaled_dot_product_attention, "_scaled_dot_product_flash_attention_for_cpu"
Q, V = R(2, 3, 5, 4), R(2, 3, 7, 6)
through(FLASH, "a b 5 4, a b 5 4, a b 5 c -> a b 5 c", SDPA, Q, R(2, 3, 5, 4), R(2, 3, 5, 4))
MATH = "_scaled_dot_product_attention_math"
call(MATH, "a b 5 c, a b 7 c, a b 7 d -> a b 5 d, a b 5 7", Q, R(2, 3, 7, 4), V, scale=0.5)

# --- space ----------------------------------------------------------------------------------------
for rank in (1, 2, 3):
    image, kernel, old, new = R(2, 3, *[4] * rank), [2] * rank, " 4" * rank, " 2" * rank
    half = f"a b{old} -> a b{new}"
    call(f"avg_pool{rank}d max_pool{rank}d adaptive_avg_pool{rank}d", half, image, kernel)
    both = f"{half}, a b{new}"
    call(f"max_pool{rank}d_with_indices adaptive_max_pool{rank}d", both, image, kernel)
    padded = f"a b{old} -> a b{' 6' * rank}"
    call(f"reflection_pad{rank}d replication_pad{rank}d", padded, image, [1] * (2 * rank))
    doubled, sizes = f"a b{old} -> a b{' 8' * rank}", [8] * rank
    call(f"upsample_nearest{rank}d _upsample_nearest_exact{rank}d", doubled, image, sizes)
    smooth = {1: "upsample_linear1d", 3: "upsample_trilinear3d"}.get(rank, "upsample_bilinear2d")
    call(smooth, doubled, image, sizes, False)
    if rank == 2:
        more = "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
        call(more + " _upsample_lanczos2d_aa", doubled, image, sizes, False)
    if rank > 1:
        call(f"_adaptive_avg_pool{rank}d", half, image, kernel)
        sampled = f"a b{old}, a b {rank} -> a b{new}, a b{new}"
        call(f"fractional_max_pool{rank}d", sampled, image, kernel, kernel, P(2, 3, rank) * 0.9)
call("avg_pool2d", "a 4 4 -> a 2 2", R(3, 4, 4), [2, 2])
call("avg_pool2d", "a b c -> a b c", R(2, 5, 4), [3, 1], [1, 1], [1, 0])
call("avg_pool2d", "a 5 4 -> a 3 4", R(2, 5, 4), [3, 1], [1, 1])
call("avg_pool2d", "a 5 4 -> a 5 4", R(2, 5, 4), [3, 3], [1, 1], [1, 1])
call("avg_pool2d", "a 5 4 -> a 3 4", R(2, 5, 4), [3, 1], [2, 1], [1, 0])
GRID = (R(2, 3, 4, 4), R(2, 5, 5, 2), 0, 0, False)
call("grid_sampler grid_sampler_2d", "a b 4 4, a 5 5 2 -> a b 5 5", *GRID)
CUBE = (R(2, 3, 3, 3, 3), R(2, 4, 4, 4, 3), 0, 0, False)
call("grid_sampler_3d grid_sampler", "a b 3 3 3, a 4 4 4 3 -> a b 4 4 4", *CUBE)
call("affine_grid_generator", "2 2 3 -> 2 4 4 2", R(2, 2, 3), [2, 3, 4, 4], False)
