"""What the calls of `Model` take: an argument of another type is refused in one line."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared_outputs import with_adapters

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model
from t5x_ext.decoding import Contrastive, Greedy, Sampling
from t5x_ext.decoding.calls import Calls, How
from t5x_ext.errors import ConfigError
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner

SIZE = 896  # ids of the model; the bundled vocabulary has 768
IDS = [[1, 2], [3]]  # prompts of every call on ids
TEXTS = ["a", "b"]
NO_LIST = [5, 0.5, "ab", b"ab", {"a": 1}, object()]
NO_IDS = [
    [5],
    ["ab", [1]],
    [[1.5], [2]],
    [[1], [[2], [3, 4]]],
    [[1], [SIZE]],
    [[1], [-1]],
    [{}, {}],
]
COUNTS = [0, -1, 1.5, "8", None, [8], True]
WRONG: dict[str, list[Any]] = {
    "prompts": [*NO_LIST, *NO_IDS, [[], [1]], [np.array(5), [1]]],
    "rows": [*NO_LIST, *NO_IDS, [[], [1]]],
    "responses": [*NO_LIST, *NO_IDS],
    "targets": [*NO_LIST, [1, 2], [["a"], ["b"]]],
    "weights": [*NO_LIST, [1.0, 1.0], [[1.0]], [["x"], ["y"]], [["1.0"]] * 2, [[None]] * 2]
    + [[{}, {}], [[True]] * 2, [[10**400]] * 2, [[]] * 2, "no"],
    "adapter": [5, 0.5, {"a": 1}, ["a"], [5, None], [["a"], None], [np.array(["a", "b"]), None]],
    "amateur": [5, ["a"], np.array(["a", "b"])],
    "stop": [5, "ab", b"ab", {"a": 1}, [5], [None], [[]], [["a"]], [[1.7]], [[SIZE]], [[-1]], [""]],
    "numbers": [*NO_LIST, [1], [0, "1"], [0, -1], [0, 0.5], [0, 1 << 40]],
    "eos_ids": [5, "ab", {"a": 1}, [1.7], ["a"], [None], [10**9], [-1], [[1], [2, 3]], [True]],
    "decoding": [5, "greedy", Greedy, [Greedy()]],
    "max_new_tokens": COUNTS,
    "batch_size": COUNTS,
    "max_input_tokens": [count for count in COUNTS if count is not None],
}
CALLS = {
    "generate": {"prompts": TEXTS, "max_new_tokens": 2},
    "generate_tokens": {"prompts": IDS, "max_new_tokens": 2},
    "generate_outputs": {"prompts": TEXTS, "max_new_tokens": 2},
    "score": {"prompts": TEXTS, "targets": TEXTS},
    "score_tokens": {"prompts": IDS, "responses": IDS},
    "token_logits": {"rows": IDS},
}


def keywords(call: str) -> set[str]:
    found = set(inspect.signature(getattr(Calls, call)).parameters) - {"self"}
    return found - {"how"} | (set(How.__annotations__) if "how" in found else set())


CASES = [(call, name) for call in CALLS for name in sorted(keywords(call))]


@pytest.fixture(scope="module")
def model() -> Model:
    """A decoder-only model with a vocabulary, which all calls can be made of."""
    config = LlamaConfig(
        vocab_size=SIZE, emb_dim=8, num_layers=1, head_dim=4, mlp_dim=8, num_heads=2, num_kv_heads=1
    )
    params = Transformer(config).init(jax.random.key(0))
    return Model(config, params, bundled_vocabulary(), PjitPartitioner(devices=jax.devices()[:1]))


def test_every_argument_has_wrong_values() -> None:
    assert {name for _, name in CASES} == set(WRONG)


@pytest.mark.parametrize(("call", "name"), CASES)
def test_an_argument_of_another_type_is_refused(model: Model, call: str, name: str) -> None:
    arguments = dict(CALLS[call])
    if name == "weights":
        arguments["prompts"] = [[prompt] for prompt in arguments["prompts"]]
    for value in WRONG[name]:
        with pytest.raises(ConfigError) as caught:
            getattr(model, call)(**arguments | {name: value})
        message = str(caught.value)
        assert "\n" not in message and "allowed: " in message, value
        is_rows = name in ("prompts", "rows", "responses")
        assert name in message or (is_rows and "row " in message), value


def test_an_amateur_is_named_in_its_message() -> None:
    for wrong in WRONG["amateur"]:
        with pytest.raises(ConfigError, match="^amateur: .*; allowed: 'bio', 'fin'"):
            with_adapters("llama").generate_tokens([[1]], 4, Contrastive(), amateur=wrong)


def test_arrays_and_none_are_allowed(model: Model) -> None:
    how = {"weights": [[0.25, 0.75], [1.0]], "numbers": [4, 2], "stop": [], "eos_ids": [5, 6]}
    contexts, decoding = [[[1, 2], [3]], [[4, 5, 6]]], Sampling(seed=1)
    expected = model.generate_tokens(contexts, 4, decoding, **how)
    how = how | {"stop": None, "eos_ids": np.array([5, 6]), "numbers": np.array([4, 2])}
    how["weights"] = (np.array([0.25, 0.75], np.float32), (jnp.ones(()),))
    arrays = [[np.array(ids) for ids in group] for group in contexts]
    assert model.generate_tokens(arrays, 4, decoding, **how) == expected


@pytest.mark.parametrize("weights", [None, [[1.0], [1.0]]])
def test_texts_and_chats_are_no_token_ids(model: Model, weights: list[list[float]] | None) -> None:
    chat = [{"role": "user", "content": "a"}]
    for prompt, what in (("a b c", "text"), (chat, "chat")):
        prompts = [[1, 2], prompt] if weights is None else [[[1, 2]], [prompt]]
        expected = rf"generate_tokens: prompts\[1\] is a {what}; allowed: rows of token ids"
        with pytest.raises(ConfigError, match=expected):
            model.generate_tokens(prompts, 2, weights=weights)


def test_rows_of_ids_are_no_texts(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"prompts\[0\] is list; allowed: .* \(calls named"):
        model.generate(IDS, 2)
    mixed = "generate_outputs: prompts: texts and token ids; allowed: all of one kind"
    with pytest.raises(ConfigError, match=mixed):
        model.generate_outputs(["a", [1, 2]], 2)


def test_ids_out_of_range_are_refused_by_the_call_that_was_made(model: Model) -> None:
    for call in (model.generate_outputs, model.generate_tokens):
        with pytest.raises(ConfigError, match=f"^{call.__name__}: row 0 has id 999999; allowed"):
            call([[999999]], 2)


def test_prompts_are_whole_or_refused() -> None:
    """They are cut only where that is asked for, with a warning."""
    config = LlamaConfig(
        vocab_size=SIZE,
        emb_dim=8,
        num_layers=1,
        head_dim=4,
        mlp_dim=8,
        num_heads=2,
        num_kv_heads=1,
        max_length=1600,
    )
    params = Transformer(config).init(jax.random.key(0))
    one = PjitPartitioner(devices=jax.devices()[:1])
    model = Model(config, params, bundled_vocabulary(), one)
    ids = model._described.features.prompt_tokens(model.vocabulary, "red box " * 700)
    assert 1024 < len(ids) < 1590
    text = "red box " * 700
    whole = model.generate_outputs([text], 4)
    assert whole[0].tokens == model.generate_tokens([ids], 4)[0]
    expected = f"a prompt of {len(ids)} tokens and 900 of its answer; allowed: 1600 in all"
    with pytest.raises(ConfigError, match=expected):
        model.generate([text], 900)
    with pytest.warns(UserWarning, match="are cut at the end"):
        model.generate([text], 900, max_input_tokens=8)
