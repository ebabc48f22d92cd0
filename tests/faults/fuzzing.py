"""What the fuzz tests share: how many examples they try, hostile values, and what may come out.

By default each test tries a few fixed examples. FUZZ_EXAMPLES asks for another number of fresh
ones; this is how they are tried widely, in about half an hour on two cores:

    FUZZ_EXAMPLES=2000 python -m pytest tests/faults -k fuzz
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mixtures.errors import DataError
from t5x_ext.errors import ConfigError

T = TypeVar("T")

_ASKED = os.environ.get("FUZZ_EXAMPLES")

fuzz = settings(
    max_examples=int(_ASKED or 60),
    derandomize=_ASKED is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

HOSTILE_TEXTS = (
    "", " ", "\0", "a\0b", "\r", "line\r\nline", "\n", "\x1c", "\x85", "\u2028", "\ufeff",
    "\ud800", "x\udfff", "\U0010ffff", "é" * 70, "x" * 1_000_000, "=1+1", "{0.__class__}", "{",
    "%s%n", "../../etc/passwd", "nan", "-1", "1" * 5000,
)  # fmt: skip

_DEEP: list[Any] = []
for _ in range(200):
    _DEEP = [_DEEP]

HOSTILE_VALUES = (
    None, True, False, 0, -1, 1 << 70, 1.5, 1e308, float("nan"), float("inf"), [], {}, [None],
    [[]], {"": ""}, [""], ["a", 1], _DEEP,
)  # fmt: skip

texts = st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=20)
values = st.sampled_from(HOSTILE_VALUES) | texts


def outcome(call: Callable[[], T]) -> T | str:
    """The result of a call, or its message where it raises an error of our own.

    The message has to be one line that fits on a screen, and other exceptions are failures.
    """
    try:
        return call()
    except (ConfigError, DataError) as error:
        message = str(error)
        assert len(message.splitlines()) == 1, repr(message[:500])
        assert len(message) < 1500, message[:500]
        return message


def _places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """The path of every node below a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*place, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*place, key))


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A copy of a JSON object or list with one to three nodes replaced, doubled or taken out."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        *parents, key = draw(st.sampled_from(places))
        node = value
        for parent in parents:
            node = node[parent]
        change = draw(st.sampled_from(("replace", "replace", "remove", "double")))
        if change == "replace":
            node[key] = copy.deepcopy(draw(values))
        elif change == "remove":
            del node[key]
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[draw(texts)] = copy.deepcopy(node[key])
    return value


@st.composite
def with_a_repeated_key(draw: st.DrawFn, value: Any) -> tuple[bytes, str]:
    """JSON in which one object has one of its keys twice, and the key."""
    value = copy.deepcopy(value)
    places = [place for place in _places(value) if isinstance(place[-1], str)]
    *parents, key = draw(st.sampled_from(places))
    node = value
    for parent in parents:
        node = node[parent]
    again = draw(st.sampled_from((node[key], *HOSTILE_VALUES)))
    marked = {"\ufdd0": again, **node} if draw(st.booleans()) else {**node, "\ufdd0": again}
    node.clear()
    node.update(marked)
    return to_json(value).replace(rb'"\ufdd0"', to_json(key)), key


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which a part is cut off, taken out, overwritten or doubled; seldom unchanged."""
    start = draw(st.integers(0, len(data)))
    length = draw(st.integers(0, min(64, len(data) - start)))
    part = data[start : start + length]
    instead = draw(st.sampled_from((b"", b"\0" * length, b"\xff", b"\r", part * 2, b"\xf0\x9f")))
    flipped = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in part[:4]) + part[4:]
    whole = (
        data[:start],
        data[:start] + instead + data[start + length :],
        data[:start] + flipped + data[start + length :],
    )
    return draw(st.sampled_from(whole))


def to_json(value: Any) -> bytes:
    """JSON as a user's own tool might write it: NaN and halves of surrogate pairs included."""
    return json.dumps(value).encode()
