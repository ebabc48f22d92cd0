"""`t5x.infer`."""

from t5x_ext.infer import infer

__all__ = ["infer"]
