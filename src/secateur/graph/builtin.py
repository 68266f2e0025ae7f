"""What the size attributes of PyTorch's own modules stand for: dimensions of their tensors."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

Fact = tuple[str, str, int]  # attribute, tensor, dimension

_FACTS: tuple[tuple[type[nn.Module], tuple[Fact, ...]], ...] = (
    (nn.Linear, (("out_features", "weight", 0), ("in_features", "weight", 1))),
    (nn.modules.batchnorm._NormBase, (("num_features", "running_mean", 0),)),
    (nn.modules.batchnorm._NormBase, (("num_features", "weight", 0),)),
    (nn.GroupNorm, (("num_channels", "weight", 0),)),
    (nn.Embedding, (("embedding_dim", "weight", 1), ("num_embeddings", "weight", 0))),
    (nn.EmbeddingBag, (("embedding_dim", "weight", 1), ("num_embeddings", "weight", 0))),
    (nn.RNNBase, (("input_size", "weight_ih_l0", 1),)),
    (nn.RNNCellBase, (("hidden_size", "weight_hh", 1), ("input_size", "weight_ih", 1))),
    (nn.PReLU, (("num_parameters", "weight", 0),)),
)


def size_facts(module: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """(attribute, tensor, dimension) for what can be said of a module without knowing its use."""
    facts = [fact for kind, listed in _FACTS if isinstance(module, kind) for fact in listed]
    if isinstance(module, nn.modules.conv._ConvNd):
        out, inside = (1, 0) if module.transposed else (0, 1)
        if module.groups == 1 or not module.transposed:
            facts.append(("out_channels", "weight", out))
        if module.groups == 1 or module.transposed:
            facts.append(("in_channels", "weight", inside))
    if isinstance(module, nn.RNNBase) and not module.proj_size:
        facts.append(("hidden_size", "weight_hh_l0", 1))
    for attribute, name, dim in facts:
        tensor = own_tensor(module, name)
        if tensor is not None:
            yield attribute, tensor, dim


def own_tensor(module: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer of a module under its plain name, also if a parametrization holds it.

    Never computes a parametrized value, which may have side effects (spectral norm).
    """
    held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    own = dict(held)
    for key in (name, f"{name}_orig", f"{name}_v"):  # spectral norm has both: its v is a buffer
        if key in own:
            return own[key]
    lists = module._modules.get("parametrizations")
    if isinstance(lists, nn.ModuleDict) and name in lists:
        inner = dict(lists[name].named_parameters(recurse=False))
        return inner.get("original", inner.get("original1"))
    return None
