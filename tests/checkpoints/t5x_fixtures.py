"""T5X checkpoints made by hand: names, shapes and file formats as google-research/t5x writes them.

Nothing here uses the package's reader or writer, so that both can be held against it.
"""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from t5x_ext.models.network import T5Config

SHAPE = {
    "vocab_size": 24,
    "emb_dim": 6,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "head_dim": 4,
    "mlp_dim": 10,
}
GATED = T5Config(**SHAPE, mlp_activations=("gelu", "linear"))
PER_LAYER = GATED.replace(position_table_per_layer=True)
TIED = T5Config(**SHAPE, mlp_activations=("relu",), logits_via_embedding=True)

_V, _D, _H, _C, _M = 24, 6, 3, 4, 10
_BIAS = "relpos_bias/rel_embedding"
_ATTENTION = {"query": "in", "key": "in", "value": "in", "out": "out"}


def layer_shapes(stack: str, gated: bool, split_heads: bool) -> dict[str, tuple[int, ...]]:
    """Parameters of one layer of T5X's networks."""
    into, out = ((_D, _H, _C), (_H, _C, _D)) if split_heads else ((_D, _H * _C), (_H * _C, _D))
    attentions = (
        ("attention",) if stack == "encoder" else ("self_attention", "encoder_decoder_attention")
    )
    norms = (
        ("pre_attention_layer_norm", "pre_mlp_layer_norm")
        if stack == "encoder"
        else (
            "pre_self_attention_layer_norm",
            "pre_cross_attention_layer_norm",
            "pre_mlp_layer_norm",
        )
    )
    shapes = {f"{norm}/scale": (_D,) for norm in norms}
    for attention in attentions:
        for name, kind in _ATTENTION.items():
            shapes[f"{attention}/{name}/kernel"] = into if kind == "in" else out
    for name in ("wi_0", "wi_1") if gated else ("wi",):
        shapes[f"mlp/{name}/kernel"] = (_D, _M)
    return shapes | {"mlp/wo/kernel": (_M, _D)}


def make_t5(config: T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters of examples/t5, by T5X's names; there no layer has its own table."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embedder/embedding": (_V, _D)}
    if not config.logits_via_embedding:
        shapes["decoder/logits_dense/kernel"] = (_D, _V)
    gated = len(config.mlp_activations) == 2
    for stack, depth in (("encoder", 2), ("decoder", 3)):
        if not config.position_table_per_layer:
            shapes[f"{stack}/{_BIAS}"] = (_H, 32)
        shapes[f"{stack}/{stack}_norm/scale"] = (_D,)
        for layer in range(depth):
            for name, shape in layer_shapes(stack, gated, split_heads=False).items():
                shapes[f"{stack}/layers_{layer}/{name}"] = shape
            if config.position_table_per_layer:
                shapes[f"{stack}/layers_{layer}/{_BIAS}"] = (_H, 32)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def to_scalable(params: dict[str, np.ndarray], scanned: bool) -> dict[str, np.ndarray]:
    """The same model as examples/scalable_t5 holds it, with scanned layers or without."""
    made = {
        name: params[name] for name in params if "layers_" not in name and "relpos_bias" not in name
    }
    gated = "encoder/layers_0/mlp/wi_0/kernel" in params
    for stack, depth in (("encoder", 2), ("decoder", 3)):
        shapes = layer_shapes(stack, gated, split_heads=True)
        layers = {
            name: [params[f"{stack}/layers_{i}/{name}"].reshape(shape) for i in range(depth)]
            for name, shape in shapes.items()
        }
        shared = params.get(f"{stack}/{_BIAS}")
        layers[_BIAS] = [
            params[f"{stack}/layers_{i}/{_BIAS}"] if shared is None else shared
            for i in range(depth)
        ]
        for name, values in layers.items():
            if scanned:
                made[f"{stack}/{stack}/{name}"] = np.stack(values, axis=1)
            else:
                made |= {f"{stack}/layers_{i}/{name}": value for i, value in enumerate(values)}
    return made


def ours(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same model by our names: the layers of `make_t5` stacked."""
    stacked: dict[str, list[np.ndarray]] = {}
    for name, value in params.items():
        stack, _, rest = name.partition("/layers_")
        if rest:
            number, _, rest = rest.partition("/")
            layers = stacked.setdefault(f"{stack}/layers/{rest}", [])
            assert len(layers) == int(number)
            layers.append(value)
    plain = {name: value for name, value in params.items() if "/layers_" not in name}
    return plain | {name: np.stack(layers) for name, layers in stacked.items()}


def write_array(directory: Path, name: str, value: np.ndarray) -> dict:
    """Writes one zarr array; returns the spec that T5X keeps of it in its index."""
    path = name.replace("/", ".")
    metadata = {
        "shape": list(value.shape),
        "chunks": [max(1, size // 2) for size in value.shape],
        "compressor": {"id": "gzip"},
    }
    spec = {"driver": "zarr", "dtype": value.dtype.name, "metadata": metadata}
    kvstore = {"driver": "file", "path": f"{directory}/{path}/"}
    # Hundreds of small files: the disk need not have each before the next is written.
    context = ts.Context({"file_io_sync": False})
    store = ts.open(spec | {"kvstore": kvstore}, create=True, context=context).result()
    store.write(value).result()
    relative = {"kvstore": {"driver": "file", "path": f"{path}/"}}
    return json.loads(json.dumps(ts.Spec(spec | relative).to_json()))


def packed(value: np.ndarray | np.generic) -> msgpack.ExtType:
    """An array inside the index, as flax.serialization packs it."""
    content = (value.shape, value.dtype.name, value.tobytes())
    kind = 3 if isinstance(value, np.generic) else 1
    return msgpack.ExtType(kind, msgpack.packb(content, use_bin_type=True))


def nest(leaves: dict[str, object]) -> dict:
    tree: dict = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def write_checkpoint(
    directory: Path, params: dict[str, np.ndarray], step: int = 1000, gs: bool = False
) -> None:
    """Writes T5X's own layout: Adafactor's state beside the parameters, norms in the index.

    Args:
        directory: To create.
        params: By T5X's names.
        step: Of the training.
        gs: State the arrays where a run on a bucket states them.
    """
    directory.mkdir(parents=True)
    target: dict[str, object] = {}
    for name, value in params.items():
        if name.endswith("scale"):
            target[name] = packed(value)
            continue
        spec = write_array(directory, f"target/{name}", value)
        if gs:
            spec["kvstore"] |= {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
        target[name] = spec
    statistics: dict[str, object] = {}
    for name, value in params.items():
        statistics[f"{name}/m"] = packed(np.zeros(1, np.float32))
        row = np.ones(value.shape[:1], np.float32)
        statistics[f"{name}/v_row"] = write_array(
            directory, f"state/param_states/{name}/v_row", row
        )
    index = {
        "version": 3,
        "optimizer": {
            "target": nest(target),
            "state": {"step": packed(np.int32(step)), "param_states": nest(statistics)},
        },
    }
    (directory / "checkpoint").write_bytes(msgpack.packb(index))


def read_as_t5x(directory: Path) -> tuple[dict[str, np.ndarray], int]:
    """Reads target and step as `t5x.checkpoints.Checkpointer.restore` does."""

    def unpack(kind: int, data: bytes) -> np.ndarray:
        shape, name, content = msgpack.unpackb(data)
        assert kind in (1, 3)
        return np.frombuffer(content, np.dtype(name)).reshape(shape)

    raw = (directory / "checkpoint").read_bytes()
    index = msgpack.unpackb(raw, ext_hook=unpack, strict_map_key=False)
    assert index["version"] == 3
    assert set(index["optimizer"]) == {"target", "state"}
    params: dict[str, np.ndarray] = {}

    def visit(node: dict, name: str) -> None:
        if set(node) >= {"driver", "kvstore", "metadata"}:
            spec = json.loads(json.dumps(node))
            # T5X opens an array with what is left after these three steps.
            del spec["metadata"]["chunks"], spec["metadata"]["compressor"]
            spec["kvstore"]["path"] = f"{directory}/{spec['kvstore']['path']}"
            ts.Spec(node)
            params[name] = ts.open(spec, open=True).result().read().result()
            return
        for key, child in node.items():
            visit(child, f"{name}/{key}" if name else key)

    visit(index["optimizer"]["target"], "")
    return params, int(index["optimizer"]["state"]["step"])


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
