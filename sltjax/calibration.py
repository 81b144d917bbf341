"""Numerics chosen for the posterior at hand; the definition (loss, data, nβ, γ) is never touched.

Where the full data can be afforded at every step, chains are GHMC: exact at any step size, and self-adjusting in
burn-in. Batches gain little against it at nβ = n/log n: their noise heats a chain in proportion to how far it
moves in a step, so that a batch k times smaller needs steps that carry k times less far. Where the full data
cannot be afforded, chains are underdamped Langevin, as fast as batch noise allows.

Lengths come from a pilot: how many steps one effective draw takes, and how much a draw scatters. Where its chains are
those that are wanted, they go on (`sample_to_error`), until they have come to the error asked for and agree.
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

from sltjax.devices import fetch
from sltjax.diagnostics import MAX_DRIFT, MAX_RHAT
from sltjax.estimators import HEAT_DOUBT, llc
from sltjax.heat import JudgedChains, heat_share, sample_judged
from sltjax.posterior import LocalPosterior
from sltjax.rules import ByNoise, Fixed, Pace, default_rule
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
FEWEST_DRAWS, MIN_DRAWS, MAX_DRAWS = 4, 500, 20_000  # fewer than MIN_DRAWS only where the budget is smaller
MAX_THINNING = 16
ESS_A_CHAIN = 100.0  # independent draws between which split R-hat comes down to 1.01
MARGIN = 1.5  # a pilot knows its own autocorrelation to about a third
ROUNDS = 3  # times that chains go on, each time by a half at least
HEAT = 2.0  # times the error asked for: what batch noise may add to λ̂, of which `HEAT_DOUBT` goes into the error


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
    return choose(key, Stack(posteriors, np.zeros(1, int), data, asked, size, cost))


def settle(asked: Asked, posterior: LocalPosterior, data: Batch) -> tuple[int, float]:
    """Refuse what cannot work; the batch size, and the FLOPs of the gradient at one example, which a `Stack` takes."""
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


@dataclass(frozen=True)
class Stack:
    """Checkpoints that are to share one schedule, and what is asked of it; nothing is validated.

    Attributes:
        posteriors: as `condition_all` makes them, all leaves [checkpoint, ...].
        steps: training step of each checkpoint.
        data: pytree of arrays [n, ...].
        asked: what is settled.
        batch_size: as `choose_batch_size` says.
        cost: FLOPs of the gradient at one example.
        mesh: the devices that posteriors and data lie on, if there are several.
    """

    posteriors: LocalPosterior
    steps: Int[np.ndarray, " checkpoint"]
    data: Batch
    asked: Asked
    batch_size: int
    cost: float
    mesh: Mesh | None = None

    @property
    def num_chains(self) -> int:
        """Chains around each checkpoint."""
        return choose_num_chains(self.asked, self.cost * self.batch_size)

    def rule(self, key: RngKey) -> Fixed | ByNoise:
        """By which their steps are chosen."""
        if self.asked.sampler is not None:
            return Fixed(self.asked.sampler)
        return default_rule(key, self.posteriors, self.steps, self.data, self.batch_size, self.mesh)


def choose(key: RngKey, stack: Stack) -> Calibration:
    """What `calibrate` does, for several checkpoints; the key is consumed."""
    rule_key, pilot_key = jax.random.split(as_threefry(key))
    rule, asked = stack.rule(rule_key), stack.asked
    where = tuple(int(step) for step in stack.steps)
    if asked.num_draws is not None and asked.thin is not None and isinstance(rule, Fixed):
        burn_in = asked.num_draws * asked.thin // 4 if asked.burn_in is None else asked.burn_in
        schedule = Schedule(stack.num_chains, asked.num_draws, burn_in, asked.thin, stack.batch_size)
        return Calibration(rule.sampler, schedule, asked.error, steps=where)
    pilot = _run_pilot(pilot_key, stack, rule)
    num_chains = pilot.schedule.num_chains
    seen, heat = _seen(pilot.trace, stack.posteriors)
    schedule, wanted = _lengths(asked, pilot.schedule, seen, heat, (pilot.most - pilot.spent) // num_chains)
    return Calibration(
        pilot.sampler,
        schedule,
        asked.error,
        seen,
        fetch(stack.posteriors.nbeta)[:, None, None] * pilot.trace["delta_loss"],
        pilot.schedule.thin,
        pilot.trace["acceptance"].mean(axis=(1, 2)),
        heat,
        pilot.spent,
        pilot.seconds_a_step * schedule.num_steps * num_chains,
        wanted,
        pilot.pace,
        where,
    )


def sample_to_error(key: RngKey, stack: Stack) -> Trace:
    """Draw until every checkpoint's λ̂ has come to the error asked for and its chains agree, or the budget is spent.

    The chains are those of the pilot, which go on; but if a length is settled, others of that length. The key is
    consumed, and the trace that of `sample_judged`.
    """
    pilot_key, chain_key = jax.random.split(as_threefry(key))
    if stack.asked.num_draws is not None or stack.asked.burn_in is not None:
        chosen = choose(pilot_key, stack)
        where = (stack.posteriors, stack.steps, chosen.sampler, stack.data, chosen.schedule)
        return sample_judged(chain_key, *where, mesh=stack.mesh)
    pilot = _run_pilot(chain_key, stack, stack.rule(pilot_key))
    schedule, trace = pilot.schedule, pilot.trace
    most = (pilot.most - pilot.spent) // schedule.num_chains + schedule.num_steps
    for _ in range(ROUNDS):
        longer = _longer(stack.asked, schedule, *_seen(trace, stack.posteriors), most)
        if longer == schedule:
            break
        schedule, trace = longer, pilot.chains.run(longer)
    return {name: values for name, values in trace.items() if name != "curvature"}


@dataclass(frozen=True)
class _Pilot:
    """Chains whose steps are right, and what they saw.

    Attributes:
        sampler: theirs.
        pace: by which its steps were made.
        schedule: how long they are.
        chains: they themselves.
        trace: of them.
        spent: chain-steps, theirs and those of pilots before them.
        most: chain-steps that may be taken in all.
        seconds_a_step: of a chain, for one checkpoint.
    """

    sampler: Sampler
    pace: Pace
    schedule: Schedule
    chains: JudgedChains
    trace: Trace
    spent: int
    most: int
    seconds_a_step: float


def _run_pilot(key: RngKey, stack: Stack, rule: Fixed | ByNoise) -> _Pilot:
    """Pilots, with slower steps each time, until one goes well or half of what may be spent is."""
    asked, num_chains = stack.asked, stack.num_chains
    affordable = int(ALL_AFFORDABLE / (stack.cost * stack.batch_size))
    most = asked.max_chain_steps or max(affordable, 100 * num_chains)
    schedule = _pilot_schedule(asked, num_chains, stack.batch_size, most // num_chains)
    allowed, pace = HEAT * asked.error, Pace()
    options: dict[str, Any] = {"mesh": stack.mesh, "looks_at_curvature": isinstance(rule, ByNoise)}
    spent, clock = 0, _Clock()
    while True:
        sampler = rule.make(allowed, pace)
        chains = JudgedChains(key, stack.posteriors, stack.steps, sampler, stack.data, num_chains, **options)
        trace = chains.run(schedule, clock.tick)
        spent += schedule.num_steps * num_chains
        heat = heat_share(trace, stack.posteriors)
        is_last = spent > most / 2 - schedule.num_steps * num_chains
        if is_last or isinstance(rule, Fixed) or (slower := rule.slower(pace, heat / allowed, trace)) == pace:
            break
        pace = slower
    if asked.max_seconds is not None:
        most = min(most, int(asked.max_seconds / clock.seconds_a_step(len(stack.steps))))
    return _Pilot(sampler, pace, schedule, chains, trace, spent, most, clock.seconds_a_step(1))


def _seen(trace: Trace, posteriors: LocalPosterior) -> tuple[tuple[Estimate, ...], Float[np.ndarray, " checkpoint"]]:
    """What the chains of each checkpoint estimate, heat included, and the share of it that is heat."""
    nbetas = map(float, fetch(posteriors.nbeta))
    each = zip(trace["delta_loss"], nbetas, strict=True)
    return tuple(llc({"delta_loss": losses}, nbeta) for losses, nbeta in each), heat_share(trace, posteriors)


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
    asked: Asked,
    pilot: Schedule,
    seen: tuple[Estimate, ...],
    heat: Float[np.ndarray, " checkpoint"],
    most: int,
    least: int = 0,
    thins: bool = True,
) -> tuple[Schedule, int]:
    """The schedule that brings the worst checkpoint to the error asked for in `most` steps, and what it wants.

    It draws for `least` steps if it may; where it does not thin, draws lie as close as the pilot's.
    """
    draws = pilot.num_draws * pilot.num_chains
    drawn_for_one = max((draws / e.health.ess for e in seen if e.health.ess > 0), default=1.0)
    thinning = 1 if asked.thin is not None else int(np.clip(drawn_for_one / 10, 1, MAX_THINNING))
    wanted = int(max(_steps_wanted(asked.error, pilot, *each) for each in zip(seen, heat, strict=True)))
    thin = pilot.thin * thinning if thins else pilot.thin
    num_draws = asked.num_draws
    if num_draws is None:
        room = max(FEWEST_DRAWS * thin, min(int(0.78 * most), most - pilot.burn_in))
        longest = min(MAX_DRAWS * pilot.thin * thinning, room)
        num_draws = _round_number(min(max(wanted, least, MIN_DRAWS * pilot.thin), longest) / thin, longest / thin)
    steps = num_draws * thin
    burn_in = min(max(pilot.burn_in, steps // 4), steps - 1) if asked.burn_in is None else asked.burn_in
    return replace(pilot, num_draws=num_draws, burn_in=burn_in, thin=thin), math.ceil(wanted / thin)


def _round_number(draws: float, most: float) -> int:
    """The next number of four binary digits, so that programs which judge draws serve for other estimates, too."""
    unit = 2 ** max(0, math.ceil(math.log2(draws)) - 4)
    return int(min(math.ceil(draws / unit) * unit, most))


def _longer(
    asked: Asked, schedule: Schedule, seen: tuple[Estimate, ...], heat: Float[np.ndarray, " checkpoint"], most: int
) -> Schedule:
    """For how long chains go on that saw this; the same schedule, if they have come to where they should, or can."""
    steps = schedule.num_draws * schedule.thin
    wanted = max(_steps_wanted(asked.error, schedule, *each) for each in zip(seen, heat, strict=True))
    is_long = steps >= max(wanted / MARGIN, MIN_DRAWS * schedule.thin)
    disagrees = any(e.health.rhat > MAX_RHAT or abs(e.health.drift) > MAX_DRIFT for e in seen)
    if is_long and not disagrees:
        return schedule
    longer, _ = _lengths(asked, schedule, seen, heat, most, least=int(MARGIN * steps), thins=False)
    return longer if longer.num_steps > schedule.num_steps else schedule


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
