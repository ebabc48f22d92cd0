"""FLOPs that the model itself asks for: matrix products by formula, nothing recomputed."""

from __future__ import annotations

from t5x_ext.models.network import T5Config


def forward_flops(cfg: T5Config, rows: int, input_length: int, target_length: int) -> int:
    """FLOPs of one forward pass, 2 per multiply-add, padding included.

    Exact for what the network multiplies: projections, attention over every pair of positions,
    feed-forward blocks, logits. Embedding look-ups, norms and softmax are left out.

    Args:
      cfg: model shape.
      rows: B, rows of the batch.
      input_length: L, encoder positions of a row.
      target_length: T, decoder positions of a row.
    """
    joined = cfg.num_heads * cfg.head_dim
    projection = cfg.emb_dim * joined
    mlp = (len(cfg.mlp_activations) + 1) * cfg.emb_dim * cfg.mlp_dim
    inputs, targets = rows * input_length, rows * target_length

    def attention(queries: int, keys: int) -> int:
        return 2 * rows * queries * keys * joined  # logits, and weights times values

    encoder_layer = inputs * (4 * projection + mlp) + attention(input_length, input_length)
    decoder_layer = (
        targets * (4 * projection + mlp)
        + attention(target_length, target_length)
        + (2 * targets + 2 * inputs) * projection  # cross-attention: keys and values of the inputs
        + attention(target_length, input_length)
    )
    logits = targets * cfg.emb_dim * cfg.vocab_size
    layers = cfg.num_encoder_layers * encoder_layer + cfg.num_decoder_layers * decoder_layer
    return 2 * (layers + logits)


def train_flops(cfg: T5Config, rows: int, input_length: int, target_length: int) -> int:
    """FLOPs of one train step: every product once forward and twice backward."""
    return 3 * forward_flops(cfg, rows, input_length, target_length)
