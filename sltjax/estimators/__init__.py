"""Estimators: each a few lines over the moments of a trace."""

from sltjax.estimators.learning_coefficient import HEAT_DOUBT, llc
from sltjax.estimators.localisation import directions_held, effective_count, localisation_bias, unlocalised_llc
from sltjax.estimators.multiplicity import MultiplicityFit, fit_llc, fit_multiplicity, multiplicity_correction
from sltjax.estimators.traced import judge, traced_llc
from sltjax.estimators.two_temperatures import two_temperature_llc

__all__ = [
    "HEAT_DOUBT",
    "MultiplicityFit",
    "directions_held",
    "effective_count",
    "fit_llc",
    "fit_multiplicity",
    "judge",
    "llc",
    "localisation_bias",
    "multiplicity_correction",
    "traced_llc",
    "two_temperature_llc",
    "unlocalised_llc",
]
