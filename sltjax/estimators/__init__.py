"""Estimators: each a few lines over the moments of a trace."""

from sltjax.estimators.covariances import Covariance, correlation, covariance
from sltjax.estimators.free_energies import free_energy, wbic
from sltjax.estimators.functional_variance import singular_fluctuation, waic
from sltjax.estimators.grouping import average_linkage
from sltjax.estimators.hessian import HessianMetric, HessianSpectrum, hessian_spectra, hessian_spectrum, with_rank_check
from sltjax.estimators.influence import Strongest, bayesian_influence, strongest
from sltjax.estimators.kernel import Embedding, kernel_pca, loss_kernel, spectral_embedding, umap_embedding
from sltjax.estimators.learning_coefficient import HEAT_DOUBT, llc
from sltjax.estimators.localisation import directions_held, effective_count, localisation_bias, unlocalised_llc
from sltjax.estimators.modularity import Interactions, coefficient_interactions, loss_interactions, modules
from sltjax.estimators.multiplicity import MultiplicityFit, fit_llc, fit_multiplicity, multiplicity_correction
from sltjax.estimators.susceptibility import Structure, Susceptibilities, structure, susceptibilities
from sltjax.estimators.traced import judge, traced_llc
from sltjax.estimators.two_temperatures import two_temperature_llc

__all__ = [
    "HEAT_DOUBT",
    "Covariance",
    "Embedding",
    "HessianMetric",
    "HessianSpectrum",
    "Interactions",
    "MultiplicityFit",
    "Strongest",
    "Structure",
    "Susceptibilities",
    "average_linkage",
    "bayesian_influence",
    "coefficient_interactions",
    "correlation",
    "covariance",
    "directions_held",
    "effective_count",
    "fit_llc",
    "fit_multiplicity",
    "free_energy",
    "hessian_spectra",
    "hessian_spectrum",
    "judge",
    "kernel_pca",
    "llc",
    "localisation_bias",
    "loss_interactions",
    "loss_kernel",
    "modules",
    "multiplicity_correction",
    "singular_fluctuation",
    "spectral_embedding",
    "strongest",
    "structure",
    "susceptibilities",
    "traced_llc",
    "two_temperature_llc",
    "umap_embedding",
    "unlocalised_llc",
    "waic",
    "wbic",
    "with_rank_check",
]
