"""What nβ and γ do to the learning coefficient: a curve over each, and what can be put back.

    uv run python examples/1b_definition.py [figure.png]

The loss is K(w) = x²y² + z², known exactly: λ = 1 with multiplicity m = 2. λ̂ is defined at an inverse temperature nβ,
about a checkpoint, within a region that γ sets, and falls short of λ by what these take away: with multiplicity it
comes up to λ no faster than 1 / log nβ.
"""

import sys

import jax
import jax.numpy as jnp

import sltjax
from sltjax.definition import Curve, llc_curve

GAMMAS = [0.3, 1.0, 3.0, 10.0, 30.0]
NBETAS = [8.0, 16.0, 32.0, 64.0, 128.0]


def losses(w, batch):
    """One loss an example, of mean K(w)."""
    x, y, z = w
    return batch**2 * ((x * y) ** 2 + z**2)


def show(curve: Curve):
    for x, estimate, unlocalised in zip(curve.x, curve.estimates, curve.unlocalised(), strict=True):
        found = f"{estimate.value:.3f} ± {estimate.std_error:.3f}"
        print(f"  {curve.axis} = {x:8.3g}   λ̂ = {found}   {unlocalised.value:.3f} with the bias of γ put back")
    plateau = curve.plateau()
    if plateau is None:
        print("  no plateau: λ̂ depends on where it is asked for")
    else:
        print(f"  plateau from {plateau.low:.3g} to {plateau.high:.3g}: {plateau.value:.3f} ± {plateau.std_error:.3f}")
    for said in curve.messages + (plateau.messages if plateau else ()):
        print("  *", said)


def main(figure: str | None = None):
    batch = jax.random.normal(jax.random.key(0), (100,))
    data = batch / jnp.sqrt(jnp.mean(batch**2))
    checkpoint = jnp.zeros(3)

    print("over γ, at nβ = 50")
    over_gamma = llc_curve(jax.random.key(1), losses, checkpoint, data, nbeta=50.0, gamma=GAMMAS)
    show(over_gamma)

    print("over nβ, at γ = 1")
    over_nbeta = llc_curve(jax.random.key(2), losses, checkpoint, data, nbeta=NBETAS)
    show(over_nbeta)

    last = over_nbeta.value[-1]
    print(f"λ̂ + (m − 1)/log nβ at nβ = 128: {sltjax.multiplicity_correction(last, 128.0, 2):.3f}")
    fit = sltjax.fit_llc(over_nbeta.nbeta, over_nbeta.value, over_nbeta.std_error, multiplicity=2)
    print(f"λ from the whole curve and m = 2: {fit.llc:.3f} ± {fit.llc_error:.3f}; exactly 1")
    if figure is not None:
        from sltjax import plots

        plots.definition(over_gamma).savefig(figure, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
