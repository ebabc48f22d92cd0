"""What must hold of a configuration: on its text, before imports, and once it is bound."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import gin

from t5x_ext import bounds
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.gin_strict import hints
from t5x_ext.gin_strict.binding import Bound, Entry, is_macro, macro_name, references
from t5x_ext.gin_strict.networks import check_networks
from t5x_ext.gin_strict.source import (
    COMMAND_LINE,
    REQUIRED_NAMES,
    Binding,
    GinFile,
    Macro,
    Reference,
    symbols,
)
from t5x_ext.gin_strict.t5x_bindings import Named, Rule

_logger = logging.getLogger("t5x_ext")
# How alike two names are (difflib's ratio) of which one is taken for the other misspelt.
_MISSPELT = 0.8
_SHOWN = 4  # files in a message


def check_text(
    sources: Sequence[GinFile], shipped_macros: Callable[[], Mapping[str, Sequence[str]]]
) -> None:
    """Checks what needs no imports: repeated keys, macros, scopes, unset REQUIRED macros.

    Args:
        sources: The files in order and last the command line.
        shipped_macros: Returns the macros that the package's own gin files know, and which of these
            set them. Files may set them without effect, so that one file of settings can serve
            several commands.

    Raises:
        ConfigError: The first problem found.
    """
    bindings = [binding for source in sources for binding in source.bindings()]
    for source in sources[:-1]:
        for file in source.files():
            _check_repeated(file)
    _check_macro_use(bindings, shipped_macros)
    _check_macro_cycles(bindings)
    _check_scopes(bindings)
    _check_required_macros(sources)
    for binding in bindings:
        _check_numbers(binding, binding.value)


def _check_repeated(file: GinFile) -> None:
    """Warns of a key that one file sets to two values; the later one counts, as in gin."""
    seen: dict[str, Binding] = {}
    for binding in file.statements:
        if not isinstance(binding, Binding):
            continue
        earlier = seen.get(binding.name)
        # Upstream run files declare a macro REQUIRED at the top and give it a value further down.
        if earlier and not earlier.is_required and earlier.value != binding.value:
            _logger.warning(
                "%s: %s is set twice in this file, first at %s; the later value counts",
                binding.place,
                binding.name,
                earlier.place,
            )
        seen[binding.name] = binding


def _check_macro_use(
    bindings: Sequence[Binding], shipped_macros: Callable[[], Mapping[str, Sequence[str]]]
) -> None:
    """Refuses macros that nothing uses and that look misspelt; files may set others in vain.

    On the command line every one is refused.
    """
    used = {
        symbol.name
        for binding in bindings
        for symbol in symbols(binding.value)
        if isinstance(symbol, Macro)
    } - set(REQUIRED_NAMES)
    in_files = {b.name for b in bindings if b.is_macro and not _on_command_line(b)}
    idle: dict[str, str] = {}
    for binding in bindings:
        if not binding.is_macro or binding.name in used:
            continue
        if _on_command_line(binding):
            if binding.name not in in_files:
                elsewhere = shipped_macros().get(binding.name, ())
                more = ", ..." if len(elsewhere) > _SHOWN else ""
                hint = f" ({', '.join(elsewhere[:_SHOWN])}{more} would)" if elsewhere else ""
                raise ConfigError(
                    f"{binding.place}: unknown macro '{binding.name}': no gin file of this run "
                    f"sets or uses it{hint}{nearest(binding.name, in_files | used)}"
                )
        elif not binding.is_required and binding.name not in shipped_macros():
            for close in difflib.get_close_matches(binding.name, used, n=1, cutoff=_MISSPELT):
                raise ConfigError(
                    f"{binding.place}: unknown macro '{binding.name}': nothing uses it; did you "
                    f"mean '{close}'?"
                )
            idle[binding.name] = binding.place
    if idle:
        _logger.warning(
            "set, but nothing uses it: %s",
            ", ".join(f"{name} ({place})" for name, place in idle.items()),
        )


def _check_numbers(binding: Binding, value: Any) -> None:
    """Refuses numbers that no setting takes, wherever they stand in a value."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            _check_numbers(binding, item)
    elif isinstance(value, float):
        bounds.check_real(f"{binding.place}: {binding.name}", value, -math.inf)
    elif isinstance(value, int) and not isinstance(value, bool):
        bounds.check_int(f"{binding.place}: {binding.name}", value, -bounds.INT64, bounds.INT64)


def _on_command_line(binding: Binding) -> bool:
    return binding.place.startswith(COMMAND_LINE)


def _check_macro_cycles(bindings: Sequence[Binding]) -> None:
    macros = {binding.name: binding for binding in bindings if binding.is_macro}

    def visit(binding: Binding, path: tuple[str, ...]) -> None:
        if binding.name in path:
            raise ConfigError(f"{binding.place}: {' = %'.join((*path, binding.name))} is circular")
        for symbol in symbols(binding.value):
            if isinstance(symbol, Macro) and symbol.name in macros:
                visit(macros[symbol.name], (*path, binding.name))

    for binding in macros.values():
        visit(binding, ())


def _check_scopes(bindings: Sequence[Binding]) -> None:
    """Refuses a scope that no reference opens if it is close to one that is opened.

    Others pass: code may open scopes as well, and a run file may offer bindings in a scope that it
    leaves to the user to open, as T5X's do for `infer_eval`.
    """
    opened = {
        scope
        for binding in bindings
        for symbol in symbols(binding.value)
        if isinstance(symbol, Reference)
        for scope in symbol.selector.split("/")[:-1]
    }
    for binding in bindings:
        if binding.is_macro or not binding.scope:
            continue
        for scope in set(binding.scope.split("/")) - opened:
            for close in difflib.get_close_matches(scope, opened, n=1, cutoff=_MISSPELT):
                raise ConfigError(
                    f"{binding.place}: unknown scope '{scope}'; did you mean '{close}'?"
                )


def unset_macros(bindings: Iterable[Binding]) -> list[Binding]:
    """The macros that have to be set, and that nothing sets after they are declared."""
    macros = {binding.name: binding for binding in bindings if binding.is_macro}
    return [binding for binding in macros.values() if binding.is_required]


def _check_required_macros(sources: Sequence[GinFile]) -> None:
    of_sources = [list(source.bindings()) for source in sources]
    missing = unset_macros(binding for bindings in of_sources for binding in bindings)
    if not missing:
        return
    first, *others = missing
    message = f"{first.place}: {first.name} is required and not set"
    # A value in a file that the declaring one includes is not in effect on purpose.
    earlier = [
        binding.place
        for bindings in of_sources
        if not any(binding is first for binding in bindings)
        for binding in bindings
        if binding.name == first.name and not binding.is_required
    ]
    if earlier:
        message += f" after this line (it was at {earlier[-1]}: give that file later)"
    else:
        message += f": give {COMMAND_LINE}{first.name}=VALUE"
    if others:
        more = ", ".join(f"{binding.name} ({binding.place})" for binding in others)
        message += f"; likewise {more}"
    raise ConfigError(message)


def check_bound(bound: Bound, command: Callable[..., Any] | None, given: Collection[str]) -> None:
    """Checks what needs the configurables: macros, REQUIRED parameters, types, missing arguments.

    Args:
        bound: The bindings in effect.
        command: The function that will be called, if any.
        given: Names of the arguments it will be called with.

    Raises:
        ConfigError: The first problem found.
    """
    entries = [entry for names in bound.parameters.values() for entry in names.values()]
    for entry in [*bound.macros.values(), *entries]:
        _check_macros_defined(entry, bound)
    for binding, rule in bound.of_t5x.values():
        _check_rule(binding, rule, bound)
    for entry in entries:
        _check_type(entry, bound)
    if command is not None:
        check_networks(bound, command)
        configurable = gin.config._inverse_lookup(command)
        _check_arguments(configurable, (), bound, given, "the command", configurable.name)


def _check_arguments(
    configurable: Any,
    scopes: tuple[str, ...],
    bound: Bound,
    given: Collection[str],
    place: str,
    label: str,
    calls: tuple[tuple[str, tuple[str, ...]], ...] = (),
) -> None:
    """Refuses a call that would lack an argument, and likewise the calls that make its arguments.

    Args:
        configurable: Gin's record of what is called.
        scopes: The scopes open during the call, outermost first.
        bound: The bindings in effect.
        given: Names of the arguments that the caller passes.
        place: Place of the reference that leads to the call.
        label: The configurable's name as written there.
        calls: Selector and scopes of the calls that this one is an argument of, outermost first.
    """
    if (configurable.selector, scopes) in calls:
        raise ConfigError(f"{place}: {label} is among its own arguments: the call is circular")
    calls = (*calls, (configurable.selector, scopes))
    arguments: dict[str, Entry] = {}
    for depth in range(len(scopes) + 1):
        key = ("/".join(scopes[:depth]), configurable.selector)
        arguments.update(bound.parameters.get(key, {}))
    for name, parameter in hints.parameters(configurable.wrapped).items():
        required = parameter.default is parameter.empty or parameter.default is gin.REQUIRED
        optional = not required or parameter.kind is parameter.VAR_KEYWORD
        if not (optional or name in arguments or name in given):
            raise ConfigError(
                f"{place}: {label} has no value for '{name}': set {label}.{name} or add the gin "
                f"file that sets it"
            )
    for entry in arguments.values():
        for reference in references(entry.value):
            _check_call(reference, scopes, bound, entry.binding.place, calls)


def _check_call(
    reference: gin.config.ConfigurableReference,
    scopes: tuple[str, ...],
    bound: Bound,
    place: str,
    calls: tuple[tuple[str, tuple[str, ...]], ...],
) -> None:
    # A reference without scopes is called in the caller's; a macro's value is called
    # in a scope of the macro's name, which replaces the caller's (so gin has it).
    inner = tuple(reference.scopes) or scopes
    if is_macro(reference):
        macro = bound.macros[macro_name(reference)]
        for inner_reference in references(macro.value):
            _check_call(inner_reference, inner, bound, macro.binding.place, calls)
    elif reference.evaluate and not _is_constant(reference):
        label = reference.scoped_selector
        _check_arguments(reference.configurable, inner, bound, (), place, label, calls)


def _is_constant(reference: gin.config.ConfigurableReference) -> bool:
    return reference.configurable.selector == "gin.constant"


def _check_macros_defined(entry: Entry, bound: Bound) -> None:
    if entry.binding.is_required:
        raise ConfigError(
            f"{entry.binding.place}: {entry.binding.name} is required and not set: give "
            f"{COMMAND_LINE}{entry.binding.name}=VALUE"
        )
    for reference in references(entry.value):
        if is_macro(reference) and macro_name(reference) not in bound.macros:
            name = macro_name(reference)
            raise ConfigError(
                f"{entry.binding.place}: macro '{name}' is used but never set: give "
                f"{COMMAND_LINE}{name}=VALUE or add the gin file that sets it"
                f"{nearest(name, bound.macros)}"
            )


def _check_rule(binding: Binding, rule: Rule, bound: Bound) -> None:
    """Refuses a binding of T5X's that asks for something else than what happens here."""
    value = binding.value
    while isinstance(value, Macro) and value.name in bound.macros:
        value = bound.macros[value.name].binding.value
    if isinstance(value, Reference):
        value = Named(value.selector.rpartition(".")[2])
    if not rule.accepts(value):
        allowed = " or ".join(map(repr, rule.allowed))
        raise ConfigError(
            f"{binding.place}: {binding.name} = {value!r}; allowed: {allowed}: {rule.why}"
        )


def _check_type(entry: Entry, bound: Bound) -> None:
    hint = hints.hint_of(entry.configurable, entry.binding.parameter)
    if hints.accepts(hint, _typed(entry.value, bound)):
        return
    origin = bound.origin(entry)
    message = f"{origin.binding.place}: {origin.binding.name} = {origin.value!r}, but "
    if origin is not entry:
        message += f"{entry.binding.name} ({entry.binding.place}) "
    message += f"takes {hints.describe(hint)}"
    if isinstance(origin.value, str) and hints.accepts(hint, (origin.value,)):
        message += f"; one alone is written ({origin.value!r},)"
    raise ConfigError(message)


def _typed(value: Any, bound: Bound) -> Any:
    """Returns a bound value with macros replaced, in the form `hints.accepts` takes."""
    if isinstance(value, gin.config.ConfigurableReference):
        if is_macro(value):
            return _typed(bound.macros[macro_name(value)].value, bound)
        if _is_constant(value):
            return hints.Unknown()
        function = value.configurable.wrapped
        return hints.Result(function) if value.evaluate else function
    if isinstance(value, dict):
        return {key: _typed(item, bound) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_typed(item, bound) for item in value)
    return value
