"""Lanes on one device and on many: the same draws, nothing communicated, and models spread over several.

Run as a script, `python test_devices.py ROLE FOLDER ...`, this file is a process with devices of its own.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

NUM_CHECKPOINTS = 6


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


@pytest.mark.parametrize(("devices", "sizes"), [(2, "2,1,1"), (8, "8,1,1"), (8, "4,2,1"), (4, "2,1,2")])
def test_the_same_draws_on_any_number_of_devices(alone, tmp_path, devices, sizes):
    """Trust 17: the same noise and batches; equal to rounding, which grows along chains that move far."""
    finish(start("sweep", tmp_path, sizes, devices=devices))
    spread = read(tmp_path)
    assert (spread.status == "done").all()
    np.testing.assert_allclose(spread.delta_loss, alone.delta_loss, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(spread.llc, alone.llc, rtol=1e-4)


def test_nothing_is_communicated_between_lanes():
    said = finish(start("program", "-", "4,2,1", devices=8))
    assert "sharded over 8 devices" in said
    assert not re.findall(r"(all-reduce|all-gather|all-to-all|collective-permute)\(", said)


def test_a_model_is_spread_as_its_partition_says():
    said = finish(start("program", "-", "2,1,2", devices=4))
    weight = re.search(r"state of w: (\S+) a device of (\S+)", said)
    assert weight
    assert weight[1] == "(3,4,8,8)"  # 6 checkpoints over 2, 16 columns over 2
    assert weight[2] == "(6,4,8,16)"


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
        return {"w": 0.5 * jax.random.normal(key, (8, 16)), "v": jnp.ones(16) * 0.1 * step}

    def apply(params, batch):
        return jnp.tanh(batch @ params["w"]) @ params["v"]

    data = jax.random.normal(jax.random.key(9), (256, 8))
    pairs = {step: params(step) for step in range(NUM_CHECKPOINTS)}
    return sltjax.behavioral_loss(apply), sltjax.checkpoints.from_memory(pairs), data


def partition():
    from jax.sharding import PartitionSpec

    return {"w": PartitionSpec(None, "model"), "v": PartitionSpec("model")}


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


def show_program(folder, sizes):
    """The compiled program of a chunk, and how the states of its lanes lie."""
    import jax
    import numpy as np

    import sltjax
    from sltjax import sampling
    from sltjax.devices import make_mesh, place, replicate

    loss, checkpoints, data = problem()
    mesh = make_mesh(sizes_of(sizes))
    stack = jax.tree.map(lambda *w: np.stack(w), *(checkpoints.load(step) for step in checkpoints.steps))
    width = mesh.shape["checkpoint"]
    stack = jax.tree.map(lambda w: np.resize(w, (-(-len(w) // width) * width, *w.shape[1:])), stack)
    anchors = place(stack, mesh, partition() if sizes.endswith("2") else None)
    data = replicate(data, mesh)
    posterior = sltjax.LocalPosterior(loss, checkpoints.load(0), 50.0, 1.0)
    posteriors = sampling.condition_all(posterior.at(anchors), data, 32)
    sampler = sltjax.SGLD(1e-4)
    steps = np.arange(len(jax.tree.leaves(stack)[0]))
    kinds = sampling.kinds_of(sampler)
    lanes, states = sampling._start(jax.random.key_data(jax.random.key(0)), posteriors, steps, sampler, kinds, 4, mesh)
    observables = tuple(sampling.DEFAULT_OBSERVABLES.items())
    options = {"kinds": kinds, "batch_size": 32, "chunk": 10, "observables": observables, "mesh": mesh}
    program = sampling._advance.lower(states, lanes, 0, 10, 1, data, **options).compile()
    states, _ = sampling._advance(states, lanes, 0, 10, 1, data, **options)
    w = states.params["w"]
    print(program.as_text())
    print(f"sharded over {len(w.sharding.device_set)} devices")
    shape = lambda x: str(x).replace(" ", "")  # noqa: E731
    print(f"state of w: {shape(w.addressable_shards[0].data.shape)} a device of {shape(w.shape)}")


if __name__ == "__main__":
    {"sweep": run_sweep, "program": show_program}[sys.argv[1]](*sys.argv[2:])
