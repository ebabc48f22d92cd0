"""`t5x.adafactor`."""

from t5x_ext.training.adafactor import Adafactor, HParamMap, standard_logical_factor_rules

__all__ = ["Adafactor", "HParamMap", "standard_logical_factor_rules"]
