"""The network: shapes, numerics that have a formula, and invariants of packing and padding."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, generation, losses, network, parameters
from t5x_ext.models.blocks.dropout import dropout
from t5x_ext.models.blocks.norms import RMSNorm
from t5x_ext.models.blocks.positions import relative_position_buckets

TINY = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def weights() -> parameters.Params:
    return parameters.init_params(network.Transformer(TINY).specs, jax.random.key(0))


def make_batch(inputs: list[list[int]], targets: list[list[int]], length: int, target_length: int):
    def pad(rows: list[list[int]], width: int) -> np.ndarray:
        return np.array([row + [0] * (width - len(row)) for row in rows], np.int32)

    tokens = pad(targets, target_length)
    return {
        "encoder_input_tokens": pad(inputs, length),
        "encoder_segment_ids": pad([[1] * len(row) for row in inputs], length),
        "decoder_segment_ids": pad([[1] * len(row) for row in targets], target_length),
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": pad([[0, *row[:-1]] for row in targets], target_length),
        "decoder_loss_weights": (tokens > 0).astype(np.float32),
    }


def test_parameter_counts_of_published_sizes() -> None:
    """T5 1.1 as released: 77.0M, 247.6M, 783.2M, 2.85B and 11.1B parameters."""
    sizes = {
        (512, 6, 8, 1024): 76_961_152,
        (768, 12, 12, 2048): 247_577_856,
        (1024, 16, 24, 2816): 783_150_080,
        (2048, 32, 24, 5120): 2_849_757_184,
        (4096, 64, 24, 10240): 11_135_332_352,
    }
    for (emb_dim, heads, depth, mlp_dim), count in sizes.items():
        cfg = network.T5Config(
            vocab_size=32128,
            emb_dim=emb_dim,
            num_heads=heads,
            num_encoder_layers=depth,
            num_decoder_layers=depth,
            head_dim=64,
            mlp_dim=mlp_dim,
            mlp_activations=("gelu", "linear"),
        )
        assert parameters.count_params(network.Transformer(cfg).specs) == count


def test_initial_values_have_the_stated_spread() -> None:
    cfg = dataclasses.replace(TINY, emb_dim=256, head_dim=64, num_heads=4, vocab_size=2048)
    made = parameters.init_params(network.Transformer(cfg).specs, jax.random.key(1))
    attention = made["encoder"]["layers"]["attention"]
    assert np.std(attention["key"]["kernel"]) == pytest.approx(256**-0.5, rel=0.02)
    assert np.std(attention["query"]["kernel"]) == pytest.approx((256 * 64) ** -0.5, rel=0.02)
    assert np.std(made["token_embedder"]["embedding"]) == pytest.approx(1.0, rel=0.02)
    first, second = attention["key"]["kernel"]
    assert not np.allclose(first, second)


DISTANCES = np.arange(200)[None, :] - np.arange(200)[:, None]


def test_buckets_of_relative_positions_follow_the_formula() -> None:
    """Raffel et al.: half the buckets exact, the other half logarithmic up to 128."""
    causal = relative_position_buckets(DISTANCES, False, 32, 128)
    distance_to_bucket = causal[-1][::-1]  # last query: key distance 0, 1, 2, ...
    assert distance_to_bucket[:17].tolist() == list(range(17))
    assert distance_to_bucket[18] == 16 and distance_to_bucket[19] == 17
    assert distance_to_bucket[112] == 30 and distance_to_bucket[113] == 31
    assert distance_to_bucket[199] == 31
    assert (causal[np.triu_indices(200, 1)] == 0).all()
    both = relative_position_buckets(DISTANCES, True, 32, 128)
    assert both[50, 51] == 17 and both[51, 50] == 1
    assert both[0, 199] == 31 and both[199, 0] == 15


def test_rms_norm_is_computed_in_float32() -> None:
    x = jnp.asarray([[300.0, 400.0]], jnp.bfloat16)  # squares overflow nothing, sums lose bits
    norm = RMSNorm(2)
    norm.scale.set_value(jnp.array([1.0, 2.0]))
    out = norm(x)
    scale = math.sqrt((300**2 + 400**2) / 2)
    np.testing.assert_allclose(
        np.asarray(out, np.float32), [[300 / scale, 2 * 400 / scale]], rtol=4e-3
    )
    assert out.dtype == jnp.bfloat16


@pytest.mark.slow
def test_padding_changes_nothing(weights: parameters.Params) -> None:
    inputs, targets = [[5, 6, 7, 1], [9, 1]], [[8, 4, 1], [3, 1]]
    short = EncoderDecoderModel(network.Transformer(TINY)).logits(
        weights, make_batch(inputs, targets, 4, 3)
    )
    long = EncoderDecoderModel(network.Transformer(TINY)).logits(
        weights, make_batch(inputs, targets, 9, 7)
    )
    np.testing.assert_allclose(short[0, :3], long[0, :3], atol=1e-5)
    np.testing.assert_allclose(short[1, :2], long[1, :2], atol=1e-5)


@pytest.mark.parametrize("missing", ["encoder_segment_ids", "decoder_segment_ids"])
def test_a_batch_says_what_is_padding(weights: parameters.Params, missing: str) -> None:
    model = EncoderDecoderModel(network.Transformer(TINY))
    batch = make_batch([[5, 1]], [[7, 1]], 2, 2)
    del batch[missing]
    for compute in (model.logits, model.loss_sums):
        with pytest.raises(ConfigError, match=f"^batch: has no {missing}; allowed: int32 ids "):
            compute(weights, batch, None)


def test_a_token_sees_no_later_target(weights: parameters.Params) -> None:
    one = EncoderDecoderModel(network.Transformer(TINY)).logits(
        weights, make_batch([[5, 1]], [[7, 8, 9, 1]], 2, 4)
    )
    other = EncoderDecoderModel(network.Transformer(TINY)).logits(
        weights, make_batch([[5, 1]], [[7, 8, 20, 21]], 2, 4)
    )
    np.testing.assert_allclose(one[0, :3], other[0, :3], atol=1e-6)
    assert not np.allclose(one[0, 3], other[0, 3])


@pytest.mark.slow(but='{"remat_policy": "full"}')
@pytest.mark.parametrize(
    "change",
    [
        {"remat_policy": "minimal"},
        {"remat_policy": "full"},
        {"scan_layers": False},
        {"scan_layers": False, "remat_policy": "minimal"},
    ],
    ids=str,
)
def test_how_a_step_is_computed_changes_no_gradient(
    weights: parameters.Params, change: dict[str, object]
) -> None:
    batch = make_batch([[5, 6, 1]], [[7, 8, 1]], 3, 3)

    def loss(p: parameters.Params, cfg: network.T5Config) -> jax.Array:
        model = EncoderDecoderModel(network.Transformer(cfg))
        return model.loss_sums(p, batch, jax.random.key(3)).loss

    cfg = dataclasses.replace(TINY, dropout_rate=0.3)
    grad = jax.jit(jax.grad(loss), static_argnums=1)
    plain = grad(weights, cfg)
    other = grad(weights, dataclasses.replace(cfg, **change))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, other)


def test_tied_output_is_scaled() -> None:
    cfg = dataclasses.replace(TINY, logits_via_embedding=True)
    made = parameters.init_params(network.Transformer(cfg).specs, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (1, 1, 16))
    model = network.Transformer(cfg).bind(made)
    expected = hidden @ made["token_embedder"]["embedding"].T / math.sqrt(16)
    np.testing.assert_allclose(generation.scores(model, hidden), expected, atol=1e-6)
    assert "logits_dense" not in made["decoder"]


def test_dropout_keeps_the_mean_and_shares_its_mask_along_length() -> None:
    x = jnp.ones((4, 50, 400))
    dropped = dropout(x, 0.25, jax.random.key(0), broadcast_axis=-2)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.05)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert (dropped == dropped[:, :1]).all()


@pytest.mark.slow
def test_bfloat16_compute_keeps_parameters_and_logits_in_float32(
    weights: parameters.Params,
) -> None:
    cfg = dataclasses.replace(TINY, dtype="bfloat16")
    batch = make_batch([[5, 6, 1]], [[7, 8, 1]], 3, 3)
    low = EncoderDecoderModel(network.Transformer(cfg)).logits(weights, batch)
    high = EncoderDecoderModel(network.Transformer(TINY)).logits(weights, batch)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, atol=0.15)
    model = EncoderDecoderModel(network.Transformer(cfg))
    grads = jax.grad(lambda p: model.loss_sums(p, batch, None).loss)(weights)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("dtype", "float16", "bfloat16"),
        ("mlp_activations", ("gelux",), "gelu"),
        ("remat_policy", "some", "minimal"),
        ("dropout_rate", 1.0, "[0, 1)"),
    ],
)
def test_bad_config_names_field_value_and_what_is_allowed(field, value, allowed) -> None:
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(TINY, **{field: value})
    message = str(error.value)
    assert field in message and allowed in message and "\n" not in message


def test_vocabulary_larger_than_the_embedding_is_refused() -> None:
    class Vocabulary:
        vocab_size = 65

    model = EncoderDecoderModel(network.Transformer(TINY), Vocabulary(), Vocabulary())
    with pytest.raises(ConfigError, match="64 rows are fewer than the 65 ids"):
        model.check_vocabulary()


def test_cross_entropy_matches_the_formula() -> None:
    logits = jnp.array([[[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]])
    targets, weights = jnp.array([[0, 2]]), jnp.array([[1.0, 0.5]])
    sums = losses.cross_entropy_sums(logits, targets, weights, z_loss=0.1)
    z0, z1 = math.log(math.e**2 + 1 + math.e**-1), math.log(3)
    assert float(sums.cross_entropy) == pytest.approx((z0 - 2) + 0.5 * z1, rel=1e-6)
    assert float(sums.z_loss) == pytest.approx(0.1 * (z0**2 + 0.5 * z1**2), rel=1e-6)
    assert float(sums.loss) == pytest.approx(float(sums.cross_entropy + sums.z_loss), rel=1e-6)
    assert float(sums.correct) == 1.0 and float(sums.weight) == 1.5


def test_label_smoothing_matches_the_divergence_from_the_smoothed_target() -> None:
    logits = jnp.array([[[2.0, 0.0, -1.0]]])
    sums = losses.cross_entropy_sums(
        logits, jnp.array([[0]]), jnp.ones((1, 1)), label_smoothing=0.1
    )
    smoothed = np.array([0.9, 0.05, 0.05])
    log_p = np.asarray(jax.nn.log_softmax(logits[0, 0]))
    assert float(sums.loss) == pytest.approx(
        np.sum(smoothed * (np.log(smoothed) - log_p)), rel=1e-5
    )


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(None, 1.0), (7, 7.0), ("NUM_REAL_TARGET_TOKENS", 5.0), ("NUM_TOTAL_TARGET_TOKENS", 12.0)],
)
def test_loss_denominators(factor, expected) -> None:
    assert float(losses.loss_denominator(factor, jnp.float32(5.0), 12)) == expected


def test_average_per_sequence_counts_packed_segments_alike() -> None:
    weights = jnp.array([[1.0, 1.0, 1.0, 1.0, 0.0]])
    segments = jnp.array([[1, 1, 1, 2, 0]])
    out = losses.apply_weighting_rule("AVERAGE_PER_SEQUENCE", weights, segments)
    np.testing.assert_allclose(out, [[1 / 3, 1 / 3, 1 / 3, 1.0, 0.0]], rtol=1e-6)
