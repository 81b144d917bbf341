"""Estimators: each a few lines over the moments of a trace."""

from sltjax.estimators.free_energies import free_energy, wbic
from sltjax.estimators.functional_variance import singular_fluctuation, waic
from sltjax.estimators.hessian import HessianSpectrum, hessian_spectra, hessian_spectrum, with_rank_check
from sltjax.estimators.learning_coefficient import HEAT_DOUBT, llc
from sltjax.estimators.localisation import directions_held, effective_count, localisation_bias, unlocalised_llc
from sltjax.estimators.multiplicity import MultiplicityFit, fit_llc, fit_multiplicity, multiplicity_correction
from sltjax.estimators.two_temperatures import two_temperature_llc

__all__ = [
    "HEAT_DOUBT",
    "HessianSpectrum",
    "MultiplicityFit",
    "directions_held",
    "effective_count",
    "fit_llc",
    "fit_multiplicity",
    "free_energy",
    "hessian_spectra",
    "hessian_spectrum",
    "llc",
    "localisation_bias",
    "multiplicity_correction",
    "singular_fluctuation",
    "two_temperature_llc",
    "unlocalised_llc",
    "waic",
    "wbic",
    "with_rank_check",
]
