"""An adapter merged into its base, tensor by tensor, and how far that moves the logits.

An adapter was tuned over one base: the original, or what is left of it in four bits. Merged into
the other it is another model. So whoever merges says into which, and is told the distance to both.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.adapters import Adapter, bidirectional_in
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.hugging_face.placements import specs_by_name
from t5x_ext.checkpoints.meta import PROMPT
from t5x_ext.checkpoints.params import hash_params
from t5x_ext.checkpoints.sources import BIDIRECTIONAL, Index, LazyTensor, Source
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, nf4, parameters
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.merging import Product, find_products
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import Params, join
from t5x_ext.models.quantizing import quantize

BASES = ("original", "dequantised")

_ROWS, _LENGTH = 2, 32  # of the random tokens whose logits are compared


def merge_source(source: Source, adapter: Adapter, base: str, dtype: str | None = None) -> Source:
    """The base with W + s A B in the place of every kernel W that has an adapter.

    Args:
        source: The base; it states its config.
        adapter: From `open_adapter`.
        base: One of `BASES`: the kernels as they are, or each quantised to NF4 and back.
        dtype: Of what is to be written; None keeps each tensor's. Sums are made in float32.

    Returns:
        What reads and merges a part of a tensor whenever it is asked for one.

    Raises:
        ConfigError: If the adapter is of another base.
    """
    assert source.config is not None
    adapter.check_base(fingerprint_base(source), source.path)
    adapter.warn_of_kernels("nf4" if base == "dequantised" else None, source.path)
    on_host = jax.tree.map(np.asarray, adapter.params)
    products = find_products(source.config, adapter.lora, on_host)
    specs = specs_by_name(source.config)

    def merged(name: str, tensor: LazyTensor) -> LazyTensor:
        through_nf4 = base == "dequantised" and nf4.is_quantisable(specs[name])
        if name not in products and not through_nf4:
            return tensor
        stored = np.dtype(dtype or tensor.dtype)
        matrices = _Matrices(tensor, products.get(name), through_nf4, stored)
        return LazyTensor(tensor.shape, matrices.dtype, matrices.read)

    leaves = hash_params(trees.named_leaves(adapter.params))
    digest = f"{source.digest} {base} {adapter.lora.describe()} {leaves}"
    origin = {"adapter": adapter.path, "base": base, "base_sha256": source.digest}
    meta = {**source.meta, "merged": origin}
    bidirectional = bidirectional_in(source, adapter.path)
    if bidirectional is not None:
        meta[BIDIRECTIONAL] = bidirectional
    if adapter.prompt is not None:
        meta[PROMPT] = adapter.prompt
    return dataclasses.replace(
        source,
        tensors={name: merged(name, tensor) for name, tensor in source.tensors.items()},
        step=adapter.step or source.step,
        digest_fn=lambda: hashlib.sha256(digest.encode()).hexdigest(),
        meta=meta,
    )


class _Matrices:
    """A stack of kernels, merged one after the other as they are read."""

    def __init__(
        self, tensor: LazyTensor, product: Product | None, through_nf4: bool, dtype: np.dtype
    ):
        self.tensor, self.product, self.through_nf4 = tensor, product, through_nf4
        self.dtype = dtype
        self._kept: tuple[int, np.ndarray] | None = None  # the matrix dequantised last

    def read(self, index: Index) -> np.ndarray:
        """See `LazyTensor.read`."""
        layers = range(self.tensor.shape[0])[index[0]]
        parts = [self._part(layer, index[1:]) for layer in layers]
        return np.ascontiguousarray(np.stack(parts), self.dtype)

    def _part(self, layer: int, index: Index) -> np.ndarray:
        if self.through_nf4:
            kernel = self._dequantised(layer)[index]
        else:
            kernel = self.tensor.read((slice(layer, layer + 1), *index))[0].astype(np.float32)
        if self.product is None:
            return kernel
        return self.product.of_layer(layer, *index).add_to(kernel)

    def _dequantised(self, layer: int) -> np.ndarray:
        if self._kept is None or self._kept[0] != layer:
            whole = (slice(layer, layer + 1), slice(None), slice(None))
            codes = quantize(self.tensor.read(whole)[0])
            self._kept = layer, np.asarray(jax.jit(nf4.dequantize)(codes))
        return self._kept[1]


def largest_changes(source: Source, adapter: Adapter, written: Source) -> dict[str, float]:
    """The largest difference between any logit of a merged model and of the adapter over a base.

    Logits are those of random tokens, in float32; the three models are loaded one after the other.

    Args:
        source: The base.
        adapter: What was merged.
        written: The merged model.

    Returns:
        A difference for each of `BASES`.
    """
    assert source.config is not None
    config = source.config.replace(dtype="float32")
    after = _logits(Transformer(config), written.tensors, {})
    networks = {
        "original": Transformer(config, adapter.lora),
        "dequantised": Transformer(config, adapter.lora, quantization="nf4"),
    }
    return {
        base: float(np.abs(_logits(net, source.tensors, adapter.params) - after).max())
        for base, net in networks.items()
    }


def _logits(net: Transformer, tensors: Mapping[str, LazyTensor], adapter: Params) -> np.ndarray:
    specs = Transformer(net.config).specs
    wanted: Any = parameters.abstract_params(specs)
    if net.quantization:
        wanted = nf4.quantise_abstract(specs, wanted)
    params = trees.read_onto_devices(tensors, trees.wanted_params(wanted, "float32"))
    kind = EncoderDecoderModel if net.config.has_encoder else DecoderOnlyModel
    logits = jax.jit(kind(module=net).logits)(join(params, adapter), _random_batch(net.config))
    return np.asarray(logits)


def _random_batch(config: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(1, config.vocab_size, (2, _ROWS, _LENGTH), np.int32)
    is_real = np.ones_like(inputs)
    if not config.has_encoder:
        return {"decoder_input_tokens": inputs, "decoder_segment_ids": is_real}
    return {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": is_real,
        "decoder_input_tokens": np.roll(targets, 1, axis=1),
        "decoder_segment_ids": is_real,
    }
