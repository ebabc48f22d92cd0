"""Settings that only the package's own networks take, in a run whose model has another one.

Run files bind LORA_RANK and QUANTIZATION to `network.Transformer`. Where the model is made of a
user's network, gin never makes a Transformer, and its settings would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from t5x_ext.errors import ConfigError
from t5x_ext.gin_strict.binding import Bound, Entry, is_macro, macro_name, references

# What each of them gives to a network. `specialize` calls create_lora itself.
_SETTINGS = {
    "t5x_ext.models.lora.create_lora.rank": "adapters",
    "t5x_ext.models.network.Transformer.quantization": "kernels in four bits",
}


def check_networks(bound: Bound, command: Callable[..., Any]) -> None:
    """Refuses adapters and quantisation where no network of the run takes them.

    Args:
        bound: The bindings in effect.
        command: The function that will be called. If no file binds anything of it, what the files
            are for is not known, and nothing is refused.

    Raises:
        ConfigError: One of them is set.
    """
    reached = _reached(bound, command)
    if len(reached) == 1:
        return
    for parameter, entry in _entries(bound):
        name = _name(entry.configurable)
        what = _SETTINGS.get(f"{name}.{parameter}")
        origin = bound.origin(entry)
        if what and name not in reached and origin.value is not None:
            raise ConfigError(
                f"{origin.binding.place}: {origin.binding.name} = {origin.value!r}, but the run's "
                f"model has another network than network.Transformer, which alone takes {what}; "
                "allowed: None"
            )


def _name(configurable: Callable[..., Any]) -> str:
    return f"{configurable.__module__}.{configurable.__qualname__}"


def _entries(bound: Bound) -> Iterator[tuple[str, Entry]]:
    """Every parameter's name and entry, of all scopes."""
    for entries in bound.parameters.values():
        yield from entries.items()


def _reached(bound: Bound, command: Callable[..., Any]) -> set[str]:
    """Names of what is called, or passed on, for the command's arguments, itself included."""
    found: set[str] = set()
    left = [command]
    while left:
        name = _name(left.pop())
        if name not in found:
            found.add(name)
            for _, entry in _entries(bound):
                if _name(entry.configurable) == name:
                    left += _referred(entry.value, bound)
    return found


def _referred(value: Any, bound: Bound) -> Iterator[Callable[..., Any]]:
    """The functions and classes that a value refers to, by macros too."""
    for reference in references(value):
        if is_macro(reference):
            yield from _referred(bound.macros[macro_name(reference)].value, bound)
        else:
            yield reference.configurable.wrapped
