"""Lanes on one device and on many: the same draws, nothing communicated, and models spread over several.

Run as a script, `python test_devices.py ROLE FOLDER ...`, this file is a process with devices of its own.
"""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

NUM_CHECKPOINTS = 6
NUM_LANES = {"checkpoint": 8, "chain": 4}


def start(role, folder, *arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, role, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(start("sweep", folder))
    return read(folder)


def read(folder):
    import xarray as xr

    return xr.load_dataset(Path(folder) / "dataset.nc", engine="h5netcdf")


@pytest.mark.parametrize(
    ("devices", "sizes"),
    [
        pytest.param(2, "2,1,1", marks=pytest.mark.slow),
        pytest.param(8, "8,1,1", marks=pytest.mark.slow),
        (8, "4,2,1"),
        (4, "2,1,2"),
    ],
)
def test_the_same_draws_on_any_number_of_devices(alone, tmp_path, devices, sizes):
    """Trust 17: the same noise and batches; equal to rounding, which grows along chains that move far."""
    finish(start("sweep", tmp_path, sizes, devices=devices))
    spread = read(tmp_path)
    assert (spread.status == "done").all()
    np.testing.assert_allclose(spread.delta_loss, alone.delta_loss, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(spread.llc, alone.llc, rtol=1e-4)


@pytest.mark.parametrize("sizes", [*(pytest.param(s, marks=pytest.mark.slow) for s in ("1,1,1", "4,2,1")), "2,2,2"])
def test_programs_lowered_from_shapes_run_send_nothing_between_lanes_and_hold_their_part(tmp_path, sizes):
    over = sizes_of(sizes)
    said = json.loads(finish(start("programs", tmp_path, sizes, devices=math.prod(over.values()))).splitlines()[-1])
    # a run finds its programs compiled before, from shapes, and compiles none of them again, chunk after chunk
    assert [name.split("-")[0] for name in said["lowered"]] == ["jit__advance", "jit__condition_all", "jit__start"]
    assert said["run"] == said["lowered"]
    # nothing is sent between lanes, but between the parts of a model
    assert set(said["along"]) == {"condition", "start", "advance", "noise"}
    assert {axes for found in said["along"].values() for axes in found} == ({"model"} if over["model"] > 1 else set())
    # a device has its part of the parameters and of the momentum, which begins as noise; so says the compiler
    lanes = [NUM_LANES[axis] // over[axis] for axis in ("checkpoint", "chain")]
    part = 16 // over["model"]
    expected = {"scale": [*lanes, 8], "v": [*lanes, part], "w": [*lanes, 8, part]}
    assert said["states"] == {"params": expected, "momentum": expected}
    flags = math.prod(lanes)
    assert said["passed_on"] == 2 * 4 * sum(map(math.prod, expected.values())) + flags


@pytest.mark.slow
def test_chains_share_the_cores_where_jax_is_told_to(tmp_path):
    processes = [start("chains", tmp_path, devices=devices) for devices in (1, 3)]
    alone, shared = (json.loads(finish(process).splitlines()[-1]) for process in processes)
    assert (alone["devices"], shared["devices"]) == (1, 3)
    np.testing.assert_allclose(shared["sample"], alone["sample"], rtol=2e-4)
    assert shared["estimate"] == pytest.approx(alone["estimate"], rel=1e-3)


def test_blocks_that_cores_share_are_small(tmp_path):
    processes = [start("blocks", tmp_path, devices=devices) for devices in (1, 2)]
    alone, shared = (json.loads(finish(process).splitlines()[-1]) for process in processes)
    # of 3, 16, 17 and 100 checkpoints, in blocks of about equal size: 64 on a device, but 8 on each of several cores
    assert alone == [3, 16, 17, 50]
    assert shared == [4, 16, 10, 16]


@pytest.mark.slow
def test_two_processes_work_as_one(alone, tmp_path):
    """On loopback, with two devices each: one writes, and both have the whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [start("sweep", tmp_path, "4,1,1", address, rank, devices=2) for rank in range(2)]
    said = [finish(process) for process in pair]
    assert all("6 checkpoints" in text for text in said)
    np.testing.assert_allclose(read(tmp_path).delta_loss, alone.delta_loss, rtol=2e-4, atol=1e-6)
    again = [start("sweep", tmp_path, "4,1,1", address, rank, devices=2) for rank in range(2)]
    assert all("sampled 0" in finish(process) for process in again)


# What the processes do


def problem():
    import jax
    import jax.numpy as jnp

    import sltjax

    def params(step):
        key = jax.random.key(step)
        return {"scale": jnp.ones(8), "w": 0.5 * jax.random.normal(key, (8, 16)), "v": jnp.ones(16) * 0.1 * step}

    def apply(params, batch):
        return jnp.tanh((params["scale"] * batch) @ params["w"]) @ params["v"]

    data = jax.random.normal(jax.random.key(9), (256, 8))
    pairs = {step: params(step) for step in range(NUM_CHECKPOINTS)}
    return sltjax.behavioral_loss(apply), sltjax.checkpoints.from_memory(pairs), data


def partition():
    from jax.sharding import PartitionSpec

    return {"scale": PartitionSpec(), "w": PartitionSpec(None, "model"), "v": PartitionSpec("model")}


def sizes_of(text):
    return dict(zip(("checkpoint", "chain", "model"), map(int, text.split(",")), strict=True))


def run_sweep(folder, sizes="1,1,1", address=None, rank=0):
    import jax

    if address:
        jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
    import sltjax
    from sltjax.sweeps import blocks

    sampled = []
    original = blocks.Job._sample_at_once
    blocks.Job._sample_at_once = lambda self, *args: (sampled.append(1), original(self, *args))[1]
    loss, checkpoints, data = problem()
    dataset = sltjax.sweep(
        jax.random.key(0),
        loss,
        checkpoints,
        data,
        store=folder,
        num_chains=4,
        num_draws=30,
        burn_in=10,
        thin=1,
        batch_size=32,
        sampler=sltjax.SGLD(1e-4),
        devices=sizes_of(sizes),
        partition=partition() if sizes.endswith("2") else None,
    )
    print(f"{dataset.sizes['checkpoint']} checkpoints, sampled {len(sampled)}")


def run_chains(folder):
    """Six chains by `sample`, and by `estimate_llc`; on how many devices they were."""
    import jax

    import sltjax
    from sltjax import sampling

    seen = []
    original = sampling._advance
    sampling._advance = lambda states, *args, **named: (
        seen.append(len(jax.tree.leaves(states)[0].sharding.device_set)),
        original(states, *args, **named),
    )[1]
    behavior, checkpoints, data = problem()
    lengths = {"num_chains": 6, "num_draws": 30, "burn_in": 10, "thin": 1, "batch_size": 32}
    where = checkpoints.load(1)
    posterior = sltjax.LocalPosterior(behavior.at(where), where, 50.0, 1.0)
    key = jax.device_put(jax.random.key(0), jax.devices()[-1])  # where a training may have left it
    sampler = sltjax.SGLD(1e-4)
    trace = sltjax.sample(key, posterior, sampler, data, **lengths)
    estimate = sltjax.estimate_llc(key, behavior, where, data, sampler=sampler, **lengths)
    found = {"sample": trace["delta_loss"].tolist(), "estimate": float(estimate.value)}
    print(json.dumps({**found, "devices": seen[-1] if len(set(seen)) == 1 else seen}))


def show_blocks(folder):
    """How many checkpoints a block has, of runs of several lengths."""
    from sltjax.devices import make_mesh
    from sltjax.sweeps.setup import _fitting_block

    params = {"w": np.zeros((8, 16))}
    print(json.dumps([_fitting_block(params, 4, count, make_mesh(), None) for count in (3, 16, 17, 100)]))


def show_programs(folder, sizes):
    """Lower from shapes and compile, then run: the programs in the cache after each, what they send, how states lie."""
    import jax
    import numpy as np

    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from ahead_of_time import collectives

    import sltjax
    from sltjax import heat, sampling
    from sltjax.devices import make_mesh, place, replicate
    from sltjax.schedule import Schedule

    def cached():
        files = sorted(path.name for path in Path(folder).glob("jit__*-cache"))
        return [name for name in files if name.split("-")[0] in ("jit__condition_all", "jit__start", "jit__advance")]

    def along(program):
        return sorted({axes for _, axes, _ in collectives(program.as_text(), tuple(sizes_of(sizes).values()))})

    def shapes(states):
        return jax.tree.map(lambda x: list(x.addressable_shards[0].data.shape), states)

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    mesh, spec = make_mesh(sizes_of(sizes)), partition() if sizes.endswith("2") else None
    behavior, checkpoints, data = problem()
    params = checkpoints.load(0)
    posterior = sltjax.LocalPosterior(lambda params, batch: (behavior.apply(params, batch) - 1) ** 2, params, 50.0, 1.0)
    sampler = sltjax.UnderdampedLangevin(1e-3)
    num_checkpoints, num_chains = NUM_LANES.values()
    schedule = Schedule(num_chains, num_draws=40, burn_in=10, thin=1, batch_size=32)
    lowered = sampling.lower_block(posterior, num_checkpoints, sampler, data, schedule, mesh=mesh, partition=spec)
    compiled = {name: program.compile() for name, program in lowered.items()}
    before = cached()

    seen = []
    stack = jax.tree.map(lambda w: np.stack([w] * num_checkpoints), params)
    data = replicate(data, mesh)
    posteriors = sampling.condition_all(posterior.at(place(stack, mesh, spec)), data, 32)
    key = jax.random.key_data(jax.random.key(0))
    steps = np.arange(num_checkpoints)
    look = lambda states: seen.append(jax.tree.map(jax.numpy.copy, states))  # noqa: E731
    sampling.sample_block(key, posteriors, steps, sampler, data, schedule, mesh=mesh, on_draws=look)
    after = cached()
    assert len(seen) > 1
    positions = jax.tree.map(lambda w: w[:, :, None], seen[-1].params)
    noise = heat._gradient_noise.lower(key, posteriors, positions, data, 32, mesh=mesh).compile()
    said = {
        "along": {name: along(program) for name, program in {**compiled, "noise": noise}.items()},
        "lowered": before,
        "run": after,
        "states": {"params": shapes(seen[-1].params), "momentum": shapes(seen[-1].momentum)},
        "passed_on": compiled["advance"].memory_analysis().alias_size_in_bytes,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    roles = {"sweep": run_sweep, "chains": run_chains, "blocks": show_blocks, "programs": show_programs}
    roles[sys.argv[1]](*sys.argv[2:])
