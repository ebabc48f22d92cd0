"""How large parameters, gradients and updates are, tensor by tensor."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t5x_ext.models.parameters import Params, path_name


class WeightMetricsComputer:
    """Computes T5X's weight metrics at every step; part of the compiled step.

    Names are `weight_rms/encoder/layers/mlp/wo/kernel`; the layers of a stack count as one tensor.
    """

    def compute_metrics(self, grads: Params, old: Params, new: Params) -> dict[str, jax.Array]:
        """Measures one update.

        Args:
          grads: gradients that the update was made from.
          old: parameters before it.
          new: parameters after it.

        Returns:
          float32 scalars: root mean squares of the new parameters (`weight_rms`), the gradients
          (`weight_gradient_rms`), the updates (`weight_update_rms`) and the updates as shares of
          the parameters (`weight_update_divided_by_weight_rms`), the largest magnitude
          (`weight_max`), and the global `weight_gradient_norm`.
        """
        update = jax.tree.map(jnp.subtract, new, old)
        share = jax.tree.map(jnp.divide, update, old)
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)]
        return {
            "weight_gradient_norm": jnp.sqrt(sum(squares)),
            **_by_name("weight_rms", _rms, new),
            **_by_name("weight_gradient_rms", _rms, grads),
            **_by_name("weight_update_rms", _rms, update),
            **_by_name("weight_update_divided_by_weight_rms", _rms, share),
            **_by_name("weight_max", lambda x: jnp.max(jnp.abs(x)), new),
        }


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def _by_name(metric: str, measure, tree: Params) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{metric}/{path_name(path)}": measure(leaf) for path, leaf in leaves}
