import numpy as np
import pytest
from synthetic import run

from sltjax.development import PhaseComparison, compare_phases

# K near −1 is a + (w + 1)⁴, λ = 1/4; near 1 it is b + (w − 1)², λ = 1/2. The regular phase costs more and fits better.
SINGULAR, REGULAR = 0.25, 0.5


def free_energy(n, loss, power):
    """−log ∫ exp(−n (loss + |w|^power)) dw over [−1, 1], by quadrature."""
    w = np.linspace(-1, 1, 2_000_001)
    return n * loss - np.log(np.trapezoid(np.exp(-n * np.abs(w) ** power), w))


def test_the_free_energy_grows_with_n_as_the_exact_evidence_does():
    compared = PhaseComparison(-1e-3, 0.0, REGULAR - SINGULAR, 0.0)
    few, many = 1e4, 1e8
    exact = [free_energy(n, 0.0, 2) - free_energy(n, 1e-3, 4) for n in (few, many)]
    values, errors = compared.free_energy([few, many])
    # Both leave a constant aside, so that differences in n agree.
    assert np.diff(values) == pytest.approx(np.diff(exact), rel=1e-6)
    assert (errors == 0).all()


def test_neither_phase_is_preferred_at_the_critical_n():
    compared = PhaseComparison(-1e-3, 1e-5, REGULAR - SINGULAR, 0.01)
    n, error = compared.critical_n
    assert compared.free_energy(n)[0] == pytest.approx(0, abs=1e-9)
    assert compared.free_energy(n / 2)[0] > 0 > compared.free_energy(2 * n)[0]
    rng = np.random.default_rng(0)
    drawn = zip(-1e-3 + 1e-5 * rng.standard_normal(2000), 0.25 + 0.01 * rng.standard_normal(2000), strict=True)
    assert error == pytest.approx(np.std([PhaseComparison(a, 0.0, b, 0.0).critical_n[0] for a, b in drawn]), rel=0.1)


@pytest.mark.parametrize(("loss", "llc"), [(-0.1, -1.0), (0.1, 1.0), (-5.0, 1.0), (0.0, 1.0), (-0.1, 0.0)])
def test_where_one_phase_is_always_preferred_there_is_no_critical_n(loss, llc):
    assert np.isnan(PhaseComparison(loss, 0.0, llc, 0.0).critical_n).all()


def two_phases(**more):
    rng = np.random.default_rng(0)
    late = np.arange(40) >= 20
    loss = np.where(late, 1.0, 1.5) + 0.01 * rng.standard_normal(40)
    return run(np.arange(40) * 10, np.where(late, 30.0, 20.0) + 0.5 * rng.standard_normal(40), 0.5, loss=loss, **more)


def test_plateaus_are_compared_by_their_means_and_the_errors_of_these():
    compared = compare_phases(two_phases(failed={3: "NaN"}), (0, 190), (200, 390))
    assert compared.delta_llc == pytest.approx(10, abs=4 * compared.delta_llc_std_error)
    assert compared.delta_llc_std_error == pytest.approx(0.5 * np.sqrt(1 / 19 + 1 / 20), rel=0.2)
    assert compared.delta_loss == pytest.approx(-0.5, abs=4 * compared.delta_loss_std_error)
    assert compared.delta_loss_std_error == pytest.approx(0.01 * np.sqrt(2 / 20), rel=0.5)
    value, error = compared.free_energy(100)
    assert value == pytest.approx(100 * compared.delta_loss + compared.delta_llc * np.log(100))
    assert error == pytest.approx(
        np.hypot(100 * compared.delta_loss_std_error, np.log(100) * compared.delta_llc_std_error)
    )


def test_checkpoints_are_compared_as_they_are():
    dataset = two_phases()
    compared = compare_phases(dataset, 0, 390)
    assert compared.delta_llc == float(dataset["llc"][-1] - dataset["llc"][0])
    assert compared.delta_llc_std_error == pytest.approx(0.5 * np.sqrt(2))
    assert compared.delta_loss_std_error == 0


def test_misuse_is_told():
    dataset = two_phases(failed={39: "NaN"})
    with pytest.raises(ValueError, match="no finite llc from step 390 to step 390"):
        compare_phases(dataset, 0, 390)
    with pytest.raises(ValueError, match="as the behavioural loss is"):
        compare_phases(dataset.assign(loss=0 * dataset["loss"]), 0, 380)
    with pytest.raises(ValueError, match="nll not in the dataset"):
        compare_phases(dataset, 0, 380, loss="nll")
