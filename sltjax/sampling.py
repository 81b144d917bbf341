"""Chains: checkpoints × chains of one sampler in one compiled program, driven from the host in chunks.

What a chain draws depends on the key, its checkpoint's step, its own index and the time, and on nothing else:
not on how lanes are packed into blocks, nor on how draws are cut into chunks.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Int

from sltjax import observables as observe
from sltjax.devices import (
    Layout,
    Partition,
    cores,
    fetch,
    lay,
    lay_lanes,
    layout_of,
    place,
    replicate,
    shardings,
    spread,
)
from sltjax.fusion import once
from sltjax.losses import BehavioralLoss
from sltjax.posterior import LocalPosterior
from sltjax.samplers.adaptation import set_learning
from sltjax.schedule import Schedule
from sltjax.threefry import as_threefry, portable
from sltjax.types import Batch, Info, Observable, Params, RngKey, Rows, Sampler, Trace
from sltjax.validation import as_float32, count_examples, validate

DEFAULT_OBSERVABLES: Mapping[str, Observable] = {
    "delta_loss": observe.delta_loss,
    "distance": observe.distance,
    "acceptance": observe.acceptance,
}


def sample(
    key: RngKey,
    posterior: LocalPosterior,
    sampler: Sampler,
    data: Batch,
    *,
    observables: Mapping[str, Observable] = DEFAULT_OBSERVABLES,
    num_chains: int = 4,
    num_draws: int = 2000,
    burn_in: int = 1000,
    thin: int = 1,
    batch_size: int = 512,
) -> Trace:
    """Draw from the posterior around one checkpoint.

    Args:
        key: consumed.
        posterior: loss, anchor, nβ and γ; conditioned on the data here.
        sampler: `SGLD`, `LeimkuhlerMatthews` or any other `Sampler`.
        data: pytree of arrays [n, ...].
        observables: name -> what to record at every draw, a function (params, info) -> arrays; `observables.losses`
            among them.
        num_chains: independent chains, all from the anchor; they share the CPU devices, if `jax_num_cpu_devices` made
            several.
        num_draws: recorded draws a chain.
        burn_in: steps before the first draw.
        thin: steps a draw.
        batch_size: examples a step, shared by the chains; at most n.

    Returns:
        name -> array [chain, draw, ...].

    Raises:
        ValueError, TypeError: sizes, shapes or values that cannot work; the message says what would.
    """
    schedule = Schedule(num_chains, num_draws, burn_in, thin, batch_size)
    validate(posterior, sampler, data, schedule)
    anchors, data, mesh = over_cores(as_float32(posterior.anchor), data, num_chains)
    posteriors = condition_all(posterior.at(anchors), data, batch_size)
    step = np.zeros(1, int)
    trace = sample_block(key, posteriors, step, sampler, data, schedule, observables, mesh=mesh)
    return jax.tree.map(lambda x: x[0], trace)


def over_cores(params: Params, data: Batch, num_chains: int) -> tuple[Params, Batch, Mesh | None]:
    """The parameters as a stack of one checkpoint, and the data, on the mesh of `devices.cores`; and that mesh."""
    mesh = cores(num_chains)
    return place(alone(params), mesh), replicate(data, mesh), mesh


def alone(tree: Any) -> Any:
    """What one checkpoint has, as a stack of one."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def sample_block(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    sampler: Sampler,
    data: Batch,
    schedule: Schedule,
    observables: Mapping[str, Observable] = DEFAULT_OBSERVABLES,
    on_chunk: Callable[[int], None] = lambda chain_steps: None,
    on_draws: Callable[[Any], None] = lambda states: None,
    mesh: Mesh | None = None,
) -> Trace:
    """Draw from the posteriors around several checkpoints at once, as `Chains` do that run once."""
    return Chains(key, posteriors, steps, sampler, data, schedule.num_chains, observables, mesh).run(
        schedule, on_chunk, on_draws
    )


class Chains:
    """Chains around several checkpoints in one compiled program, that can be gone on with; nothing is validated.

    Attributes:
        done: how long they are, in draws, burn-in included.
        mesh: of the devices that their lanes are spread over, if there are several.
    """

    def __init__(
        self,
        key: RngKey,
        posteriors: LocalPosterior,
        steps: Int[np.ndarray, " checkpoint"],
        sampler: Sampler,
        data: Batch,
        num_chains: int,
        observables: Mapping[str, Observable] = DEFAULT_OBSERVABLES,
        mesh: Mesh | None = None,
    ) -> None:
        """Start them.

        Args:
            key: the key of the whole sweep, the same for every block.
            posteriors: as `condition_all` makes them, all leaves [checkpoint, ...].
            steps: training step of each checkpoint, which seeds its noise.
            sampler: its hyperparameters are scalars, or arrays [checkpoint].
            data: shared by all lanes.
            num_chains: around each checkpoint.
            observables: name -> what to record.
            mesh: spreads the lanes over devices, if there are several.
        """
        self.done, self.mesh = 0, mesh
        self._sampler, self._data = sampler, data
        self._num_lanes = len(steps) * num_chains
        self._recorders = replicate(_recorders(observables), mesh)
        layout = layout_of(posteriors.anchor, mesh)
        where = (posteriors, np.asarray(steps), sampler, kinds_of(sampler), num_chains, mesh, layout)
        self._lanes, self._states = _start(portable(key), *where)
        self._recorded: list[Trace] = []

    def run(
        self,
        schedule: Schedule,
        on_chunk: Callable[[int], None] = lambda chain_steps: None,
        on_draws: Callable[[Any], None] = lambda states: None,
    ) -> Trace:
        """Run to the end of a schedule, from wherever an earlier one ended.

        Args:
            schedule: lengths and sizes; thin and batch size are those of the earlier one, burn-in no shorter.
            on_chunk: told the chain-steps done since its last call.
            on_draws: shown the states of all lanes, leaves [checkpoint, chain, ...], after every chunk that holds
                draws; what it computes of them it must begin before it returns, because the next chunk takes their
                memory.

        Returns:
            name -> array [checkpoint, chain, draw, ...]: all draws that this schedule asks for.
        """
        layout = layout_of(self._states, self.mesh)
        total = schedule.burn_in_draws + schedule.num_draws
        steps_a_draw = schedule.thin * self._num_lanes
        waiting = 0
        while self.done < total:
            first = self.done
            self._states, trace = _advance(
                self._states,
                self._lanes,
                first,
                schedule.burn_in_steps,
                schedule.thin,
                self._data,
                self._recorders,
                **_shape_of(self._sampler, self._recorders, schedule),
                layout=layout,
            )
            self.done += schedule.chunk
            if self.done > schedule.burn_in_draws:
                on_draws(self._states)
            if waiting:  # fetching waits for the chunk before, while the one just dispatched runs
                self._recorded[-1] = fetch(self._recorded[-1])
                on_chunk(waiting * steps_a_draw)
            self._recorded.append(trace)
            waiting = min(schedule.chunk, total - first)
        if waiting:
            self._recorded[-1] = fetch(self._recorded[-1])
            on_chunk(waiting * steps_a_draw)
        kept = slice(schedule.burn_in_draws, total)
        return jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=2)[:, :, kept], *self._recorded)


def _recorders(observables: Mapping[str, Observable]) -> dict[str, Any]:
    return {name: observe.traceable(observable) for name, observable in observables.items()}


def _shape_of(sampler: Sampler, recorders: dict[str, Any], schedule: Schedule) -> dict[str, Any]:
    """What, beside the shapes of arrays, tells the program of a chunk from others."""
    return {"kinds": kinds_of(sampler, recorders), "batch_size": schedule.batch_size, "chunk": schedule.chunk}


def trace_block(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    sampler: Sampler,
    data: Batch,
    schedule: Schedule,
    observables: Mapping[str, Observable],
    look: Callable[[Any, Array], Any],
) -> tuple[Trace, Any]:
    """As `sample_block`, but as a pure function, for jit and vmap: the same draws, to rounding.

    Args:
        key: as there, as the others are.
        posteriors: as there.
        steps: as there.
        sampler: as there.
        data: as there.
        schedule: as there.
        observables: as there.
        look: (states, index of the chunk) -> arrays, in the place of `on_draws`, but after every chunk.

    Returns:
        The trace; and what `look` saw after the chunks that hold draws, [chunk, ...].
    """
    chunk, recorders = schedule.chunk, _recorders(observables)
    lanes, states = _start(key, posteriors, steps, sampler, kinds_of(sampler), schedule.num_chains, None, None)
    total = schedule.burn_in_draws + schedule.num_draws

    def advance(states: Any, index: Array) -> tuple[Any, tuple[Trace, Any]]:
        states, trace = _advance(
            states,
            lanes,
            index * chunk,
            schedule.burn_in_steps,
            schedule.thin,
            data,
            recorders,
            **_shape_of(sampler, recorders, schedule),
            layout=None,
        )
        return states, (trace, look(states, index))

    _, (trace, seen) = jax.lax.scan(advance, states, jnp.arange(math.ceil(total / chunk)))

    def kept(x: Array) -> Array:  # [chunk, checkpoint, chain, draw of the chunk, ...]
        in_order = jnp.moveaxis(x, 0, 2)
        draws = in_order.reshape(*in_order.shape[:2], -1, *in_order.shape[4:])
        return draws[:, :, schedule.burn_in_draws : total]

    return jax.tree.map(kept, trace), jax.tree.map(lambda x: x[schedule.burn_in_draws // chunk :], seen)


@struct.dataclass
class _Lanes:
    posteriors: LocalPosterior  # leaves [checkpoint, ...]
    samplers: Sampler  # leaves [checkpoint]
    noise_keys: Any  # [checkpoint, chain]
    batch_key: Any


def kinds_of(*trees: Any) -> str:
    """The classes of a sampler and its parts: what tells its program from those of others.

    To jax 0.10 two dataclasses are equal as pytrees if their fields are, so that its cache, which goes by seven bits
    of a hash and then by equality, takes `SGLD` for `LeimkuhlerMatthews` once in a hundred processes.
    """
    return str(jax.tree.structure(trees))


@partial(jax.jit, static_argnames=("kinds", "num_chains", "mesh", "layout"))
def _start(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Array,
    sampler: Sampler,
    kinds: str,
    num_chains: int,
    mesh: Mesh | None,
    layout: Layout,
) -> tuple[_Lanes, Any]:
    batch_key, noise_key, start_key = jax.random.split(as_threefry(key), 3)
    chains = jnp.arange(num_chains)

    def lane_keys(key: Array) -> Array:
        fold = jax.random.fold_in
        return jax.vmap(lambda step: jax.vmap(lambda chain: fold(fold(key, step), chain))(chains))(steps)

    def start(sampler: Sampler, keys: Array, posterior: LocalPosterior) -> Any:
        return jax.vmap(sampler.init, in_axes=(0, None))(keys, posterior.start)

    samplers = jax.tree.map(lambda x: jnp.broadcast_to(jnp.float32(x), steps.shape), sampler)
    posteriors, samplers = spread((posteriors, samplers), mesh, "checkpoint")
    keys, start_keys = spread((lane_keys(noise_key), lane_keys(start_key)), mesh, "checkpoint", "chain")
    states = spread(jax.vmap(start)(samplers, start_keys, posteriors), mesh, "checkpoint", "chain")
    return _Lanes(posteriors, samplers, keys, batch_key), lay_lanes(states, posteriors.anchor, layout)


@partial(jax.jit, static_argnames=("kinds", "batch_size", "chunk", "layout"), donate_argnames="states")
def _advance(
    states: Any,
    lanes: _Lanes,
    first_draw: Array | int,
    burn_in_steps: Array | int,
    thin: Array | int,
    data: Batch,
    recorders: dict[str, Any],
    *,
    kinds: str,
    batch_size: int,
    chunk: int,
    layout: Layout,
) -> tuple[Any, Trace]:
    # One checkpoint alone has no axis: XLA's CPU compiler then lays its products out better.
    is_alone = lanes.noise_keys.shape[0] == 1
    stacks = (states, lanes.posteriors, lanes.samplers, lanes.noise_keys)
    states, posteriors, samplers, keys = jax.tree.map(lambda x: x[0], stacks) if is_alone else stacks
    over_checkpoints: Callable[..., Any] = _as_it_is if is_alone else jax.vmap

    @partial(jax.jit, inline=True)  # traced once, for what it returns and to run
    def step(states: Any, time: Array) -> tuple[Any, Info]:
        batch, rows = draw_batch(jax.random.fold_in(lanes.batch_key, time), data, batch_size)
        states = set_learning(states, time < burn_in_steps)

        def chains(states: Any, keys: Array, posterior: LocalPosterior, sampler: Sampler) -> tuple[Any, Info]:
            potential = posterior.potential(batch, posterior.anchor_terms(batch, rows))

            def chain(state: Any, key: Array) -> tuple[Any, Info]:
                return sampler.step(jax.random.fold_in(key, time), state, potential)

            return jax.vmap(chain)(states, keys)

        return over_checkpoints(chains)(states, keys, posteriors, samplers)

    def observe_chains(posterior: LocalPosterior, info: Info) -> Trace:
        bound = {name: observe.bind(recorder, posterior) for name, recorder in recorders.items()}
        return {name: jax.vmap(observable)(info.params, info) for name, observable in bound.items()}

    def observe_lanes(info: Info) -> Trace:
        return over_checkpoints(observe_chains)(posteriors, info)

    def draw(states: Any, index: Array) -> tuple[Any, Trace]:
        """`thin` steps, of which the last is recorded: one copy of the step in the program, however many they are."""

        def thinned(number: Array, carry: tuple[Any, Trace]) -> tuple[Any, Trace]:
            time = (first_draw + index) * thin + number
            states, info = step(carry[0], time)
            is_recorded = (number == thin - 1) & (time >= burn_in_steps)
            return states, jax.lax.cond(is_recorded, lambda: observe_lanes(info), lambda: carry[1])

        return jax.lax.fori_loop(0, thin, thinned, (states, nothing))

    shapes = jax.eval_shape(lambda states: observe_lanes(step(states, jnp.int32(0))[1]), states)
    nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    states, trace = jax.lax.scan(draw, states, jnp.arange(chunk))
    if is_alone:
        states, trace = alone(states), jax.vmap(alone)(trace)
    return lay(states, layout), jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2), trace)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def lower_block(
    posterior: LocalPosterior,
    width: int,
    sampler: Sampler,
    data: Batch,
    schedule: Schedule,
    observables: Mapping[str, Observable] = DEFAULT_OBSERVABLES,
    mesh: Mesh | None = None,
    partition: Partition | None = None,
) -> dict[str, jax.stages.Lowered]:
    """The programs that `condition_all` and `sample_block` run, from shapes alone: nothing is run, and nothing is held.

    Args:
        posterior: around a checkpoint, which may be shapes (`jax.ShapeDtypeStruct`).
        width: checkpoints at once.
        sampler: its hyperparameters are scalars.
        data: arrays, or shapes.
        schedule: lengths and sizes.
        observables: name -> what to record.
        mesh: of devices, which need not be there.
        partition: of the parameters, along "model".

    Returns:
        "condition", "start" and "advance", in the order in which they run.
    """
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    stack = jax.tree.map(lambda w: jax.ShapeDtypeStruct((width, *np.shape(w)), jnp.float32), posterior.anchor)
    anchors = stack if mesh is None else jax.tree.map(_laid, stack, shardings(stack, mesh, partition))
    data = jax.tree.map(lambda x: _laid(x, everywhere), jax.eval_shape(lambda data: data, data))
    key, steps = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((width,), jnp.int32)
    condition = _condition_all.lower(traceable(posterior.at(anchors)), data, schedule.batch_size)
    kinds = kinds_of(sampler)
    posteriors = _returned(condition, mesh)
    layout = layout_of(posteriors.anchor, mesh)
    start = _start.lower(key, posteriors, steps, sampler, kinds, schedule.num_chains, mesh, layout)
    lanes, states = _returned(start, mesh)
    recorders = _recorders(observables)
    advance = _advance.lower(
        states,
        lanes,
        0,
        0,
        1,
        data,
        jax.tree.map(lambda x: _laid(x, everywhere), jax.eval_shape(lambda x: x, recorders)),
        **_shape_of(sampler, recorders, schedule),
        layout=layout_of(states, mesh),
    )
    return {"condition": condition, "start": start, "advance": advance}


def _laid(x: Any, sharding: Sharding | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _returned(program: jax.stages.Lowered, mesh: Mesh | None) -> Any:
    """The shapes of what a program returns, and on several devices how they lie, which is its compiler's choice."""
    if mesh is None:
        return program.out_info
    return jax.tree.map(_laid, program.out_info, program.compile().output_shardings)


def bytes_on_a_device(program: jax.stages.Compiled) -> int:
    """What a program takes while it runs: arguments, results that do not take their place, and temporaries."""
    used: Any = program.memory_analysis()
    return used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes - used.alias_size_in_bytes


def condition_all(posterior: LocalPosterior, data: Batch, batch_size: int) -> LocalPosterior:
    """The posteriors around a stack of anchors, each conditioned on the data; all leaves get a [checkpoint] axis."""
    return _condition_all(traceable(posterior), data, batch_size)


def traceable(posterior: LocalPosterior) -> LocalPosterior:
    """The same with a loss that is a pytree, as plain functions are not, and may go into a compiled program."""
    if isinstance(posterior.loss, BehavioralLoss):
        return posterior
    return dataclasses.replace(posterior, loss=jax.tree_util.Partial(posterior.loss))


@partial(jax.jit, static_argnums=2)
def _condition_all(posterior: LocalPosterior, data: Batch, batch_size: int) -> LocalPosterior:
    conditioned = jax.vmap(lambda anchor: posterior.at(anchor).condition(data, batch_size))(posterior.anchor)
    # A Python number, such as nβ, stays weakly typed, and would have another program than an array compiled for it.
    return jax.tree.map(lambda x: x.astype(x.dtype), conditioned)


def draw_batch(key: Array, data: Batch, batch_size: int) -> tuple[Batch, Rows]:
    """`batch_size` examples, drawn with replacement, and which; all of them, once each, if that is their number."""
    num_examples = count_examples(data)
    if batch_size == num_examples:
        return data, slice(None)
    rows = once(lambda key: jax.random.randint(key, (batch_size,), 0, num_examples))(key)
    return jax.tree.map(lambda x: x[rows], data), rows
