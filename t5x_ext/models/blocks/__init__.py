"""The pieces that families are composed of: Flax NNX modules that hold no arrays.

    parameter.py  a parameter's declaration on a module, and stacks of equal layers
    linear.py     products with a kernel; embeddings
    norms.py      RMS norm, layer norm
    mlp.py        plain and gated feed-forward blocks
    positions.py  relative position tables, ALiBi, rotary embeddings
    pattern.py    who attends to whom
    attend.py     the paths that compute attention, and which is taken
    xla_attention.py, by_distance.py, splash.py, cudnn.py
                  these paths: XLA, our TPU kernel, JAX's, and that of GPUs
    attention.py  projections around attention, for whole rows and for one position
    cache.py      keys and values of prompts and of what was decoded so far
    dropout.py    T5X's masks
    stack.py      a stack of layers: scanned or written out, recomputed by name

NNX describes, JAX runs: a module is built once without arrays (`Network`), and bound to a nested
dictionary of them inside the function that is traced. No module is an argument of `jax.jit`, and
neither random keys nor caches are module state.
"""
