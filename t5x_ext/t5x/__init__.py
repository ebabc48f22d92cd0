"""T5X's own module names, so that a gin file written for T5X needs one substitution.

`from t5x import utils` becomes `from t5x_ext.t5x import utils`, and so on for every module of T5X's
that its model and run files import. The modules import names from where they live in this package
and add nothing, but for `examples.scalable_t5`, whose models differ in one field of their config.
What of T5X's bindings has no parameter here is in `t5x_ext.gin_strict.t5x_bindings`.
"""
