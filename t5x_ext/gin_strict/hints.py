"""Checks bound gin values against the type hints of what they are bound to.

The check errs on the side of silence: a hint that is not made of simple types, containers,
unions, literals and dataclasses accepts everything.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

_SCALARS = (bool, int, float, str, bytes)
_SEQUENCES = (
    list,
    tuple,
    collections.abc.Sequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@dataclasses.dataclass(frozen=True)
class Result:
    """Stands for what calling `function` will return: an instance if it is a class."""

    function: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """Stands for a value that cannot be known before the run."""


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the parameters that gin may bind, by name; `*args` is left out."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some classes written in C have none
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }


def takes_any_keyword(function: Callable[..., Any]) -> bool:
    """Returns whether the function has a `**kwargs`."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters(function).values())


def hint_of(function: Callable[..., Any], name: str) -> Any:
    """Returns the evaluated type hint of one parameter, `Any` if it has none that evaluates."""
    parameter = parameters(function).get(name)
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return Any
    hint = parameter.annotation
    if isinstance(hint, str):
        try:
            hint = eval(hint, _namespace(function, name))
        except Exception:  # e.g. a name imported under TYPE_CHECKING only
            return Any
    if isinstance(hint, dataclasses.InitVar):
        hint = hint.type
    # `seed: int = None` is common and means Optional[int].
    return typing.Optional[hint] if parameter.default is None else hint  # noqa: UP045


def _namespace(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """Returns the globals in which the hint of parameter `name` was written."""
    if not inspect.isclass(function):
        return getattr(inspect.unwrap(function), "__globals__", {})
    for base in inspect.getmro(function):
        if dataclasses.is_dataclass(base) and name in vars(base).get("__annotations__", {}):
            return vars(sys.modules[base.__module__])
    return getattr(function.__init__, "__globals__", {})


def accepts(hint: Any, value: Any) -> bool:
    """Returns whether a value fits a type hint, as far as that can be told.

    Args:
        hint: A type hint.
        value: A literal; or a `Result` for `@f()`; or a function or class for `@f`; or `Unknown`.

    Returns:
        False if the value certainly does not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Unknown) or hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(accepts(arg, value) for arg in args)
    if origin is typing.Annotated:
        return accepts(args[0], value)
    if origin is typing.Literal:
        literal = (type(value), value)
        return isinstance(value, Result) or any(literal == (type(arg), arg) for arg in args)
    base = origin or hint
    if isinstance(value, Result):
        made_by = value.function
        known = _is_concrete(base)
        return not (known and inspect.isclass(made_by)) or issubclass(made_by, base)
    if callable(value):
        return not _is_concrete(base)
    return _accepts_literal(base, args, value)


def _is_concrete(base: Any) -> bool:
    return base in (*_SCALARS, list, tuple, dict) or dataclasses.is_dataclass(base)


def _accepts_literal(base: Any, args: tuple[Any, ...], value: Any) -> bool:
    if base is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if base in _SCALARS:
        return isinstance(value, base)
    if base in _SEQUENCES:  # gin files use lists and tuples alike
        return isinstance(value, list | tuple) and _accepts_items(base, args, value)
    if base in _MAPPINGS:
        key, item = args or (Any, Any)
        return isinstance(value, dict) and all(
            accepts(key, k) and accepts(item, v) for k, v in value.items()
        )
    return not (base in (type, collections.abc.Callable) or dataclasses.is_dataclass(base))


def _accepts_items(base: Any, args: tuple[Any, ...], value: list[Any] | tuple[Any, ...]) -> bool:
    if base is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(accepts, args, value))
    return not args or all(accepts(args[0], item) for item in value)


def describe(hint: Any) -> str:
    """Returns a hint as a user would write it."""
    return inspect.formatannotation(hint).replace("typing.", "").replace("collections.abc.", "")
