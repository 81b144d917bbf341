"""What λ̂ ought to be on every problem, by closed form, quadrature or NUTS on the full data: references.json.

`python benchmarks/reference.py` computes what is missing, cheapest first, and keeps each result as it comes, so that
a stopped run goes on. With a larger `--seconds`, what had been stopped by a smaller one is computed again.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from problems import Problem, key_of, problems
from results import as_lines, write

import sltjax
from sltjax.truth import Truth
from sltjax.types import Batch

FILE = Path(__file__).parent / "references.json"
CHAINS = 8
ERROR = 0.007  # of λ̂
FIRST_LOOK = 100  # draws a chain, below which R-hat and errors say little; then at every doubling
# Problems with an exact answer on which NUTS is run as well.
CHECKS = (
    "quadratic d=10, 3 flat",
    "quadratic d=10, precisions 1 to 1e4",
    "linear regression d=30, noise 1",
    "linear regression d=20, noise 1, flat 5",
    "logistic regression d=1",
    "crossing k=[1, 1]",
    "crossing k=[1, 2] h=[0, 1]",
    "crossing k=[1, 1, 1]",
    "quasi-homogeneous p=[2, 4, 6, 8]",
    "radial d=10 k=2",
    "tanh H=1",
    "tanh H=3",
)


@dataclass(frozen=True)
class Reference:
    """λ̂ of the posterior at hand, and how it was found.

    Attributes:
        value: λ̂.
        std_error: its Monte-Carlo error; 0 where it is exact.
        rhat: of the loss differences.
        draws: over all chains.
        divergent: share of draws whose trajectory diverged.
        gradients: of the loss on the full data, over all chains, warm-up included.
        seconds: wall time, compilation included.
    """

    value: float
    std_error: float = 0.0
    rhat: float | None = None
    draws: int = 0
    divergent: float = 0.0
    gradients: int = 0
    seconds: float = 0.0


def nuts_reference(
    truth: Truth,
    nbeta: float,
    gamma: float,
    data: Batch,
    *,
    key: jax.Array,
    acceptance: float,
    warm_up: int,
    block: int,
    seconds: float,
) -> Reference:
    """Draw by NUTS with window adaptation from exp(−nβ(L(w) − L(w*)) − γ/2 |w − w*|²) until λ̂ is known to 0.7 %.

    Args:
        truth: loss and anchor w*.
        nbeta: nβ.
        gamma: γ.
        data: all of them, or rows with the same mean loss.
        key: consumed.
        acceptance: rate to which the step size is adapted. In the corners of a normal crossing 0.8 is too bold:
            trajectories diverge, and λ̂ comes out some percent low.
        warm_up: steps of adaptation.
        block: draws a chain between two looks at the clock.
        seconds: of drawing, after which no block is begun; warm-up and compilation are not counted.
    """
    began = time.perf_counter()
    anchor, unravel = ravel_pytree(truth.params)
    anchor_losses = jax.jit(truth.loss)(truth.params, data)

    def delta_loss(w: jax.Array) -> jax.Array:
        return jnp.mean(truth.loss(unravel(w), data) - anchor_losses)

    def log_density(w: jax.Array) -> jax.Array:
        return -nbeta * delta_loss(w) - gamma / 2 * jnp.sum((w - anchor) ** 2)

    warm_key, draw_key = jax.random.split(key)
    states, parameters, gradients = adapt(warm_key, log_density, anchor, acceptance, warm_up)
    gradients = int(np.sum(jax.device_get(gradients), dtype=np.int64))

    @jax.jit
    def advance(key: jax.Array, states: Any) -> tuple[Any, tuple[jax.Array, jax.Array, jax.Array]]:
        def chain(key: jax.Array, state: Any, parameters: Any) -> Any:
            step = blackjax.nuts(log_density, **parameters).step

            def draw(state: Any, key: jax.Array) -> Any:
                state, info = step(key, state)
                return state, (delta_loss(state.position), info.num_integration_steps, info.is_divergent)

            return jax.lax.scan(draw, state, jax.random.split(key, block))

        return jax.vmap(chain)(jax.random.split(key, CHAINS), states, parameters)

    draws = np.zeros((CHAINS, 0))
    divergent, next_look, compiled = 0, FIRST_LOOK, None
    while True:
        states, recorded = advance(jax.random.fold_in(draw_key, draws.shape[1]), states)
        fresh, steps, diverged = jax.device_get(recorded)
        draws = np.concatenate([draws, fresh], axis=1)
        gradients += int(np.sum(steps, dtype=np.int64))
        divergent += int(np.sum(diverged))
        compiled = compiled or time.perf_counter()
        late = time.perf_counter() - compiled > seconds
        if draws.shape[1] < next_look and not late:
            continue
        next_look *= 2  # few lengths, so that the estimator is not compiled for every problem anew
        estimate = sltjax.llc({"delta_loss": draws}, nbeta)
        if late or estimate.std_error <= ERROR * abs(estimate.value):
            return Reference(
                estimate.value,
                estimate.std_error,
                rhat=float(estimate.health.rhat),
                draws=draws.size,
                divergent=divergent / draws.size,
                gradients=gradients,
                seconds=time.perf_counter() - began,
            )


def adapt(
    key: jax.Array, log_density: Callable[[jax.Array], jax.Array], anchor: jax.Array, acceptance: float, num_steps: int
) -> tuple[Any, Any, jax.Array]:
    """States, step sizes with diagonal mass matrices, and gradients spent, of chains that start at the anchor."""

    def count(state: Any, info: Any, adaptation: Any) -> jax.Array:
        return info.num_integration_steps

    warm_up = blackjax.window_adaptation(
        blackjax.nuts,
        log_density,
        is_mass_matrix_diagonal=True,
        target_acceptance_rate=acceptance,
        adaptation_info_fn=count,
    )

    @jax.jit
    def run(keys: jax.Array) -> tuple[Any, Any, jax.Array]:
        (states, parameters), steps = jax.vmap(lambda key: warm_up.run(key, anchor, num_steps))(keys)
        return states, parameters, steps

    return run(jax.random.split(key, CHAINS))


def nuts(problem: Problem, built: Truth, seconds: float) -> Reference:
    size = ravel_pytree(built.params)[0].size
    warm_up, block = (1000, 100) if size < 100 else (500, 50) if size < 2000 else (250, 10)
    key = jax.random.fold_in(key_of(problem.name), 1)
    return nuts_reference(
        built,
        problem.temperature(built),
        problem.gamma,
        problem.compressed(built),
        key=key,
        acceptance=0.99 if size < 30 else 0.8,
        warm_up=warm_up,
        block=block,
        seconds=seconds,
    )


def record(problem: Problem, built: Truth, reference: Reference, kind: str) -> dict[str, Any]:
    numbers = {
        name: float(f"{x:.6g}") if isinstance(x, float) else x for name, x in dataclasses.asdict(reference).items()
    }
    return {"kind": kind, "nbeta": float(f"{problem.temperature(built):.8g}"), "gamma": problem.gamma, **numbers}


def unfinished(entry: dict[str, Any], seconds: float) -> bool:
    """Whether it was stopped by a shorter limit on time than this one, before it was known well enough."""
    return entry["std_error"] > ERROR * abs(entry["value"]) and entry["seconds"] < seconds


def load() -> dict[str, dict[str, Any]]:
    """name -> what was found, {} before the first; a check by NUTS is under the name with " (NUTS)" behind."""
    return json.loads(FILE.read_text())["references"] if FILE.exists() else {}


def save(found: dict[str, dict[str, Any]]) -> None:
    packages = {name: version(name) for name in ("jax", "blackjax", "numpy")}
    machine = f"{os.cpu_count()} × {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    head = json.dumps({"versions": packages, "machine": machine}, ensure_ascii=False)[1:-1]
    write(FILE, "{" + head + ',\n"references": ' + as_lines(found) + "}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="families whose name begins so")
    parser.add_argument("--seconds", type=float, default=120, help="of drawing by NUTS a problem")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no problem is begun")
    options = parser.parse_args()
    stop = time.perf_counter() + 60 * options.minutes
    wanted = [problem for problem in problems() if problem.family.startswith(options.only) and problem.reference]
    exact = [(problem, problem.name, "exact") for problem in wanted if problem.exact]
    checks = [(problem, f"{problem.name} (NUTS)", "nuts") for problem in wanted if problem.name in CHECKS]
    sampled = [(problem, problem.name, "nuts") for problem in wanted if not problem.exact]
    for problem, name, kind in exact + checks + sampled:
        found = load()
        if (name in found and not unfinished(found[name], options.seconds)) or time.perf_counter() > stop:
            continue
        built = problem.make()
        nbeta = problem.temperature(built)
        if kind == "exact":
            reference = Reference(problem.exact(built, nbeta, problem.gamma))
        else:
            reference = nuts(problem, built, options.seconds)
        found = load()
        found[name] = record(problem, built, reference, kind)
        save(found)
        print(f"{name}: λ {float(built.llc):g}, {found[name]}", flush=True)


if __name__ == "__main__":
    main()
