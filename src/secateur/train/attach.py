"""attach: the one line that a training loop gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.core.batches import check_model
from secateur.core.errors import InputError, RecipeError
from secateur.core.recipe import Recipe
from secateur.measure.calibration import take
from secateur.train.ahead import gradients, scored
from secateur.train.held import Held
from secateur.train.peers import is_spread, peers
from secateur.train.session import Session, check_free
from secateur.train.settings import GRADIENTS, Settings
from secateur.units.weight import weight_sites


def attach(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    recipe: Recipe | None = None,
    *,
    scope: Any = None,
    masks: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    samples: int = 512,
) -> Session:
    """Prune a model's weights while your own loop trains it.

    Works through the optimizer's hooks alone, so with gradient scalers, accumulation, several
    parameter groups, closures, `torch.compile`, DDP and FSDP2 (attach after wrapping).

    Args:
        model: The model that is trained, wrapped as it is trained.
        optimizer: Its optimizer, or several; the first one counts the steps.
        recipe: What to do, such as `sc.presets.rigl(sparsity=0.9)`. Without one, `masks` stay.
        scope: Which weights, as in `sc.prune`; by default those of all linear, convolutional,
            recurrent and attention layers.
        masks: Where to start from, by parameter name, True for what is kept; others are whole.
        state: What `session.state_dict()` gave, to go on from where the model's weights are loaded
            already; where you attach first and load then, the optimizer's state has it.
        data: Batches for a criterion that is asked before the first step: for its gradients (SNIP),
            or for what it knows of inputs (Wanda), which there is none of later.
        loss: `(model, batch) -> scalar`; by default cross-entropy or mean squared error.
        samples: How many samples of the data are used at most.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> session = attach(net, optimizer, Recipe(budget=sc.Sparsity(0.75)))
        >>> for _ in range(3):
        ...     net(torch.randn(4, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> net = session.finish()
        >>> int((net[0].weight == 0).sum() + (net[2].weight == 0).sum()), session.sparsity
        (120, 0.75)

    Raises:
        InputError: The optimizer does not train the weights in scope.
        RecipeError: The recipe makes no sense, nothing is in scope, or a session is attached.
        UnsupportedModel: Weights are spread over processes otherwise than by FSDP2.
    """
    check_model(model)
    root = unwrapped(model)
    optimizers = _optimizers(optimizer)
    if recipe is None and masks is None:
        raise RecipeError(
            "there is neither a recipe nor masks",
            hint="for example sc.presets.gmp(sparsity=0.9, end=10_000)",
        )
    if recipe is not None and not isinstance(recipe, Recipe):
        raise RecipeError(f"{recipe!r} is not a recipe", hint="see sc.Recipe and sc.presets")
    sites = weight_sites(root, scope)
    if not sites:
        raise RecipeError(
            "no weight is in scope", hint="linear, convolutional and recurrent layers have weights"
        )
    parameters = dict(root.named_parameters())
    chosen = {site.name: parameters[site.name] for site in sites}
    check_free(chosen)
    owners = _owners(root, chosen, optimizers)
    held = [Held.of(site, chosen[site.name], owners[site.name]) for site in sites]
    resumed = masks is not None or state is not None
    settings = Settings.of(
        recipe, held, peers(model, chosen.values()), ahead=resumed or data is not None
    )
    if settings.form.latent and any(isinstance(o, torch.optim.LBFGS) for o in optimizers):
        raise RecipeError(f"{settings.form!r} does not go with LBFGS, which looks several times")
    if masks is not None:
        _start_from(held, masks)
    found: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    if data is not None and settings.criterion.needs - GRADIENTS:
        if not resumed:
            settings, scores = scored(root, take(data, samples), loss, sites, settings)
    elif data is not None:
        everyone = settings.chooser.peers
        found = gradients(root, take(data, samples), loss, set(chosen), everyone)
    session = Session(model, root, held, settings)
    with torch.no_grad():
        session.start(optimizers, found, masks is not None, state)
    scores.clear()
    return session


_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's module inside of DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, _WRAPPERS):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _optimizers(given: Any) -> list[Optimizer]:
    """The optimizers themselves, without what Accelerate or Lightning wrap around them."""
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    if not listed:
        raise InputError("there is no optimizer", hint="give the one that trains the model")
    found = []
    for optimizer in listed:
        while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, Optimizer):
            raise InputError(
                f"an optimizer is a torch.optim.Optimizer, not a {type(optimizer).__name__}"
            )
        found.append(optimizer)
    return found


def _owners(
    root: nn.Module, chosen: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]
) -> dict[str, Optimizer]:
    """The optimizer of each weight."""
    owner = {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    if not any(id(parameter) in owner for parameter in root.parameters()):
        raise InputError(
            "the optimizer trains none of the model's parameters",
            hint="make the optimizer after the model is moved, wrapped or cut",
        )
    missing = [name for name, parameter in chosen.items() if id(parameter) not in owner]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"no optimizer trains {', '.join(missing[:3])}{more}",
            hint=f"give all optimizers, or leave them out: scope=sc.skip({missing[0]!r})",
        )
    return {name: owner[id(parameter)] for name, parameter in chosen.items()}


def _start_from(held: Sequence[Held], masks: Mapping[str, Tensor]) -> None:
    by_name = {item.name: item for item in held}
    for name, mask in masks.items():
        if name not in by_name:
            raise InputError(
                f"there is a mask for {name!r}, which is no weight in scope",
                hint=f"in scope: {', '.join(list(by_name)[:5])}",
            )
        item = by_name[name]
        if mask.dtype != torch.bool:
            raise InputError(
                f"the mask of {name} is {mask.dtype}, not boolean", hint="True is what is kept"
            )
        if is_spread(item.parameter) and mask.shape == item.parameter.shape:
            mask = mask[item.first : item.first + item.site.shape[0]]
        if tuple(mask.shape) != item.site.shape:
            raise InputError(
                f"the mask of {name} is {list(mask.shape)}, the weight {list(item.site.shape)}"
            )
        item.mask = mask.to(item.used.device)
