"""Runs with a planted development, in the shape that a sweep stores."""

import json
from itertools import pairwise

import numpy as np
import xarray as xr

STAIRCASE = (18.0, 22.0, 25.5, 29.0, 32.0)


def even(n: int = 80, last: int = 4000) -> np.ndarray:
    return np.linspace(0, last, n).round().astype(int)


def logarithmic(n: int = 80, last: int = 100_000) -> np.ndarray:
    """0 and n − 1 more steps, evenly spaced in log(step + 1) as far as whole numbers allow."""
    for points in range(n, 10 * n):
        steps = np.unique(np.expm1(np.linspace(0, np.log1p(last), points)).round().astype(int))
        if len(steps) >= n:
            return np.delete(steps, np.arange(1, 1 + len(steps) - n))
    raise ValueError(f"no {n} different whole steps up to {last}")


def staircase(n: int, rng: np.random.Generator, wrinkle: float = 0.0) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Return λ at n checkpoints and, for each rise, the checkpoint indices of its start and stop.

    Ramps last 1 to 6 checkpoints at random places; `wrinkle` is the size, as a share of λ, up to which it overshoots
    or sags after a rise.
    """
    u, width = np.arange(n, dtype=float), n / len(STAIRCASE)
    curve, rises = np.full(n, STAIRCASE[0]), []
    for k, (low, high) in enumerate(pairwise(STAIRCASE), start=1):
        start = k * width + rng.uniform(-0.1, 0.1) * width
        stop = start + rng.uniform(1, 6)
        curve += (high - low) * np.clip((u - start) / (stop - start), 0, 1)
        sway = wrinkle * high * rng.uniform(-1, 1) * np.exp(-(u - stop) / (0.25 * width))
        curve += np.where(u >= stop, sway, 0)
        rises.append((start, stop))
    return curve, rises


def run(
    step: np.ndarray,
    llc: np.ndarray,
    std_error: np.ndarray | float,
    *,
    loss: np.ndarray | None = None,
    exact: np.ndarray | None = None,
    failed: dict[int, str] | None = None,
    warned: dict[int, str] | None = None,
    rng: np.random.Generator | None = None,
) -> xr.Dataset:
    """A stored run: λ̂ as given; `failed` and `warned` map a checkpoint's index to its reason or verdict."""
    rng = np.random.default_rng(0) if rng is None else rng
    n, chains, draws = len(step), 4, 50
    failed, warned = failed or {}, warned or {}
    gone = np.isin(np.arange(n), list(failed))
    llc, std_error = np.where(gone, np.nan, llc), np.where(gone, np.nan, std_error)
    delta_loss = 0.1 + 0.02 * rng.standard_normal((n, chains, draws))
    along = {
        "llc": llc,
        "llc_std_error": std_error,
        "rhat": np.where(gone, np.nan, 1.01),
        "ess": np.where(gone, np.nan, 250.0),
        "drift": np.where(gone, np.nan, 0.3),
        "ok": ~gone & ~np.isin(np.arange(n), list(warned)),
        "verdict": np.array([(failed | warned).get(k, "") for k in range(n)], dtype=object).astype(str),
        "status": np.where(gone, "failed", "done"),
        "loss": np.linspace(3, 1, n) if loss is None else loss,
    }
    variables = {name: ("checkpoint", values) for name, values in along.items()}
    variables["llc_per_chain"] = (
        ("checkpoint", "chain"),
        llc[:, None] + 0.3 * rng.standard_normal((n, chains)),
    )
    for name in ("delta_loss", "distance"):
        variables[name] = (("checkpoint", "chain", "draw"), np.where(gone[:, None, None], np.nan, delta_loss))
    values = np.linspace(0, 1, n)[:, None] * np.array([8.0, 4.0, 2.0, 1.0])
    variables["singular_values"] = (("checkpoint", "singular_value"), values, {"role": "metric"})
    if exact is not None:
        variables["exact_llc"] = ("checkpoint", exact, {"role": "metric"})
    return xr.Dataset(
        variables,
        coords={"step": ("checkpoint", step), "chain": np.arange(chains), "draw": np.arange(draws)},
        attrs={
            "definition": json.dumps(
                {
                    "loss": {"name": "behavioral loss of apply", "fingerprint": "4fb3b76b8b318c47"},
                    "data": {"num_examples": 20000, "digest": "290b14eb60228a03" * 4},
                    "nbeta": 2019.0,
                    "gamma": 1.0,
                }
            ),
            "numerics": json.dumps(
                {
                    "sampler": {"name": "LeimkuhlerMatthews", "step_size": 0.1},
                    "burn_in": "calibrated",
                    "num_draws": 50,
                }
            ),
            "key": json.dumps([0, 2]),
            "versions": json.dumps({"jax": "0.10.0", "python": "3.12"}),
            "sltjax_version": "0.1.0",
            "title": "Deep linear network 10-4-10",
            "source": "checkpoints/",
            "nbeta": 2019.0,
            "gamma": 1.0,
            "skipped": json.dumps([["step_7", "no number in its name"]]),
        },
    )


def noisy_staircase(n: int, **keywords) -> xr.Dataset:
    """A staircase run with std errors of 0.3 and the exact levels; keywords as `run` takes them."""
    rng = np.random.default_rng(0)
    llc, rises = staircase(n, rng)
    exact = np.array(STAIRCASE)[np.sum([np.arange(n) >= stop for _, stop in rises], axis=0)]
    return run(even(n), llc + 0.3 * rng.standard_normal(n), 0.3, exact=exact, **keywords)
