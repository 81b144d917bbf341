"""λ̂ beside the loss: the training is the same with and without, whatever happens to the monitor.

Run as a script, `python test_monitor.py ROLE`, this file is a process with devices of its own.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax import checkpoint as ocp

import sltjax
from sltjax.monitoring import Budget, SavePolicy, log_spaced
from sltjax.monitoring.steps import Due
from sltjax.monitoring.writers import writing
from sltjax.sweeps import blocks

SETTINGS = {"num_chains": 2, "num_draws": 20, "burn_in": 8, "thin": 2, "batch_size": 256}
DATA = jax.random.normal(jax.random.key(0), (256, 3))


def apply(params, batch):
    return jnp.tanh(batch @ params["w"]) @ params["v"]


def training_loss(params, data):
    return jnp.mean(jnp.square(apply(params, data) - jnp.sin(data[:, :2])))


LOSS = sltjax.behavioral_loss(apply)


def network(seed=0):
    one, two = jax.random.split(jax.random.key(seed))
    return {"w": jax.random.normal(one, (3, 4)), "v": jax.random.normal(two, (4, 2))}


@partial(jax.jit, donate_argnums=0)
def update(params):
    gradient = jax.grad(training_loss)(params, DATA)
    return jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)


def train(monitor=lambda step, params: None, steps=range(9), params=None):
    """The last parameters, and what the monitor returned; every step takes the buffers of the one before."""
    params, found = network() if params is None else params, []
    for step in steps:
        params = update(params)
        found.append(monitor(step, params))
    return jax.tree.map(np.array, params), found


def watch(loss=LOSS, **options):
    return sltjax.Monitor(loss, DATA, **{"every": 4, "settings": SETTINGS, "budget": None, "strict": True} | options)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def plain():
    """What training leaves without a monitor."""
    return train()[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training with a store: its folder, last parameters, and what the monitor returned."""
    folder = tmp_path_factory.mktemp("run") / "results"
    key, compiled, counts = jax.random.key(5), [], []
    listener = lambda event, seconds, **rest: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    with watch(store=folder, metrics={"loss": training_loss}, key=key) as monitor:

        def counted(step, params):
            before = len(compiled)
            scalars = monitor(step, params)
            counts.append(sum("backend_compile" in event for event in compiled[before:]))
            return scalars

        params, found = train(counted)
    assert counts[0] > 5  # one compilation for the whole training
    assert sum(counts[1:]) == 0
    assert int(jax.random.key_data(key)[1]) == 5  # trust 18: the key is there, and is what it was
    return folder, params, found


def test_training_goes_on_as_without_and_numbers_come_beside_it(run, plain):
    """Trust 18."""
    _, params, found = run
    assert_same(params, plain)
    assert [step for step, scalars in enumerate(found) if scalars] == [0, 4, 8]
    for step in (0, 4, 8):
        assert found[step]["step"] == step
        assert 0 < found[step]["llc_std_error"] < found[step]["llc"]
        assert 0 < found[step]["overhead"] < 1
        assert found[step]["loss"] < 3
        assert found[step]["ok"] == 0  # 20 draws are few


def test_what_it_finds_is_what_a_sweep_finds(run):
    folder, _, found = run
    kept = {}
    train(lambda step, params: kept.update({step: jax.tree.map(np.array, params)}) if step % 4 == 0 else None)
    settings = SETTINGS | {"metrics": {"loss": training_loss}, "block_size": 1}
    with jax.default_device(jax.devices()[0]):  # as in the monitor, so that its programs serve
        swept = sltjax.sweep(jax.random.key(5), LOSS, sltjax.checkpoints.from_memory(kept), DATA, **settings)
    np.testing.assert_array_equal(swept.llc, [found[step]["llc"] for step in (0, 4, 8)])
    stored = sltjax.open_results(folder).load()
    np.testing.assert_array_equal(stored.delta_loss, swept.delta_loss)


def test_a_report_is_made_of_its_store(run):
    from typer.testing import CliRunner

    from sltjax.cli import app

    folder = run[0]
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert "a training, as it went on" in (folder / "report.html").read_text()


def test_a_training_started_again_goes_on_in_the_store(run, monkeypatch):
    folder, params, found = run
    sampled = []
    original = blocks.Job._sample_at_once
    monkeypatch.setattr(blocks.Job, "_sample_at_once", lambda self, *a: (sampled.append(1), original(self, *a))[1])
    units = {path.name: path.read_bytes() for path in (folder / "units").iterdir()}
    with watch(store=folder, metrics={"loss": training_loss}, key=jax.random.key(5)) as monitor:
        again = train(monitor)[1]
        assert not sampled
        assert [scalars["llc"] for scalars in again if scalars] == [scalars["llc"] for scalars in found if scalars]
        train(monitor, range(9, 13), jax.tree.map(jnp.asarray, params))
        assert sampled == [1]
        assert monitor.dataset().step.values.tolist() == [0, 4, 8, 12]
        assert len(monitor.stages()) == 0
    assert units.items() <= {path.name: path.read_bytes() for path in (folder / "units").iterdir()}.items()


def test_a_step_that_comes_again_with_other_weights_is_kept_as_it_was(run, caplog):
    folder, _, found = run
    with watch(store=folder, metrics={"loss": training_loss}, key=jax.random.key(5), strict=False) as monitor:
        monitor(4, network(3))
        assert "weights of step 4 have changed" in caplog.text
        assert monitor.found[4]["llc"] == found[4]["llc"]


def test_two_trainings_on_one_store_are_refused(run):
    with watch(store=run[0]), pytest.raises(sltjax.StoreError, match="in use"):
        watch(store=run[0])


def test_a_store_of_another_definition_turns_the_monitor_off(run, plain, caplog):
    settings = SETTINGS | {"gamma": 7.0}
    with watch(store=run[0], settings=settings, strict=False) as monitor:
        params, found = train(monitor)
    assert_same(params, plain)
    assert not any(found)
    assert caplog.text.count("definition.gamma: stored 1.0, asked 7.0") == 2  # once as it is told, once for the step
    assert caplog.text.count("off for the rest") == 1


def test_beside_the_training_it_copies_before_buffers_are_donated(run, plain):
    """Asynchronous on the one device here: the same numbers, one call late; trust 18."""
    found = {}
    with watch(device=jax.devices()[0], metrics={"loss": training_loss}, key=jax.random.key(5), every=1) as monitor:

        def call(step, params):
            scalars = monitor(step, params)
            if scalars:
                found[int(scalars["step"])] = scalars["llc"]
            if step in (0, 4):  # the next step takes the buffers at once, and then the training has time
                return
            monitor._underway and monitor._underway.future.exception()

        params, _ = train(call)
    assert_same(params, plain)
    for step in set(found) & {0, 4, 8}:
        np.testing.assert_allclose(found[step], run[2][step]["llc"], rtol=1e-5)
    assert 4 in found or 0 in found
    assert monitor.budget.spent > 0


def test_an_exception_is_logged_and_the_training_goes_on(monkeypatch, plain, caplog):
    """Trust 18."""

    def fail(*args):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(blocks.Job, "_sample_at_once", fail)
    params, found = train(watch(strict=False))
    assert_same(params, plain)
    assert not any(found)
    assert caplog.text.count("RuntimeError: no such luck") == 3
    with pytest.raises(RuntimeError, match="no such luck"):
        train(watch(strict=True))


def test_weights_that_are_not_finite_are_no_number(tmp_path, caplog):
    monitor = watch(strict=False, store=tmp_path)
    monitor(0, network())
    assert monitor(4, network() | {"w": jnp.full((3, 4), jnp.nan)}) is None
    assert "not finite" in caplog.text
    assert monitor.dataset().status.values.tolist() == ["done", "failed"]
    monitor.close()
    assert sltjax.open_results(tmp_path).status.values.tolist() == ["done", "failed"]


def test_what_can_never_work_is_said_once(caplog):
    monitor = watch(loss=lambda params, batch: jnp.mean(batch @ params["w"]), strict=False)
    train(monitor)
    assert caplog.text.count("one loss an example") == 2
    assert caplog.text.count("off for the rest") == 1


def test_within_jit_it_says_what_to_use_there(caplog):
    monitor = watch(strict=False)
    jax.jit(lambda params: monitor(0, params))(network())
    assert "llc_fn" in caplog.text


def test_within_jit_a_traced_step_is_told_the_same():
    with watch() as monitor, pytest.raises(TypeError, match=r"called within jit; call it between steps, or use"):
        jax.jit(lambda step: monitor(step, network()))(1)


def test_ctrl_c_ends_training_and_chains(monkeypatch):
    """It reaches the training, which waits; the chains end at their next visit to the host."""
    told = []

    def advance(self, chain_steps):
        told.append(chain_steps)
        if len(told) == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            interrupted.wait(10)
        original(self, chain_steps)

    interrupted, visit = threading.Event(), sys.modules["sltjax.monitoring.monitor"]._Visit
    original = visit.advance
    monkeypatch.setattr(visit, "advance", advance)
    monitor = watch()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts with & ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            monitor(0, network())
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted.set()
    monitor.close()
    assert len(told) == 1
    assert not monitor.found


# Settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": None}, "expected one of them"),
        ({"at": [1, 2]}, "expected one of them"),
        ({"every": 0}, "at least 1"),
        ({"every": None, "at": [3, 2]}, "ascending"),
        ({"settings": {"num_draw": 3}}, "num_draw"),
        ({"budget": 1.5}, "between 0 and 1"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_training(options, said):
    with pytest.raises(ValueError, match=said):
        watch(**options)


def test_a_writer_that_cannot_write_is_refused():
    with pytest.raises(TypeError, match="write_scalars"):
        watch(writer=object())


def test_steps_are_due_on_their_grid():
    due = Due(10, None)
    assert [step for step in range(0, 45, 3) if due(step)] == [0, 12, 21, 30, 42]
    assert not due(5)  # gone back, and no step of the grid
    due = Due(None, log_spaced(100, 8))
    assert log_spaced(100, 8) == (0, 1, 2, 5, 10, 22, 46, 100)
    assert [step for step in range(200) if due(step)] == list(log_spaced(100, 8))
    assert not Due(10, None)(13)


def test_the_budget_stretches_the_interval():
    """A training of 1 s a step, a monitor of 40 s, then 2 s: at most 5 % at every step once the first is paid for."""
    now = [0.0]
    budget, taken = Budget(0.05, clock=lambda: now[0]), []
    for step in range(5000):
        budget.start()
        now[0] += 1.0
        if budget.affords():
            with budget.charged():
                now[0] += 2.0 if taken else 40.0
            taken.append(step)
            assert len(taken) == 1 or budget.overhead <= 0.05
    assert (taken[0], budget.first) == (0, 40.0)
    gaps = np.diff(taken)
    assert 1500 < gaps[0] < 1600  # 40 s, and 40 again for all that is known
    assert set(gaps[-10:]) == {38}
    assert budget.overhead == pytest.approx(0.05, rel=0.02)


def test_what_is_not_afforded_is_left_out_and_counted(plain):
    clock = iter(range(10**6))
    monitor = watch(budget=Budget(0.01, clock=lambda: float(next(clock))), every=1)
    params, found = train(monitor)
    assert sum(scalars is not None for scalars in found) == 1
    assert monitor.budget.skipped == 8
    assert_same(params, plain)


def test_weights_that_are_not_trained_go_along():
    """Statistics that change in training: part of the anchor, and no chain moves them."""

    def scaled(params, batch):
        return apply(params["params"], batch) * params["scale"]

    def select(tree):
        return tree["params"]

    loss, found = sltjax.behavioral_loss(scaled), []
    for scale in (1.0, 0.1):
        monitor = watch(loss=loss, settings=SETTINGS | {"select": select})
        found.append(monitor(0, {"params": network(), "scale": jnp.float32(scale)})["llc"])
    alone = watch(loss=sltjax.behavioral_loss(apply))(0, network())["llc"]
    assert found[0] == pytest.approx(alone, rel=1e-4)
    assert abs(found[1] - alone) > 0.1


# Writers


class Scalars:
    def __init__(self):
        self.written = []

    def write_scalars(self, step, scalars):
        self.written.append((step, scalars))


def test_any_object_that_writes_scalars_is_a_writer():
    first, second = Scalars(), Scalars()
    train(watch(writer=[first, second], prefix="llc/"))
    assert [step for step, _ in first.written] == [0, 4, 8]
    assert {"llc/llc", "llc/llc_std_error", "llc/rhat", "llc/overhead"} <= set(first.written[0][1])
    assert first.written == second.written


def test_a_writer_that_fails_costs_no_number(caplog):
    class Full(Scalars):
        def write_scalars(self, step, scalars):
            raise OSError("no room")

    found = train(watch(writer=Full(), strict=False))[1]
    assert sum(scalars is not None for scalars in found) == 3
    assert "no room" in caplog.text


def test_tensorboard_files_hold_what_was_found(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        found = train(watch(writer=writer))[1]
    events = EventAccumulator(str(tmp_path)).Reload()
    read = events.Scalars("slt/llc")
    assert [event.step for event in read] == [0, 4, 8]
    np.testing.assert_allclose([event.value for event in read], [found[step]["llc"] for step in (0, 4, 8)], rtol=1e-6)


def test_weights_and_biases_keeps_what_comes_late(tmp_path, monkeypatch):
    """Offline. It drops what is logged for a step behind its own: rows go to the step of now and say whose they are."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="test", dir=tmp_path, mode="offline") as run:
        write = writing(run, "slt/")
        for step in range(5):
            run.log({"loss": 1.0 / (1 + step)}, step=step)
            if step == 3:
                write(0, 3, {"llc": 12.5})
                run.log({"late": 1.0}, step=0)
        kept = dict(run.summary)
    assert "late" not in kept
    assert (kept["slt/llc"], kept["slt/step"], kept["loss"], kept["_step"]) == (12.5, 0, 0.25, 3)


# Orbax


def test_checkpoints_are_dense_where_the_coefficient_moves(tmp_path):
    """A staircase: two levels, and a rise of 200 steps between."""
    found, kept = {}, []
    policy = SavePolicy(found, longest=400, shortest=20)
    options = ocp.CheckpointManagerOptions(save_decision_policy=policy)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        for step in range(0, 2001, 10):
            height = 10.0 + 10.0 * np.clip((step - 1000) / 200, 0, 1)
            found[step] = {"llc": float(height + 0.05 * np.sin(step)), "llc_std_error": 0.1}
            if manager.save(step, args=ocp.args.StandardSave({"w": np.zeros(2)})):
                kept.append(step)
        assert list(manager.all_steps()) == kept
    before, rise, after = (
        [s for s in kept if low < s <= high] for low, high in [(-1, 1000), (1000, 1210), (1210, 2000)]
    )
    assert before == [0, 400, 800]
    assert 8 <= len(rise) <= 11
    assert len(after) <= 3


def test_noise_saves_nothing_and_preemption_does():
    found = {0: {"llc": 10.0, "llc_std_error": 1.0}, 50: {"llc": 12.0, "llc_std_error": 1.0}}
    policy, at = SavePolicy(found, longest=100), lambda step: type("Step", (), {"step": step})
    calm, ending = (type("Context", (), {"reached_preemption": ends}) for ends in (False, True))
    assert policy.should_save(at(0), [], context=calm)
    assert not policy.should_save(at(60), [at(0)], context=calm)
    assert policy.should_save(at(60), [at(0)], context=ending)
    assert policy.should_save(at(100), [at(0)], context=calm)
    found[70] = {"llc": 30.0, "llc_std_error": 1.0}
    assert policy.should_save(at(80), [at(0)], context=calm)
    with pytest.raises(ValueError, match="shortest"):
        SavePolicy(found, longest=5, shortest=9)


def test_a_monitor_makes_the_policy_of_its_own_numbers():
    monitor = watch()
    policy = monitor.saves(longest=100)
    train(monitor)
    assert policy.found.keys() == {0, 4, 8}


# Several devices


def start(role):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__, role], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_sharded_parameters_are_sampled_as_they_lie_and_a_second_device_works_beside():
    said = start("devices")
    assert said["lanes"] == {"chain": 4, "model": 2}
    assert said["part of w"] == [1, 1, 3, 2]  # of [checkpoint, chain, 3, 4]
    assert said["same weights"] == [True, True, True]
    np.testing.assert_allclose(said["sharded"], said["beside"], rtol=1e-4)
    np.testing.assert_allclose(said["replicated"], said["beside"], rtol=1e-4)
    assert len(said["beside"]) == 3
    assert said["where"] == [7]


def show_devices():
    """A Flax NNX network on a mesh data 4 × model 2, whole on every device, and with the last device for chains."""
    from flax import nnx
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from sltjax import sampling

    class Network(nnx.Module):
        def __init__(self):
            params = network()
            self.w, self.v = nnx.Param(params["w"]), nnx.Param(params["v"])

        def __call__(self, x):
            return jnp.tanh(x @ self.w[...]) @ self.v[...]

    auto = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    explicit = jax.make_mesh((4, 2), ("data", "model"))
    split = {"w": PartitionSpec(None, "model"), "v": PartitionSpec("model")}
    seen = []
    original = sampling.Chains.run

    def spied(chains, schedule, *_):
        def look(states):
            w = states.params["w"][...]
            seen.append((w.addressable_shards[0].data.shape, {d.id for d in w.devices()}, chains.mesh))

        return original(chains, schedule, on_draws=look)

    sampling.Chains.run = spied
    settings = SETTINGS | {"num_chains": 4, "sampler": sltjax.SGLD(1e-3)}

    def run(specs, mesh=None, device=None, is_watched=True):
        model = Network()
        if specs is not None:
            place = lambda name, w: jax.device_put(w, NamedSharding(mesh, specs[name]))  # noqa: E731
            nnx.update(model, {name: place(name, w) for name, w in network().items()})
        _, forward = sltjax.from_nnx(Network(), lambda model, batch: model(batch))

        @nnx.jit
        def update(model):
            gradient = nnx.grad(lambda m: jnp.mean(jnp.square(m(DATA) - 1.0)))(model)
            nnx.update(model, jax.tree.map(lambda w, g: w - 0.1 * g, nnx.state(model, nnx.Param), gradient))

        monitor = sltjax.Monitor(
            sltjax.behavioral_loss(forward),
            np.asarray(DATA),
            every=2,
            settings=settings,
            budget=None,
            device=device,
            strict=True,
        )
        for step in range(5):
            update(model)
            if is_watched:
                monitor(step, nnx.state(model, nnx.Param))
            if device is not None and step < 4:
                monitor._underway and monitor._underway.future.exception()
        monitor.close()
        return {step: s["llc"] for step, s in monitor.found.items()}, jax.tree.map(
            np.array, nnx.state(model, nnx.Param)
        )

    everywhere = dict.fromkeys(split, PartitionSpec())
    sharded, sharded_weights = run(split, auto)
    part, _, lanes = seen[0]
    replicated, replicated_weights = run(everywhere, explicit)
    seen.clear()
    beside, beside_weights = run(None, device=jax.devices()[7])
    pairs = [(split, auto, sharded_weights), (everywhere, explicit, replicated_weights), (None, None, beside_weights)]
    same = [
        all(jax.tree.leaves(jax.tree.map(np.array_equal, left, run(specs, mesh, is_watched=False)[1])))
        for specs, mesh, left in pairs
    ]
    values = lambda found: [found[step] for step in sorted(found)]  # noqa: E731
    print(
        json.dumps(
            {
                "lanes": {"chain": lanes.shape["chain"], "model": lanes.shape["model"]},
                "part of w": list(part),
                "same weights": same,
                "sharded": values(sharded),
                "replicated": values(replicated),
                "beside": values(beside),
                "where": sorted(seen[0][1]),
            }
        )
    )


if __name__ == "__main__":
    {"devices": show_devices}[sys.argv[1]]()
