"""Numerics chosen for the posterior at hand; the definition (loss, data, nβ, γ) is never touched.

Where the full data can be afforded at every step, chains are GHMC: exact at any step size, and self-adjusting in
burn-in. Batches gain little against it at nβ = n/log n: their noise heats a chain in proportion to how far it
moves in a step, so that a batch k times smaller needs steps that carry k times less far. Where the full data
cannot be afforded, chains are underdamped Langevin, as fast as batch noise allows.

Lengths come from a pilot: how many steps one effective draw takes, and how much a draw scatters.
"""

import math
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Float, Int

from sltjax import observables as observe
from sltjax.curvature import STEP_TIMES_CURVATURE, curvature_a_step_away, curvature_met
from sltjax.devices import fetch
from sltjax.diagnostics import MAX_RHAT
from sltjax.estimators import HEAT_DOUBT, llc
from sltjax.heat import gradient_noise, heat_of_noise, heat_share, sample_judged
from sltjax.posterior import LocalPosterior
from sltjax.samplers import GHMC, Newton, UnderdampedLangevin
from sltjax.sampling import alone, condition_all
from sltjax.schedule import Schedule
from sltjax.threefry import as_threefry
from sltjax.types import Batch, Estimate, RngKey, Sampler, Trace
from sltjax.validation import as_float32, count_examples, validate

ERROR = 0.01
AFFORDABLE = 5e9  # FLOPs of one chain's gradient over the full data
ALL_AFFORDABLE = 4e13  # FLOPs of a checkpoint
BATCH_SIZE = 1024
MAX_CHAINS = 16
CHEAP = 4e7  # FLOPs of all chains' gradients at which a step still costs what its overhead does
THIN = 4
PILOT_BURN_IN, PILOT_DRAWS = 1000, 250
MIN_DRAWS, MAX_DRAWS = 500, 20_000
MAX_THINNING = 16
ESS_A_CHAIN = 100.0  # independent draws between which split R-hat comes down to 1.01
MARGIN = 1.5  # a pilot knows its own autocorrelation to about a third
FASTEST = 19.0  # (1 + a)/(1 − a) at persistence a = 0.9: beyond, stiff directions forget their energy too slowly
BOLDEST = 1.0  # h²·κ at the largest curvature that pilots meet; 4 is unstable, and chains that are longer meet more
SLOWEST = 1e-3
HEAT = 2.0  # times the error asked for: what batch noise may add to λ̂, of which `HEAT_DOUBT` goes into the error
TOO_HOT, TOO_BOLD = 1.5, 1.25  # times what is allowed, beyond which a pilot is run again with slower steps
WORSE = 4.0  # what a chain that left the finite numbers counts as, times what is allowed


@dataclass(frozen=True)
class Asked:
    """What a user has settled of the numerics; None leaves it to be chosen, as `calibrate` says."""

    sampler: Sampler | None = None
    num_chains: int | None = None
    num_draws: int | None = None
    burn_in: int | None = None
    thin: int | None = None
    batch_size: int | None = None
    error: float = ERROR
    max_chain_steps: int | None = None
    max_seconds: float | None = None

    def validate(self, posterior: LocalPosterior, data: Batch) -> None:
        """Refuse what cannot work, before anything is spent.

        Raises:
            ValueError, TypeError: the message says what would.
        """
        for name in ("error", "max_chain_steps", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        schedule = Schedule(
            num_chains=4 if self.num_chains is None else self.num_chains,
            num_draws=MAX_DRAWS if self.num_draws is None else self.num_draws,
            burn_in=0 if self.burn_in is None else self.burn_in,
            thin=THIN if self.thin is None else self.thin,
            batch_size=1 if self.batch_size is None else self.batch_size,
        )
        if self.batch_size is None and self.sampler is not None and self.sampler.needs_full_data:
            schedule = replace(schedule, batch_size=count_examples(data))
        validate(posterior, self.sampler, data, schedule)


@struct.dataclass
class Pace:
    """How much slower chains must go than a look near the anchor suggests; 1 and 1 where it tells all.

    Attributes:
        noise: how many times as much batch noise they meet on their way.
        curvature: how many times as much curvature.
    """

    noise: float = struct.field(pytree_node=False, default=1.0)
    curvature: float = struct.field(pytree_node=False, default=1.0)


@struct.dataclass
class Calibration:
    """Numerics, and what they were chosen from.

    Attributes:
        sampler: with its hyperparameters set; those that differ between checkpoints are [checkpoint].
        schedule: lengths and sizes.
        error: the share of λ̂ that was asked for.
        pilot: what the pilot chains estimated, heat included, one a checkpoint; empty if nothing was left to choose.
        pilot_draws: nβ·ΔL along the pilot's draws, [checkpoint, chain, draw].
        pilot_thin: steps between them.
        acceptance: the pilot's mean acceptance, [checkpoint]; 1 where nothing is rejected.
        heat: the share of λ̂ that batch noise added where the pilot ended, [checkpoint]; 0 on full data.
        pilot_steps: chain-steps spent.
        seconds: what sampling these checkpoints will take, by the speed of the pilot; NaN if there was none.
        wanted_draws: draws a chain that the error asked for and an R-hat near 1 would take, whatever the budget.
        pace: how much slower chains go than a look near the anchor suggests, by what the pilot met on its way.
        steps: training steps of the checkpoints that they were chosen on; those that fill up devices are there twice.
    """

    sampler: Sampler
    schedule: Schedule
    error: float = struct.field(pytree_node=False, default=ERROR)
    pilot: tuple[Estimate, ...] = struct.field(pytree_node=False, default=())
    pilot_draws: Float[np.ndarray, "checkpoint chain draw"] | None = None
    pilot_thin: int = struct.field(pytree_node=False, default=THIN)
    acceptance: Float[np.ndarray, " checkpoint"] | None = None
    heat: Float[np.ndarray, " checkpoint"] | None = None
    pilot_steps: int = struct.field(pytree_node=False, default=0)
    seconds: float = struct.field(pytree_node=False, default=math.nan)
    wanted_draws: int = struct.field(pytree_node=False, default=0)
    pace: Pace = struct.field(pytree_node=False, default=Pace())
    steps: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def settings(self) -> dict[str, Any]:
        """Sampler and schedule by the names that `estimate_llc`, `sweep`, `Monitor` and `llc_fn` take them by."""
        schedule = {field.name: getattr(self.schedule, field.name) for field in fields(self.schedule)}
        return {"sampler": self.sampler, **schedule}

    @property
    def chain_steps(self) -> int:
        """The cost of sampling one checkpoint: steps times chains."""
        return self.schedule.num_steps * self.schedule.num_chains

    def expected_error(self, checkpoint: int = 0) -> float:
        """The standard error as a share of λ̂ that the pilot foresees for this schedule; NaN if there was none."""
        if self.pilot_draws is None or self.heat is None:
            return math.nan
        seen = self.pilot[checkpoint]
        shorter = self.pilot_draws[checkpoint].size * self.pilot_thin / self.drawing_steps
        drawn = abs(seen.std_error / seen.value) * math.sqrt(shorter)
        return math.hypot(drawn, HEAT_DOUBT * self.heat[checkpoint])

    @property
    def drawing_steps(self) -> int:
        """Chain-steps after burn-in."""
        return self.schedule.num_draws * self.schedule.thin * self.schedule.num_chains


def calibrate(
    key: RngKey,
    posterior: LocalPosterior,
    data: Batch,
    *,
    sampler: Sampler | None = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    batch_size: int | None = None,
    error: float = ERROR,
    max_chain_steps: int | None = None,
    max_seconds: float | None = None,
) -> Calibration:
    """Choose the numerics that are left at None.

    Args:
        key: consumed.
        posterior: loss, anchor, nβ and γ.
        data: pytree of arrays [n, ...].
        sampler: None for `GHMC` where all the data can be afforded at every step, else `UnderdampedLangevin`.
        num_chains: None for 4 to 16, more where a gradient is cheap.
        num_draws: recorded draws a chain; None for as many as `error` takes by the pilot's measure.
        burn_in: steps before the first draw; None for a quarter of the steps that follow, at least the pilot's.
        thin: steps a draw; None for 4, or more where neighbouring draws are nearly the same.
        batch_size: None for all the data where its gradient takes under 5 GFLOP a chain, else 1024.
        error: the share of λ̂ to which the standard error is to come. The heat of batches, which is measured and
            taken off, is held to twice as much.
        max_chain_steps: steps times chains that pilot and sampling may take together; None for 40 TFLOP.
        max_seconds: the same in seconds, by the pilot's speed on this machine, compilation apart.

    Returns:
        Sampler and schedule, and what the pilot saw; `chain_steps` is what sampling will cost.

    Raises:
        ValueError, TypeError: an argument that cannot work, or no step size at which the potential is finite.
    """
    asked = Asked(sampler, num_chains, num_draws, burn_in, thin, batch_size, error, max_chain_steps, max_seconds)
    size, cost = settle(asked, posterior, data)
    posteriors = condition_all(posterior.at(alone(as_float32(posterior.anchor))), data, size)
    return choose(key, posteriors, np.zeros(1, int), data, asked, size, cost)


def settle(asked: Asked, posterior: LocalPosterior, data: Batch) -> tuple[int, float]:
    """Refuse what cannot work; the batch size, and the FLOPs of the gradient at one example, which `choose` takes."""
    asked.validate(posterior, data)
    cost = gradient_flops(posterior, data)
    return choose_batch_size(asked, cost, count_examples(data)), cost


def gradient_flops(posterior: LocalPosterior, data: Batch) -> float:
    """FLOPs of the gradient at one example, by XLA's count: thrice those of the loss."""
    few = jax.tree.map(lambda x: jax.ShapeDtypeStruct((8, *x.shape[1:]), x.dtype), data)
    anchor = jax.tree.map(lambda w: jax.ShapeDtypeStruct(np.shape(w), np.float32), posterior.anchor)
    lowered = jax.jit(posterior.losses_at).lower(anchor, few)
    return 3 * max((lowered.cost_analysis() or {}).get("flops", 0.0), 1.0) / 8


def choose_batch_size(asked: Asked, cost: float, num_examples: int) -> int:
    """All the data, or a batch: fixed before conditioning, since the two need to know other things at w*."""
    if asked.batch_size is not None:
        return asked.batch_size
    full_data = cost * num_examples <= AFFORDABLE if asked.sampler is None else asked.sampler.needs_full_data
    return num_examples if full_data else min(BATCH_SIZE, num_examples)


def choose(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    data: Batch,
    asked: Asked,
    batch_size: int,
    cost: float,
    mesh: Mesh | None = None,
) -> Calibration:
    """What `calibrate` does, for a stack of checkpoints that are to share one schedule; nothing is validated.

    Args:
        key: consumed.
        posteriors: as `condition_all` makes them, all leaves [checkpoint, ...].
        steps: training step of each checkpoint.
        data: pytree of arrays [n, ...].
        asked: what is settled.
        batch_size: as `choose_batch_size` says.
        cost: FLOPs of the gradient at one example.
        mesh: the devices that posteriors and data lie on, if there are several.
    """
    rule_key, pilot_key = jax.random.split(as_threefry(key))
    num_chains = choose_num_chains(asked, cost * batch_size)
    affordable = int(ALL_AFFORDABLE / (cost * batch_size))
    most = asked.max_chain_steps or max(affordable, 100 * num_chains)
    pilot = _pilot_schedule(asked, num_chains, batch_size, most // num_chains)
    rule: Fixed | ByNoise
    if asked.sampler is None:
        rule = default_rule(rule_key, posteriors, steps, data, batch_size, mesh)
    else:
        rule = Fixed(asked.sampler)
    where = tuple(int(step) for step in steps)
    allowed, pace = HEAT * asked.error, Pace()
    sampler = rule.make(allowed, pace)
    if asked.num_draws is not None and asked.thin is not None and isinstance(rule, Fixed):
        return Calibration(sampler, _settled(asked, pilot), asked.error, steps=where)
    spent, clock = 0, _Clock()
    while True:
        trace = sample_judged(
            pilot_key,
            posteriors,
            steps,
            sampler,
            data,
            pilot,
            observables={"delta_loss": observe.delta_loss, "acceptance": observe.acceptance},
            on_chunk=clock.tick,
            mesh=mesh,
            looks_at_curvature=isinstance(rule, ByNoise),
        )
        spent += pilot.num_steps * num_chains
        heat = heat_share(trace, posteriors)
        is_last = spent > most / 2 - pilot.num_steps * num_chains
        if is_last or isinstance(rule, Fixed) or (slower := rule.slower(pace, heat / allowed, trace)) == pace:
            break
        pace = slower
        sampler = rule.make(allowed, pace)
    nbeta = fetch(posteriors.nbeta)
    seen = tuple(llc({"delta_loss": trace["delta_loss"][c]}, float(nbeta[c])) for c in range(len(steps)))
    if asked.max_seconds is not None:
        most = min(most, int(asked.max_seconds / clock.seconds_a_step(len(steps))))
    schedule, wanted = _lengths(asked, pilot, seen, heat, (most - spent) // num_chains)
    return Calibration(
        sampler,
        schedule,
        asked.error,
        seen,
        nbeta[:, None, None] * trace["delta_loss"],
        pilot.thin,
        trace["acceptance"].mean(axis=(1, 2)),
        heat,
        spent,
        clock.seconds_a_step(1) * schedule.num_steps * num_chains,
        wanted,
        pace,
        where,
    )


def _settled(asked: Asked, pilot: Schedule) -> Schedule:
    """The lengths that a user has settled; burn-in is a quarter of them, unless that is settled too."""
    num_draws, thin = asked.num_draws or pilot.num_draws, asked.thin or pilot.thin
    burn_in = num_draws * thin // 4 if asked.burn_in is None else asked.burn_in
    return replace(pilot, num_draws=num_draws, burn_in=burn_in, thin=thin)


@dataclass(frozen=True)
class Fixed:
    """The rule for a sampler that needs nothing chosen beside what it learns by itself.

    Attributes:
        sampler: it.
    """

    sampler: Sampler

    def make(self, allowed: float, pace: Pace) -> Sampler:
        """The sampler."""
        return self.sampler


@dataclass(frozen=True)
class ByNoise:
    """The rule by which steps on batches follow from curvature and batch noise near the anchor.

    Attributes:
        square: h² there, [checkpoint]; NaN where no step size is stable.
        share: of λ̂ that batch noise would add at D = h², [checkpoint].
    """

    square: Float[np.ndarray, " checkpoint"]
    share: Float[np.ndarray, " checkpoint"]

    def make(self, allowed: float, pace: Pace) -> Sampler:
        """The sampler at which batch noise adds at most the share `allowed` to λ̂."""
        square, share = self.square / pace.curvature, self.share * pace.noise / pace.curvature
        ratio = np.clip(allowed / np.maximum(share, 1e-30), SLOWEST, FASTEST)
        ratio = np.where(np.isfinite(share), ratio, 1.0)
        persistence = np.maximum((ratio - 1) / (ratio + 1), 0.0)
        return UnderdampedLangevin(np.sqrt(square * np.minimum(ratio, 1.0)), persistence)

    def slower(self, pace: Pace, heat: Float[np.ndarray, " checkpoint"], trace: Trace) -> Pace:
        """The pace that a pilot asks for; the same, if it went well.

        Args:
            pace: at which it went.
            heat: what batch noise added at each checkpoint, in units of what is allowed.
            trace: of the pilot, with "curvature" [checkpoint].
        """
        stable = np.isfinite(self.square)  # elsewhere chains are lost, which is no reason to slow down here
        bold = self.square / pace.curvature * np.nan_to_num(trace["curvature"], nan=np.inf) / BOLDEST
        hottest, boldest = (float(np.clip(np.max(x, initial=0.0, where=stable), 0.0, WORSE)) for x in (heat, bold))
        return Pace(
            pace.noise * (hottest if hottest > TOO_HOT else 1.0),
            pace.curvature * (boldest if boldest > TOO_BOLD else 1.0),
        )


def default_rule(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    data: Batch,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Fixed | ByNoise:
    """Measure the posteriors, and give the rule for the sampler used where none is given.

    Full data: `GHMC`, which starts from the curvature one step away from the anchor and adjusts itself. Batches:
    `UnderdampedLangevin` with h²·κ = 0.5 for the largest curvature κ that short chains meet, and a persistence at
    which batch noise, (D/8)·E|∇U_B − ∇U|² for D = h²(1 + a)/(1 − a), adds to λ̂ the share that the rule is given;
    below that of a = 0, a smaller h. Hyperparameters are [checkpoint].

    Raises:
        ValueError: every checkpoint's potential is infinite, or its curvature beyond measure, at all distances.
    """
    rough_key, met_key, heat_key = jax.random.split(as_threefry(key), 3)
    if batch_size == count_examples(data):
        curvature = curvature_a_step_away(rough_key, posteriors, steps, data, batch_size)
        _refuse_beyond_measure(curvature)
        return Fixed(GHMC(0.5, preconditioner=Newton(curvature)))
    met, trace = curvature_met(met_key, posteriors, steps, data, batch_size, mesh)
    _refuse_beyond_measure(met.max(axis=0))
    square = STEP_TIMES_CURVATURE / met[1:].max(axis=0)
    noise = gradient_noise(heat_key, posteriors, trace["params"], data, batch_size)
    return ByNoise(square, heat_share({**trace, "heat": heat_of_noise(noise, square)}, posteriors))


def _refuse_beyond_measure(curvature: Float[np.ndarray, " checkpoint"]) -> None:
    if not np.isfinite(curvature).any():
        raise ValueError(
            "no step size is stable at the checkpoint: the loss is not finite around it, or its curvature is beyond "
            "measure; check the loss, or pass a sampler"
        )


def choose_num_chains(asked: Asked, flops: float) -> int:
    """As many chains as a step of so many FLOPs carries for the price of its overhead: a power of 2 from 4 to 16."""
    if asked.num_chains is not None:
        return asked.num_chains
    return int(np.clip(2 ** math.floor(math.log2(max(CHEAP / flops, 1))), 4, MAX_CHAINS))


def _pilot_schedule(asked: Asked, num_chains: int, batch_size: int, most: int) -> Schedule:
    """A pilot takes a quarter of the steps a chain may make, at most."""
    thin = asked.thin or THIN
    share = min(1.0, most / 4 / (PILOT_BURN_IN + PILOT_DRAWS * THIN))
    num_draws = max(25, int(share * PILOT_DRAWS * THIN / thin))
    return Schedule(num_chains, num_draws, min(int(share * PILOT_BURN_IN), num_draws * thin - 1), thin, batch_size)


def _lengths(
    asked: Asked, pilot: Schedule, seen: tuple[Estimate, ...], heat: Float[np.ndarray, " checkpoint"], most: int
) -> tuple[Schedule, int]:
    """The schedule that brings the worst checkpoint to the error asked for in `most` steps, and what it wants."""
    draws = pilot.num_draws * pilot.num_chains
    drawn_for_one = max((draws / e.health.ess for e in seen if e.health.ess > 0), default=1.0)
    thinning = 1 if asked.thin is not None else int(np.clip(drawn_for_one / 10, 1, MAX_THINNING))
    wanted = int(max(_steps_wanted(asked.error, pilot, *each) for each in zip(seen, heat, strict=True)))
    thin = pilot.thin * thinning
    longest = max(MIN_DRAWS * pilot.thin, min(MAX_DRAWS * thin, int(0.78 * most)))
    steps = min(max(wanted, MIN_DRAWS * pilot.thin), longest) if asked.num_draws is None else asked.num_draws * thin
    num_draws = math.ceil(steps / thin) if asked.num_draws is None else asked.num_draws
    burn_in = min(max(pilot.burn_in, steps // 4), num_draws * thin - 1) if asked.burn_in is None else asked.burn_in
    return replace(pilot, num_draws=num_draws, burn_in=burn_in, thin=thin), math.ceil(wanted / thin)


def _steps_wanted(error: float, pilot: Schedule, seen: Estimate, heat: float) -> float:
    """Steps a chain until one checkpoint's error is the share `error` of λ̂, and R-hat can be small."""
    health = seen.health
    if not (health.ess > 0 and np.isfinite(seen.value)):
        return 0.0
    scatter = seen.std_error * math.sqrt(health.ess)
    left = max(error / 2, math.sqrt(max(error**2 - (HEAT_DOUBT * heat) ** 2, 0.0)))
    ess = max(ESS_A_CHAIN * pilot.num_chains, (scatter / (left * max(abs(seen.value), 0.1))) ** 2)
    slow = 2.0 if health.rhat > 1 + 10 * (MAX_RHAT - 1) else 1.0
    return slow * MARGIN * ess * pilot.num_draws * pilot.thin / health.ess


class _Clock:
    """How long a chain-step takes, once the program is compiled."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, int]] = []

    def tick(self, chain_steps: int) -> None:
        self.ticks.append((time.perf_counter(), chain_steps))

    def seconds_a_step(self, num_checkpoints: int) -> float:
        """For `num_checkpoints` at once; the first chunk is compilation's."""
        if len(self.ticks) < 2:
            return math.nan
        steps = sum(count for _, count in self.ticks[1:])
        return (self.ticks[-1][0] - self.ticks[0][0]) / steps * num_checkpoints
