"""T5 1.1 XL on slices of v5e: `pytest tests/planning/test_xl.py`, minutes on two cores."""

from __future__ import annotations

import dataclasses

import compilers
import pytest

from mixtures.release import BUNDLED_SUITE
from t5x_ext import gin_utils
from t5x_ext import plan as plan_command
from t5x_ext.planning import plans
from t5x_ext.planning.devices import GIB, parse_topology


@pytest.mark.slow
def test_xl_fits_a_small_slice_and_spends_its_time_on_products():
    compilers.load_libtpu()
    flags, _ = gin_utils.parse_flags(
        plan_command._parser(),
        [
            "--gin_file=models/t5_1_1_xl.gin",
            "--gin_file=runs/plan.gin",
            "--gin_file=optimizers/adafactor.gin",
            "--gin_file=meshes/fsdp.gin",
            "--gin.FSDP=16",
            "--gin.BATCH_SIZE=128",
            "--gin.PACK=True",
            "--gin.REMAT_POLICY='minimal'",
            "--gin.NUM_MICROBATCHES=2",
            "--topology=v5e:4x4",
        ],
    )
    setup = plan_command._setup(flags)
    plan = plans.make_plan(setup, parse_topology("v5e:4x4"))
    totals = plan.train.totals
    assert plan.needed_bytes < 9 * GIB
    assert totals.operation_secs < 0.56
    # What is not a product of the model itself: recomputed attention and activations.
    assert 1 <= totals.flops / (plan.model_flops / 16) < 1.1
    assert (totals.unknown_loops, totals.kernels_without_cost) == (0, 0)


@pytest.mark.long
def test_64_models_of_the_papers_study_train_at_once_on_256_chips():
    compilers.load_libtpu()
    flags, _ = gin_utils.parse_flags(
        plan_command._parser(),
        [
            "--gin_file=studies/paper.gin",
            "--gin.FSDP=4",
            "--gin.MODEL_DIR=''",
            "--gin.TK_INSTRUCT_PATH=''",
            "--gin.LM_ADAPT_PATH=''",
            f"--gin.DATA_DIR='{BUNDLED_SUITE}'",
            "--topology=v5e:16x16",
        ],
    )
    study = plan_command._setup(flags)
    setup = dataclasses.replace(study.setup, experts=64, decoding=None)
    plan = plans.make_plan(setup, parse_topology("v5e:16x16"))
    assert plan.fits and plan.setup.partitioner.mesh.shape["expert"] == 64
    totals = plan.train.totals
    assert {size for _, size in totals.collectives} <= {2, 4}  # models never talk to each other
    # The remat policy computes some products a second time.
    assert 1 <= totals.flops / (plan.model_flops / 256) < 1.2
    assert totals.kernels > 0 and totals.unknown_loops == 0
    assert plan.step_secs < 0.5
