"""The registry: whatever enters here inherits every law of test_samplers.py."""

from functools import partial

import numpy as np

import sltjax
from sltjax.samplers import rademacher
from sltjax.truth import leimkuhler_matthews_llc, sgld_llc

# name -> (sampler at a step size, exact λ̂ of a quadratic at that step size)
SAMPLERS = {
    "sgld": (sltjax.SGLD, sgld_llc),
    "sgld ±1": (partial(sltjax.SGLD, noise=rademacher), sgld_llc),
    "leimkuhler-matthews": (sltjax.LeimkuhlerMatthews, leimkuhler_matthews_llc),
    "leimkuhler-matthews ±1": (partial(sltjax.LeimkuhlerMatthews, noise=rademacher), leimkuhler_matthews_llc),
}

# name -> (curvatures of the loss, γ), sampled at nβ = 1000
QUADRATICS = {
    "even": (np.array([1.0, 2.0, 5.0]), 10.0),
    "flat direction": (np.array([0.0, 1.0, 3.0]), 50.0),
}
NBETA = 1000.0


def assert_agrees(estimate, exact, cap, bias=0.0):
    """Within four standard errors, which are capped so that noise cannot pass for agreement."""
    assert estimate.std_error < cap * exact
    assert abs(estimate.value - exact) < 4 * estimate.std_error + bias * exact
