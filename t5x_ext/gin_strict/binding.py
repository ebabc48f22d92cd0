"""Applies read statements to gin, one by one, so that an error can name file, line and name.

This takes the place of `gin.parse_config_files_and_bindings`, which does the same without places.
It rests on a few underscored names of gin.config (_parse_scope, _PARSE_CONTEXTS, _IMPORTS,
_CONFIG, _REGISTRY and the parse context's _symbol_table) that have no public counterpart in
gin-config 0.5.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import gin

from mixtures.errors import DataError
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.gin_strict import hints
from t5x_ext.gin_strict.source import (
    Binding,
    BlockHead,
    GinFile,
    Import,
    Macro,
    Reference,
)
from t5x_ext.gin_strict.t5x_bindings import ABSENT, Rule, rule_of


@dataclasses.dataclass(frozen=True)
class Entry:
    """A binding in effect: as written, with gin's value and the function or class it is for."""

    binding: Binding
    value: Any
    configurable: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Bound:
    """All bindings in effect.

    Attributes:
        macros: Entry by macro name.
        parameters: Entry by parameter name, by (scope, full selector).
        of_t5x: Bindings that gin is not told of, with the rule that each has to keep, by scope and
            full name of the parameter.
    """

    macros: dict[str, Entry] = dataclasses.field(default_factory=dict)
    parameters: dict[tuple[str, str], dict[str, Entry]] = dataclasses.field(default_factory=dict)
    of_t5x: dict[tuple[str, str], tuple[Binding, Rule]] = dataclasses.field(default_factory=dict)

    def origin(self, entry: Entry) -> Entry:
        """The entry that states a value: the given one, or the last macro that it leads to."""
        while isinstance(entry.value, gin.config.ConfigurableReference) and is_macro(entry.value):
            entry = self.macros[macro_name(entry.value)]
        return entry


def references(value: Any) -> Iterator[gin.config.ConfigurableReference]:
    """Yields gin's references anywhere inside a bound value, those to macros among them."""
    if isinstance(value, gin.config.ConfigurableReference):
        yield value
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def is_macro(reference: gin.config.ConfigurableReference) -> bool:
    """Whether a reference stands for a macro's value."""
    return reference.configurable.wrapped is gin.config.macro


def macro_name(reference: gin.config.ConfigurableReference) -> str:
    """The name of the macro that a reference stands for."""
    return "/".join(reference.scopes)


def bound_to(command: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that gin gives to a command, references evaluated; {} where it is not named.

    Raises:
        ConfigError, DataError: What a reference is bound to cannot be made.
    """
    try:
        return gin.get_bindings(command)
    except (ConfigError, DataError):
        raise
    except ValueError:  # no gin file names it
        return {}


class _FileReference(gin.config.ConfigurableReference):
    """A reference that resolves its name with the imports of the file it stands in.

    Gin resolves references again once a method of their class is configured, by then with the
    imports of the file that does so, where the class may have another name.
    """

    def __init__(self, context: Any, scoped_selector: str, evaluate: bool) -> None:
        self._context = context
        super().__init__(scoped_selector, evaluate)

    def initialize(self) -> None:
        gin.config._PARSE_CONTEXTS.append(self._context)
        try:
            super().initialize()
        finally:
            gin.config._PARSE_CONTEXTS.pop()

    def __eq__(self, other: object) -> bool:
        # Gin's own equality holds only between instances of the same class.
        return (
            isinstance(other, gin.config.ConfigurableReference)
            and self.configurable == other.configurable
            and (self.scopes, self.evaluate) == (other.scopes, other.evaluate)
        )

    __hash__ = gin.config.ConfigurableReference.__hash__


def register(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns gin's wrapper of a command function, registering the function if need be."""
    try:
        return gin.get_configurable(command)
    except ValueError:
        return gin.external_configurable(command)


def rebind(command: Callable[..., Any], parameter: str, value: Any) -> None:
    """Replaces what a parameter of a command is bound to, or what the macro it is bound to is."""
    configurable = gin.config._inverse_lookup(command)
    if configurable is None:
        return
    key = ("", configurable.selector, parameter)
    bound = gin.config._CONFIG.get(key[:2], {}).get(parameter)
    while (
        isinstance(bound, gin.config.ConfigurableReference)
        and bound.configurable.wrapped is gin.config.macro
    ):
        name = "/".join(bound.scopes)
        key = (name, "gin.macro", "value")
        bound = gin.config._CONFIG[key[:2]]["value"]
    with gin.unlock_config():
        gin.bind_parameter(key, value)


def apply(source: GinFile, bound: Bound, main_module: str | None = None) -> None:
    """Binds the statements of a source, and of what it includes, in gin.

    Args:
        source: The file or command line.
        bound: Receives the bindings in effect.
        main_module: Module that `import __main__` stands for: the module of the running command.

    Raises:
        ConfigError: A module, configurable or parameter does not exist.
    """
    with gin.config._parse_scope() as context:
        for statement in source.statements:
            if isinstance(statement, GinFile):
                apply(statement, bound, main_module)
            elif isinstance(statement, Import):
                _import(context, statement, main_module)
            elif isinstance(statement, BlockHead):
                _resolve(context, statement.selector, statement.place)
            else:
                _bind(context, statement, bound)
        gin.config._IMPORTS.update(context.imports)


def _import(context: Any, item: Import, main_module: str | None) -> None:
    statement = item.statement
    if statement.module == "__main__" and main_module:
        # T5X's run files say `import __main__ as train_script`. Under the console script __main__
        # is the script, and under `python -m` it is a second copy of the command's module: both
        # times the function that runs is that of the imported module, so this is what is meant.
        alias = statement.alias or statement.module
        is_from = "." in main_module
        statement = statement._replace(module=main_module, is_from=is_from, alias=alias)
    elif statement.module == "seqio":
        # The names that T5X's files take from SeqIO: the same here, without TensorFlow.
        alias = statement.alias or "seqio"
        statement = statement._replace(module="t5x_ext.seqio", is_from=True, alias=alias)
    try:
        context.process_import(statement)
    except ImportError as error:
        raise ConfigError(
            f"{item.place}: cannot import '{statement.module}': {error}"
            f"{_import_advice(statement.module)}"
        ) from error
    except SyntaxError as error:  # a misplaced or unknown __gin__ feature
        raise ConfigError(f"{item.place}: {error.msg.splitlines()[0]}") from None


def _import_advice(module: str) -> str:
    package, _, name = module.rpartition(".")
    if module.split(".")[0] == "t5x":
        return "; write t5x_ext.t5x for t5x, see docs/from_t5x.md"
    try:
        path = importlib.import_module(package).__path__
    except (ImportError, AttributeError, ValueError):
        return ""
    return nearest(name, {found.name for found in pkgutil.iter_modules(path)})


def _bind(context: Any, binding: Binding, bound: Bound) -> None:
    if binding.is_macro:
        value = _to_gin(context, binding.value, binding.place)
        gin.bind_parameter((binding.name, "gin.macro", "value"), value)
        bound.macros[binding.name] = Entry(binding, value, gin.config.macro)
        return
    configurable = _resolve(context, binding.selector, binding.place)
    if configurable.is_method:
        _follow_class(configurable, bound)
    names = hints.parameters(configurable.wrapped)
    if binding.parameter not in names and not hints.takes_any_keyword(configurable.wrapped):
        rule = _rule_of(configurable.wrapped, binding.parameter)
        if rule:
            key = (binding.scope, f"{configurable.selector}.{binding.parameter}")
            bound.of_t5x[key] = (binding, rule)
            return
        raise ConfigError(
            f"{binding.place}: {binding.selector} has no parameter '{binding.parameter}'"
            f"{nearest(binding.parameter, names)}"
        )
    value = _to_gin(context, binding.value, binding.place)
    try:
        gin.bind_parameter((binding.scope, binding.selector, binding.parameter), value)
    except ValueError as error:  # e.g. a parameter on the configurable's denylist
        raise ConfigError(f"{binding.place}: {str(error).splitlines()[0]}") from None
    entry = Entry(binding, value, configurable.wrapped)
    key = (binding.scope, configurable.selector)
    bound.parameters.setdefault(key, {})[binding.parameter] = entry


def _rule_of(function: Callable[..., Any], parameter: str) -> Rule | None:
    """The rule for one of T5X's parameters that a function of ours does not have."""
    package = getattr(function, "__module__", "").partition(".")[0]
    return rule_of(function.__qualname__, parameter) if package in ("t5x_ext", "mixtures") else None


def _follow_class(method: Any, bound: Bound) -> None:
    """Moves the bindings of a method's class to its present selector.

    Configuring a method registers its class again, and if this file imports the module under
    another name, under another selector. Gin would then lose what was bound to the class before.
    """
    registered = gin.config._REGISTRY
    present = method.selector.rpartition(".")[0]
    for store in (gin.config._CONFIG, bound.parameters):
        for scope, selector in list(store):
            same_class = registered[selector].wrapped is registered[present].wrapped
            if same_class and selector != present:
                store.setdefault((scope, present), {}).update(store.pop((scope, selector)))


def _to_gin(context: Any, value: Any, place: str) -> Any:
    if isinstance(value, Reference):
        _resolve(context, value.selector.rsplit("/", 1)[-1], place)
        return _FileReference(context, value.selector, value.evaluate)
    if isinstance(value, Macro):
        return gin.config.ParserDelegate().macro(value.name)
    if isinstance(value, dict):
        return {
            _to_gin(context, key, place): _to_gin(context, item, place)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_to_gin(context, item, place) for item in value)
    return value


def _resolve(context: Any, selector: str, place: str) -> Any:
    """Returns gin's record of a configurable."""
    problem = ""
    try:
        configurable = context.get_configurable(selector)
    except KeyError as error:  # several registered names end like this one
        configurable, problem = None, f" ({str(error.args[0]).splitlines()[0]})"
    except (NameError, AttributeError, TypeError, ValueError):
        configurable = None
    if configurable is None:
        reason = ABSENT.get(selector.rpartition(".")[2])
        if reason:
            raise ConfigError(f"{place}: {selector} of T5X is not here: {reason}")
        candidates = _candidates(context, selector)
        raise ConfigError(
            f"{place}: unknown configurable '{selector}'{problem}{nearest(selector, candidates)}"
        )
    return configurable


def _candidates(context: Any, selector: str) -> set[str]:
    """Returns valid selectors from which the one that was meant can be guessed."""
    modules = {name: value for name, value in context._symbol_table.items() if name != "gin"}
    if not modules:  # a file or command line without dynamic registration
        registered = gin.config._REGISTRY
        return {registered.minimal_selector(name) for name, _ in registered.items()}
    head, *rest = selector.split(".")
    if head not in modules:
        return {f"{name}.{attribute}" for name in modules for attribute in _public(modules[name])}
    prefix, owner = head, modules[head]
    for part in rest:
        if not hasattr(owner, part):
            break
        prefix, owner = f"{prefix}.{part}", getattr(owner, part)
    return {f"{prefix}.{attribute}" for attribute in _public(owner)}


def _public(owner: Any) -> set[str]:
    return {
        name
        for name, value in inspect.getmembers(owner)
        if not name.startswith("_") and callable(value)
    }
