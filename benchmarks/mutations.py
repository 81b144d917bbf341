"""Whether the tests would notice: each mutation is made in a copy of the tree, and must make a test fail.

`python benchmarks/mutations.py` prints a line a mutation, and exits 1 if one of them survives.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutation:
    """One wrong turn.

    Attributes:
        what: in words.
        file: in sltjax/.
        right: text that is there once.
        wrong: what takes its place.
        tests: pytest arguments of the tests that ought to notice.
    """

    what: str
    file: str
    right: str
    wrong: str
    tests: str


MUTATIONS = [
    Mutation(
        "√ε dropped from the noise of SGLD",
        "samplers/sgld.py",
        "jnp.sqrt(self.step_size * s) * z",
        "self.step_size * s * z",
        "tests/test_samplers.py -k sgld",
    ),
    Mutation(
        "half the noise of a Leimkuhler–Matthews step lost",
        "samplers/leimkuhler_matthews.py",
        "return w - self.step_size * s / 2 * g + z",
        "return w - self.step_size * s / 2 * g",
        "tests/test_samplers.py -k leimkuhler",
    ),
    Mutation(
        "momentum refreshed with the wrong variance",
        "samplers/underdamped.py",
        "jnp.sqrt(1 - self.persistence**2) * z",
        "jnp.sqrt(1 - self.persistence) * z",
        "tests/test_samplers.py -k underdamped",
    ),
    Mutation(
        "every proposal accepted",
        "samplers/ghmc.py",
        "accepted = jnp.log(jnp.abs(level)) < log_ratio",
        "accepted = jnp.isfinite(value)",
        "tests/test_samplers.py -k ghmc",
    ),
    Mutation(
        "momentum kept on rejection",
        "samplers/ghmc.py",
        "reversed_momentum = jax.tree.map(jnp.negative, momentum)",
        "reversed_momentum = momentum",
        "tests/test_samplers.py -k ghmc",
    ),
    Mutation(
        "β of a natural logarithm taken to base 10",
        "posterior.py",
        "num_examples / math.log(num_examples)",
        "num_examples / math.log10(num_examples)",
        "tests/test_posterior.py tests/test_estimate.py",
    ),
    Mutation(
        "λ̂ without nβ",
        "estimators/learning_coefficient.py",
        "np.float64(nbeta) * ",
        "1.0 * ",
        "tests/test_estimators.py",
    ),
    Mutation(
        "γ pulls twice as hard",
        "posterior.py",
        "self.gamma / 2 * squared_distance",
        "self.gamma * squared_distance",
        "tests/test_posterior.py",
    ),
    Mutation(
        "noise key reused at every step",
        "sampling.py",
        "sampler.step(jax.random.fold_in(key, time), state, potential)",
        "sampler.step(key, state, potential)",
        "tests/test_samplers.py -k sgld",
    ),
    Mutation(
        "one noise for all chains",
        "sampling.py",
        "fold(fold(key, step), chain)",
        "fold(key, step)",
        "tests/test_samplers.py -k keys",
    ),
    Mutation(
        "burn-in kept",
        "sampling.py",
        "kept = slice(schedule.burn_in_draws, total)",
        "kept = slice(0, schedule.num_draws)",
        "tests/test_sampling.py",
    ),
    Mutation(
        "a preconditioner that goes on learning while drawing",
        "sampling.py",
        "set_learning(states, time < burn_in_steps)",
        "set_learning(states, time < 10**9)",
        "tests/test_preconditioners.py",
    ),
    Mutation(
        "the control variate left out of the recorded loss",
        "posterior.py",
        "delta_loss -= optax.tree.vdot(terms.correction, offset)",
        "delta_loss -= 0.0",
        "tests/test_posterior.py",
    ),
    Mutation(
        "chains that share batches taken for independent",
        "moments.py",
        "jnp.maximum(_variance_of_mean(z), _variance_of_mean(jnp.mean(z, axis=0, keepdims=True)))",
        "_variance_of_mean(z)",
        "tests/test_moments.py",
    ),
    Mutation(
        "a chain that died counted with what it had",
        "estimators/average.py",
        "finite = first_failure(x) < 0",
        "finite = np.isfinite(x).any(axis=1)",
        "tests/test_estimators.py",
    ),
    Mutation(
        "the heat of batches read off at half the step",
        "heat.py",
        "return sampler.step_size**2 * (1 + sampler.persistence)",
        "return sampler.step_size**2 / 4 * (1 + sampler.persistence)",
        "tests/test_heat.py",
    ),
    Mutation(
        "samplers alike to jax share a program",
        "sampling.py",
        "return str(jax.tree.structure(sampler))",
        'return "sampler"',
        "tests/test_samplers.py -k taken_for_one_another",
    ),
    Mutation(
        "the heat of batches ignored",
        "calibration.py",
        "ratio = np.clip(allowed / np.maximum(share, 1e-30), SLOWEST, FASTEST)",
        "ratio = np.full(share.shape, FASTEST)",
        "tests/test_calibration.py -k batched",
    ),
    Mutation(
        "the heat of batches left in",
        "estimators/learning_coefficient.py",
        "value=float(estimate.value - heat)",
        "value=float(estimate.value)",
        "tests/test_heat.py",
    ),
    Mutation(
        "the doubt about the heat left out of the error",
        "estimators/learning_coefficient.py",
        "[estimate.std_error, scatter, HEAT_DOUBT * heat]",
        "[estimate.std_error]",
        "tests/test_heat.py",
    ),
    Mutation(
        "a unit of other weights taken for this one",
        "sweeps/blocks.py",
        "if stored != weights:",
        "if False:",
        "tests/test_sweeps.py -k changed_weights",
    ),
]


def survives(mutation: Mutation, tree: Path) -> bool:
    """Whether the tests pass with the mutation in place; the tree is left as it was."""
    file = tree / "sltjax" / mutation.file
    text = file.read_text()
    if text.count(mutation.right) != 1:
        raise SystemExit(f"{mutation.file} holds {mutation.right!r} {text.count(mutation.right)} times, expected once")
    file.write_text(text.replace(mutation.right, mutation.wrong))
    try:
        options = ["-x", "-n", "0", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, *mutation.tests.split()]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    finally:
        file.write_text(text)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the tests could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("sltjax", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / file, tree / file)
        survivors = []
        for mutation in MUTATIONS:
            lives = survives(mutation, tree)
            print(f"{'SURVIVES' if lives else 'caught  '}  {mutation.what}", flush=True)
            survivors += [mutation.what] * lives
    sys.exit(f"{len(survivors)} of {len(MUTATIONS)} mutations survive" if survivors else 0)


if __name__ == "__main__":
    main()
