"""How tests have programs compiled: they compile far more than they compute."""

# Without optimisation, and by the older of XLA's two ways to write loops for CPUs, which takes less
# than half the time to compile.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
