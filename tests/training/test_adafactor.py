"""Adafactor against T5X's update rules, written out again in NumPy from their description."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import make_batches, make_model

from t5x_ext.errors import ConfigError
from t5x_ext.models import parameters as model_params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.adafactor import Adafactor, HParamMap
from t5x_ext.training.trainer import Program, Trainer, train_loop

RNG = np.random.default_rng(0)
LEARNING_RATE = 0.1


def rms(x: np.ndarray, axis=None) -> np.ndarray:
    return np.sqrt(np.mean(np.square(x), axis=axis, keepdims=axis is not None))


@dataclasses.dataclass
class T5X:
    """T5X's Adafactor for one parameter of a network with its layers written out, in float64."""

    param: np.ndarray
    step: int = 0
    step_offset: int = 0
    decay_rate: float = 0.8
    factored: bool = True
    min_dim: int = 128
    beta1: float | None = None
    clipping: float | None = 1.0
    scale: bool = True
    max_scale: float | None = None
    weight_decay: float | None = None
    weight_decay_exponent: float | None = None
    row: float | np.ndarray = 0.0
    column: float | np.ndarray = 0.0
    full: float | np.ndarray = 0.0
    momentum: float | np.ndarray = 0.0

    def apply(self, grad: np.ndarray) -> None:
        """One update."""
        w, g = self.param.astype(np.float64), grad.astype(np.float64)
        keep = 1.0 - (self.step - self.step_offset + 1.0) ** -self.decay_rate
        square = g**2 + 1e-30
        if self.factored and w.ndim == 2 and min(w.shape) >= self.min_dim:
            self.row = keep * self.row + (1 - keep) * square.mean(1)
            self.column = keep * self.column + (1 - keep) * square.mean(0)
            update = g / np.sqrt(np.outer(self.row, self.column) / self.row.mean())
        else:
            self.full = keep * self.full + (1 - keep) * square
            update = g / np.sqrt(self.full)
        if self.clipping is not None:
            update = update / max(1.0, rms(update) / self.clipping)
        size = max(rms(w), 1e-3) if self.scale else 1.0
        update = LEARNING_RATE * min(size, self.max_scale or np.inf) * update
        if self.beta1 is not None:
            self.momentum = update = self.beta1 * self.momentum + (1 - self.beta1) * update
        decay = self.weight_decay
        if self.weight_decay_exponent:
            decay = (decay or 1.0) * LEARNING_RATE**self.weight_decay_exponent
        self.param = (1 - (decay or 0.0)) * w - update
        self.step += 1


def run(definition, axes, param, grads, name="w", first_step=None):
    """The parameter after one update per gradient, and the optimizer's state."""
    tree, axes_tree, leaf = param, axes, lambda x: x
    for part in reversed(name.split("/")):
        tree, axes_tree, leaf = {part: tree}, {part: axes_tree}, _under(part, leaf)
    tree = jax.tree.map(jnp.asarray, tree)
    tx = definition.build(axes_tree)
    state = tx.init(tree)
    for number, grad in enumerate(grads):
        grad_tree = jax.tree.map(lambda _, g=grad: jnp.asarray(g), tree)
        step = None if first_step is None else jnp.int32(first_step + number)
        updates, state = tx.update(
            grad_tree, state, tree, learning_rate=jnp.float32(LEARNING_RATE), step=step
        )
        tree = jax.tree.map(jnp.add, tree, updates)
    return np.asarray(leaf(tree)), jax.tree.map(np.asarray, leaf(state.slots))


def _under(part, leaf):
    return lambda tree: leaf(tree[part])


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


CASES = {
    "factored": ((130, 140), {}, {}),
    "one dimension below 128": ((16, 140), {}, {}),
    "not factored": ((130, 140), {"factored": False}, {"factored": False}),
    "momentum": ((130, 140), {"beta1": 0.9}, {"beta1": 0.9}),
    "no clipping": ((130, 140), {"clipping_threshold": None}, {"clipping": None}),
    "no scale": ((140,), {"multiply_by_parameter_scale": False}, {"scale": False}),
    "largest scale": ((130, 140), {"max_parameter_scale": 0.5}, {"max_scale": 0.5}),
    "weight decay": ((140,), {"weight_decay_rate": 0.01}, {"weight_decay": 0.01}),
    "weight decay by the learning rate": (
        (140,),
        {"weight_decay_rate_lr_exponent": 2.0},
        {"weight_decay_exponent": 2.0},
    ),
    "both": (
        (140,),
        {"weight_decay_rate": 0.3, "weight_decay_rate_lr_exponent": 1.0},
        {"weight_decay": 0.3, "weight_decay_exponent": 1.0},
    ),
    "an exponent of zero": ((140,), {"weight_decay_rate_lr_exponent": 0.0}, {}),
    "another decay": ((140,), {"decay_rate": 0.5}, {"decay_rate": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_ten_updates_equal_t5x(case: str) -> None:
    shape, ours, theirs = CASES[case]
    param, grads = normal(*shape), [normal(*shape) for _ in range(10)]
    expected = T5X(param, **theirs)
    for grad in grads:
        expected.apply(grad)
    got, _ = run(Adafactor(**ours), ("embed", "mlp")[: len(shape)], param, grads)
    update = rms(expected.param - param)
    assert rms(got - expected.param) < 3e-6 * update


@pytest.mark.parametrize("case", CASES)
def test_a_stack_of_layers_equals_its_layers_in_t5x(case: str) -> None:
    shape, ours, theirs = CASES[case]
    # Layers of other sizes, so that what is computed over the whole stack differs.
    sizes = np.array([1.0, 20.0]).reshape(2, *[1] * len(shape))
    param = (sizes * normal(2, *shape)).astype(np.float32)
    grads = [(normal(2, *shape) / sizes).astype(np.float32) for _ in range(4)]
    axes = ("layers", *("embed", "mlp")[: len(shape)])
    got, _ = run(Adafactor(**ours), axes, param, grads, name="encoder/layers/kernel")
    for layer in range(2):
        expected = T5X(param[layer], **theirs)
        for grad in grads:
            expected.apply(grad[layer])
        rounding = 1e-7 * rms(param[layer])
        update = rms(expected.param - param[layer])
        assert rms(got[layer] - expected.param) < 3e-6 * update + rounding


def test_scanned_layers_factor_a_small_stack_by_the_rules() -> None:
    param, grads = normal(2, 8, 16), [normal(2, 8, 16) for _ in range(3)]
    axes = ("layers", "embed", "mlp")
    got, slots = run(Adafactor(scanned_layers=True), axes, param, grads)
    assert slots.v_row.shape == (2, 8) and slots.v_col.shape == (2, 16)
    for layer in range(2):
        expected = T5X(param[layer], min_dim=1)
        for grad in grads:
            expected.apply(grad[layer])
        np.testing.assert_allclose(got[layer], expected.param, rtol=2e-5, atol=2e-6)
    _, slots = run(Adafactor(), axes, param, grads)
    assert slots.v.shape == (2, 8, 16) and slots.v_row.shape == (1,)


def test_step_offset_counts_from_the_restored_step_as_in_t5x() -> None:
    """T5X restores the moments too, which at the offset's own step no longer count."""
    param, grads = normal(130, 140), [normal(130, 140) for _ in range(10)]
    old = np.square(normal(130, 140)) * 50
    expected = T5X(param, step=300, step_offset=300, row=old.mean(1), column=old.mean(0))
    for grad in grads:
        expected.apply(grad)
    definition = Adafactor(step_offset=300)
    got, _ = run(definition, ("embed", "mlp"), param, grads, first_step=300)
    assert rms(got - expected.param) < 3e-6 * rms(expected.param - param)


def test_step_offset_forgets_the_moments_at_its_step() -> None:
    param, grads = normal(140), [normal(140) for _ in range(6)]
    expected = T5X(param)
    for number, grad in enumerate(grads):
        expected.step_offset = 4 if number >= 4 else 0
        expected.apply(grad)
    got, _ = run(Adafactor(step_offset=4), ("embed",), param, grads, first_step=0)
    np.testing.assert_allclose(got, expected.param, rtol=1e-5)


def test_gradients_are_scaled_to_a_global_norm_first() -> None:
    param, grad = normal(8), normal(8)
    for threshold in (0.5 * np.linalg.norm(grad), 2 * np.linalg.norm(grad)):
        definition = Adafactor(
            global_norm_clip_threshold=float(threshold),
            multiply_by_parameter_scale=False,
            clipping_threshold=None,
            epsilon1=1.0,  # so that the size of a gradient shows in its update
        )
        got, _ = run(definition, ("embed",), param, [grad])
        clipped = grad * min(1.0, threshold / np.linalg.norm(grad))
        expected = param - LEARNING_RATE * clipped / np.sqrt(clipped**2 + 1.0)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_nan_updates_are_skipped_number_by_number() -> None:
    param, grad = normal(4), normal(4)
    bad = np.where(np.arange(4) == 2, np.nan, grad).astype(np.float32)
    free = Adafactor(clipping_threshold=None, skip_nan_updates=True)
    got, slots = run(free, ("embed",), param, [bad])
    expected, _ = run(free, ("embed",), param, [grad])
    np.testing.assert_array_equal(got, np.where(np.arange(4) == 2, param, expected))
    assert slots.v[2] == 0 and (slots.v[[0, 1, 3]] > 0).all()


def test_momentum_is_kept_in_bfloat16() -> None:
    param, grads = normal(8), [normal(8) for _ in range(3)]
    exact, _ = run(Adafactor(beta1=0.9), ("embed",), param, grads)
    got, slots = run(Adafactor(beta1=0.9, dtype_momentum="bfloat16"), ("embed",), param, grads)
    assert slots.m.dtype == jnp.bfloat16
    assert 0 < rms(got - exact) < 0.01 * rms(exact - param)
    with pytest.raises(ConfigError, match="dtype_momentum: int8; allowed: float32, bfloat16"):
        Adafactor(dtype_momentum="int8")


NORM_FREE = HParamMap([("norm", False), (r"layers_\d+/mlp", True), (".*", True)])


@pytest.mark.parametrize("name", ["encoder/layers/mlp/kernel", "encoder/layers/norm/scale"])
def test_a_map_gives_each_parameter_its_setting(name: str) -> None:
    param, grads = normal(2, 140), [normal(2, 140)]
    definition = Adafactor(multiply_by_parameter_scale=NORM_FREE)
    got, _ = run(definition, ("layers", "embed"), param, grads, name=name)
    for layer in range(2):
        expected = T5X(param[layer], scale="norm" not in name)
        expected.apply(grads[0][layer])
        np.testing.assert_allclose(got[layer], expected.param, rtol=1e-5)


def test_clipping_and_decay_take_maps_too() -> None:
    param, grads = normal(140), [normal(140) * 9, normal(140)]
    definition = Adafactor(
        clipping_threshold=HParamMap([("w", 0.1)]),
        weight_decay_rate=HParamMap([("other", 0.5), ("w", 0.25)]),
    )
    expected = T5X(param, clipping=0.1, weight_decay=0.25)
    for grad in grads:
        expected.apply(grad)
    got, _ = run(definition, ("embed",), param, grads)
    np.testing.assert_allclose(got, expected.param, rtol=1e-5)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("layers_0/", 1), (".*", 2)], "'layers_0/' matches layer 0 of encoder/layers/norm/scale"),
        ([("decoder", 1)], "none matches encoder/layers/norm/scale"),
        ([("(", 1)], "'\\(' is not a regular expression"),
    ],
)
def test_a_map_that_cannot_be_followed_is_refused(rules, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HParamMap(rules).value_of("encoder/layers/norm/scale", 3)


def test_norm_scales_and_position_tables_keep_full_moments() -> None:
    _, slots = run(Adafactor(), ("layers", "embed"), normal(3, 256), [normal(3, 256)])
    assert slots.v.shape == (3, 256)
    _, slots = run(Adafactor(), ("heads", "relpos_buckets"), normal(8, 32), [normal(8, 32)])
    assert slots.v.shape == (8, 32)


def test_an_axis_without_a_rule_is_named() -> None:
    with pytest.raises(ConfigError, match="no rule for axis 'colour' of w"):
        run(Adafactor(), ("colour",), normal(3), [])


def trained(
    optimizer: Adafactor, first_step: int = 0, num_microbatches: int = 1, dtype: str = "float32"
):
    """A tiny model's parameters after three steps that begin at `first_step`."""
    trainer = Trainer(num_microbatches, create_learning_rate_scheduler("constant", 1e-2))
    partitioner = PjitPartitioner(data=1, devices=jax.devices()[:1])
    model = make_model(optimizer, num_encoder_layers=1, num_decoder_layers=1, dtype=dtype)
    program = Program(model, partitioner, trainer)
    start = model_params.init_params(program.model.specs, jax.random.key(0))
    state = program.state_from_params(start, first_step)
    batches = make_batches(40, 8, pack=False)
    return train_loop(program, state, batches, first_step + 3, jax.random.key(1)).params


@pytest.fixture(scope="module")
def plain():
    return jax.device_get(trained(Adafactor()))


def distance(ours, theirs) -> float:
    """Root of the mean of squared differences over all parameters."""
    differences = jax.tree.map(lambda a, b: np.ravel(a - b), ours, theirs)
    return float(rms(np.concatenate(jax.tree.leaves(differences))))


@pytest.mark.slow
def test_a_run_from_step_300_with_that_offset_is_the_run_from_step_0(plain) -> None:
    offset = trained(Adafactor(step_offset=300), 300)
    jax.tree.map(np.testing.assert_array_equal, plain, offset)


@pytest.mark.slow
def test_microbatches_and_bfloat16_give_the_same_updates(plain) -> None:
    start = model_params.init_params(
        make_model(None, num_encoder_layers=1, num_decoder_layers=1).specs, jax.random.key(0)
    )
    moved = distance(plain, start)
    assert distance(trained(Adafactor(), num_microbatches=4), plain) < 1e-3 * moved
    # The sign of a gradient near zero may turn, and Adafactor scales it up.
    assert 0 < distance(trained(Adafactor(), dtype="bfloat16"), plain) < 0.2 * moved
