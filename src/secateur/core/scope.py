"""Scope: what may be touched, by name, glob, module type or predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean

Rule = str | type[nn.Module] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Scope:
    """What may be touched: everything, what matches a rule, or a combination with `&`, `|`, `~`.

    A rule is one of
      - a name: a module ("layer4", everything below it counts) or a tensor ("fc.weight"),
      - a glob over the same full names ("layer4.*", "*.conv2"); `*` crosses dots,
      - a module type: tensors inside modules of it (the model itself only counts for its own
        tensors, not for those of its children),
      - a callable `(name, module) -> bool`, asked once a module, about its own tensors.

    A tensor with several names (tied weights) goes by the name that is asked about, which for
    sites is the first one. Build scopes with `only`, `skip` or `Scope.of`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> scope = only(nn.Linear) | only("0.bias")
        >>> sorted(scope.select(net))
        ['0.bias', '2', '2.bias', '2.weight']
        >>> sorted(skip("2").select(net))
        ['', '0', '0.bias', '0.weight', '1']
        >>> ~skip("2") == only("2"), skip("2") & None
        (True, ~only('2'))
    """

    op: Literal["all", "match", "not", "and", "or"] = "all"
    args: tuple[Any, ...] = ()

    @classmethod
    def of(cls, given: Scope | Rule | Iterable[Any] | None) -> Scope:
        """A scope from None (everything), a rule, a scope, or a list of these (any of them).

        Raises:
            RecipeError: `given` is none of these, or an empty list.
        """
        if given is None:
            return cls()
        if isinstance(given, Scope):
            return given
        if isinstance(given, str) or callable(given):
            return only(given)
        if isinstance(given, Iterable):
            parts = [cls.of(part) for part in given]
            if not parts:
                raise RecipeError("the scope is an empty list", hint="None means everything")
            rules = [rule for part in parts if part.op == "match" for rule in part.args]
            if all(part.op == "match" for part in parts):
                return only(*rules)
            return parts[0] if len(parts) == 1 else cls("or", tuple(parts))
        raise RecipeError(
            f"a scope cannot be made of {given!r}",
            hint="give names, globs, module types, callables (name, module) -> bool, or a list",
        )

    def __and__(self, other: Any) -> Scope:
        """What is in both."""
        right = Scope.of(other)
        if "all" in (self.op, right.op):
            return right if self.op == "all" else self
        return _join("and", self, right)

    def __rand__(self, other: Any) -> Scope:
        """What is in both."""
        return Scope.of(other) & self

    def __or__(self, other: Any) -> Scope:
        """What is in either."""
        return _join("or", self, Scope.of(other))

    def __ror__(self, other: Any) -> Scope:
        """What is in either."""
        return Scope.of(other) | self

    def __invert__(self) -> Scope:
        """Everything else."""
        inner: Scope = self.args[0] if self.op == "not" else Scope("not", (self,))
        return inner

    def select(self, model: nn.Module) -> frozenset[str]:
        """The names of the model's modules, parameters and buffers that are in scope.

        Raises:
            RecipeError: a name or a glob matches nothing.
        """
        return self._select(_Names(model))

    def _select(self, names: _Names) -> frozenset[str]:
        if self.op == "all":
            return names.everything
        if self.op == "match":
            return names.none.union(*(names.match(rule) for rule in self.args))
        parts: list[frozenset[str]] = [part._select(names) for part in self.args]
        if self.op == "not":
            return names.everything - parts[0]
        if self.op == "and":
            return parts[0].intersection(*parts[1:])
        return parts[0].union(*parts[1:])

    def __repr__(self) -> str:
        """The expression that makes this scope."""
        if self.op == "all":
            return "Scope()"
        if self.op == "match":
            return f"only({', '.join(map(_show, self.args))})"
        if self.op == "not":
            return f"~{_wrap(self.args[0])}"
        return f" {'&' if self.op == 'and' else '|'} ".join(map(_wrap, self.args))


def only(*rules: Rule | Scope) -> Scope:
    """The scope of what matches at least one of the rules.

    Raises:
        RecipeError: no rule is given, or one is not a name, a module type or a callable.
    """
    if not rules:
        raise RecipeError("there is no rule to select by", hint="for example only('layer4')")
    if any(isinstance(rule, (Scope, list, tuple, set, frozenset)) for rule in rules):
        return Scope.of(rules)
    for rule in rules:
        if isinstance(rule, type) and not issubclass(rule, nn.Module):
            raise RecipeError(f"{rule.__qualname__} is not a type of module")
        if not isinstance(rule, str) and not callable(rule):
            raise RecipeError(
                f"{rule!r} cannot select modules",
                hint="give a name, a glob, a module type or a callable (name, module) -> bool",
            )
        if isinstance(rule, nn.Module):
            raise RecipeError(
                f"a module itself ({type(rule).__qualname__}) cannot select modules",
                hint="give its name, its type, or lambda name, module: module is this_one",
            )
    return Scope("match", rules)


def skip(*rules: Rule | Scope) -> Scope:
    """The scope of everything but what matches one of the rules."""
    return ~only(*rules)


class _Names:
    """The modules and tensors of one model, and what a rule matches among them."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.owners = {
            name: name.rpartition(".")[0]
            for named in (model.named_parameters, model.named_buffers)
            for name, _ in named(remove_duplicate=False)
        }
        self.everything = frozenset(self.modules) | frozenset(self.owners)
        self.none: frozenset[str] = frozenset()

    def match(self, rule: Rule) -> frozenset[str]:
        """The names that one rule selects."""
        if isinstance(rule, str):
            direct = {name for name in self.everything if name == rule or fnmatchcase(name, rule)}
            if not direct:
                raise RecipeError(
                    f"nothing in the model is called {rule!r}",
                    hint=did_you_mean(rule, self.everything - {""}),
                )
            return self._below(direct)
        if isinstance(rule, type):
            direct = {name for name, module in self.modules.items() if isinstance(module, rule)}
            root = self._owned({""}) if "" in direct and len(self.modules) > 1 else frozenset()
            return self._below(direct - {""} if len(self.modules) > 1 else direct) | root
        return self._owned({n for n, module in self.modules.items() if rule(n, module)})

    def _owned(self, modules: set[str]) -> frozenset[str]:
        """These modules and the tensors that are directly theirs."""
        tensors = {name for name, owner in self.owners.items() if owner in modules}
        return frozenset(modules | tensors)

    def _below(self, direct: set[str]) -> frozenset[str]:
        """These names and everything inside them."""
        if "" in direct:
            return self.everything
        return frozenset(name for name in self.everything if any(a in direct for a in _path(name)))


def _path(name: str) -> list[str]:
    """A dotted name and all of its prefixes."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _join(op: Literal["and", "or"], left: Scope, right: Scope) -> Scope:
    parts = [x for side in (left, right) for x in (side.args if side.op == op else (side,))]
    return Scope(op, tuple(parts))


def _show(rule: Rule) -> str:
    return repr(rule) if isinstance(rule, str) else getattr(rule, "__qualname__", repr(rule))


def _wrap(scope: Scope) -> str:
    return f"({scope!r})" if scope.op in ("and", "or") else repr(scope)
