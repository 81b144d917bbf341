"""Sweeps: one program, resumable at every block to the same bytes, and never two sweeps in one store.

Run as a script, `python test_sweeps.py STORE CHECKPOINTS`, this file is the process that the tests kill.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import xarray as xr

from sltjax import StoreError, behavioral_loss, sweep
from sltjax.checkpoints import CheckpointError, from_memory, from_orbax
from sltjax.development import stages
from sltjax.estimators import singular_fluctuation, waic
from sltjax.observables import losses as losses_of
from sltjax.report import write_report
from sltjax.results import open_results
from sltjax.samplers import LeimkuhlerMatthews
from sltjax.sampling import _advance, _start
from sltjax.sweeps import blocks

DATA = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
SHORT = {"num_chains": 2, "num_draws": 20, "burn_in": 10, "thin": 1, "block_size": 3}
SAMPLER = LeimkuhlerMatthews(0.01)


def loss(params, batch):
    return jnp.sum((params["w"] - batch) ** 2, axis=1) / 2


def other_loss(params, batch):
    return jnp.sum(jnp.abs(params["w"] - batch) ** 3, axis=1) / 2


other_loss.__qualname__ = "loss"


def apply(params, batch):
    return batch @ params["in"] @ params["out"]


def weights(step):
    return {"w": np.float32([0.01 * step, -0.5])}


def layers(step):
    rng = np.random.default_rng(step)
    return {"in": rng.normal(size=(3, 2)).astype(np.float32), "out": rng.normal(size=(2, 3)).astype(np.float32)}


def source(count=5):
    return from_memory({10 * i: weights(10 * i) for i in range(count)})


def run(store=None, checkpoints=None, loss=loss, data=DATA, seed=0, **changed):
    settings = {**SHORT, "sampler": SAMPLER, **changed}
    return sweep(jax.random.key(seed), loss, checkpoints or source(), data, store=store, **settings)


def contents(store):
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(Path(store).rglob("*")) if p.is_file()}


def units(store):
    return sorted((Path(store) / "units").glob("[0-9]*.npz"))


class Broken:
    """A source some of whose steps fail to load."""

    skipped = ()

    def __init__(self, inner, *steps):
        self.inner, self.broken = inner, steps
        self.name, self.steps = inner.name, inner.steps

    def load(self, step):
        if step in self.broken:
            raise CheckpointError(f"step {step}: zeros where weights were expected")
        return self.inner.load(step)


@pytest.fixture
def sampled(monkeypatch):
    """The steps of every block that is sampled."""
    seen = []
    original = blocks.sample_judged

    def counted(key, posterior, steps, *args, **kwargs):
        seen.append(tuple(map(int, steps)))
        return original(key, posterior, steps, *args, **kwargs)

    monkeypatch.setattr(blocks, "sample_judged", counted)
    return seen


# One program


@pytest.mark.parametrize("count", [3, 12])
def test_one_compilation_however_many_checkpoints(count):
    _start.clear_cache()
    _advance.clear_cache()
    run(checkpoints=source(count), block_size=5)  # the last block is not full
    assert (_start._cache_size(), _advance._cache_size()) == (1, 1)


def test_a_second_sweep_compiles_nothing_new():
    compiled = []
    listening = True

    def listen(event, duration, **kwargs):
        if listening and event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    run(checkpoints=source(3), block_size=5)
    assert compiled, "the listener hears nothing, so this test could not fail"
    compiled.clear()
    run(checkpoints=source(12), block_size=5)
    listening = False
    assert compiled == []


def test_block_size_changes_no_number():
    whole, cut = run(block_size=7), run(block_size=2)
    xr.testing.assert_allclose(whole, cut.assign_attrs(whole.attrs), rtol=1e-5)
    assert whole.step.values.tolist() == cut.step.values.tolist() == [0, 10, 20, 30, 40]  # no padding


@pytest.mark.parametrize("size", [0, -1])
def test_block_size_is_positive(size):
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        run(block_size=size)


def test_behavioral_sweep_of_a_deep_linear_network_calibrates_itself():
    data = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    checkpoints = from_memory({step: layers(step) for step in (1, 2)})
    found = run(None, checkpoints, behavioral_loss(apply), data, sampler=None)
    assert (found.status == "done").all()
    assert (found.acceptance > 0.5).all()
    assert (found.loss == 0).all()


# Resumption


def test_resuming_samples_nothing_twice(tmp_path, sampled):
    first = run(tmp_path)
    assert sampled == [(0, 10, 20), (30, 40, 30)]
    before = contents(tmp_path)
    again = run(tmp_path)
    assert len(sampled) == 2
    xr.testing.assert_identical(first, again)
    assert contents(tmp_path) == before


def test_resuming_samples_what_is_missing(tmp_path, sampled):
    first = run(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "units" / "000000000010.npz").unlink()
    files = {path: path.stat().st_ino for path in units(tmp_path)}
    sampled.clear()
    xr.testing.assert_identical(first, run(tmp_path))
    assert sampled == [(0, 10, 20)]
    assert contents(tmp_path) == before
    assert {path: path.stat().st_ino for path in files} == files  # the others were not written again


def test_checkpoints_added_later_are_added(tmp_path, sampled):
    run(tmp_path, source(4), block_size=2)
    before = {path: path.read_bytes() for path in units(tmp_path)}
    sampled.clear()
    grown = run(tmp_path, source(7), block_size=5)
    assert sampled == [(40, 50), (60, 60)]  # in the width that the store was begun with
    assert {path: path.read_bytes() for path in before} == before
    xr.testing.assert_identical(grown.drop_attrs(), run(checkpoints=source(7), block_size=2).drop_attrs())


def test_a_checkpoint_repaired_later_is_added(tmp_path):
    data = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    sound = from_memory({step: layers(step) for step in (1, 2, 3)})
    run(tmp_path, Broken(sound, 1), behavioral_loss(apply), data)  # the first, which the loss is described by
    repaired = run(tmp_path, sound, behavioral_loss(apply), data)
    xr.testing.assert_identical(repaired, run(None, sound, behavioral_loss(apply), data))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "flipped header"])
def test_a_damaged_unit_is_sampled_again(tmp_path, damage, sampled, capsys):
    """Trust 5: that unit, and no other."""
    first = run(tmp_path)
    before = contents(tmp_path)
    path = units(tmp_path)[1]
    content = bytearray(path.read_bytes())
    sampled.clear()
    match damage:
        case "truncated":
            del content[len(content) // 2 :]
        case "flipped":
            content[len(content) // 2] ^= 4
        case "flipped header":
            content[6] ^= 1  # "encrypted", to a reader of zips
        case "emptied":
            content.clear()
    path.write_bytes(content)
    xr.testing.assert_identical(first, run(tmp_path, progress=True))
    assert path.name in capsys.readouterr().err.replace("\n", "")
    assert sampled == [(0, 10, 20)]
    assert contents(tmp_path) == before


def test_disk_full_leaves_what_was_done(tmp_path, monkeypatch):
    """Trust 4: earlier units stay, and the run goes on once there is room."""
    done = 0
    replace = os.replace

    def full(old, new):
        nonlocal done
        done += 1
        if done > 3:  # the manifest and two units
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match=r"could not write [\d,]+ bytes: No space left") as error:
            run(tmp_path / "a")
    assert error.value.errno == errno.ENOSPC
    assert len(units(tmp_path / "a")) == 2
    assert not list((tmp_path / "a").rglob("*.tmp"))
    xr.testing.assert_identical(run(tmp_path / "a"), run(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# Memory


def full_beyond(width, monkeypatch):
    """A device that holds so many checkpoints at once; the widths that were tried."""
    tried = []
    original = blocks.sample_judged

    def limited(key, posteriors, steps, *args, **kwargs):
        tried.append(len(steps))
        if len(steps) > width:
            kwargs["on_chunk"](5)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
        return original(key, posteriors, steps, *args, **kwargs)

    monkeypatch.setattr(blocks, "sample_judged", limited)
    return tried


def test_a_block_that_does_not_fit_is_halved(tmp_path, monkeypatch, capsys):
    """Trust 16: by itself, logged, with the same random inputs."""
    whole = run(block_size=8, checkpoints=source(10))
    tried = full_beyond(3, monkeypatch)
    halved = run(tmp_path, block_size=8, checkpoints=source(10), progress=True)
    assert tried == [8, 4, 2, 2, 2, 2, 2]  # at once no wider than what fits, from then on
    assert "out of memory: sampling 2 checkpoints at once" in capsys.readouterr().err.replace("\n", "")
    xr.testing.assert_allclose(halved.load().drop_attrs(), whole.drop_attrs(), rtol=1e-5)


def test_where_not_even_one_fits_there_is_an_error_with_the_estimate(monkeypatch):
    """Trust 16."""
    full_beyond(0, monkeypatch)
    with pytest.raises(MemoryError, match=r"1 checkpoint × 2 chains .* take some 0 MiB.*lower num_chains"):
        run(block_size=2)


def test_other_errors_of_the_device_are_not_taken_for_memory(monkeypatch):
    def broken(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")

    monkeypatch.setattr(blocks, "sample_judged", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is gone"):
        run()


# Shards


def test_shards_meet_in_one_store(tmp_path):
    whole = run(tmp_path / "whole", source(10), block_size=2)
    first = run(tmp_path / "shards", source(10), block_size=2, shard=(0, 2))
    assert first.step.values.tolist() == [0, 10, 40, 50, 80, 90]
    second = run(tmp_path / "shards", source(10), block_size=2, shard=(1, 2))
    xr.testing.assert_identical(whole.load(), second.load())
    one, two = (contents(tmp_path / name) for name in ("whole", "shards"))
    assert {name: one[name] for name in one if "lock" not in name} == {
        name: two[name] for name in two if "lock" not in name
    }


def test_a_failure_in_one_shard_is_seen_in_the_other(tmp_path):
    run(tmp_path, Broken(source(6), 10), block_size=1, shard=(1, 2))
    found = run(tmp_path, Broken(source(6), 10), block_size=1, shard=(0, 2))
    assert found.status.values.tolist() == ["done", "failed", "done", "done", "done", "done"]


@pytest.mark.parametrize(
    ("shard", "said"), [((2, 2), "expected i/N with 0 ≤ i < N"), ((-1, 2), "expected i/N"), ((0, 0), "expected i/N")]
)
def test_shards_are_counted_from_nought(tmp_path, shard, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path, shard=shard)


def test_shards_need_a_store():
    with pytest.raises(ValueError, match="no store for the shards to meet in"):
        run(shard=(0, 2))


# Observables


def test_observables_of_ones_own_are_stored_and_are_part_of_the_sweep(tmp_path):
    observables = {"weights": lambda w, info: w["w"], "pull": lambda w, info: info.measured.pull["w"][0]}
    found = run(tmp_path, observables=observables)
    assert found.weights.dims == ("checkpoint", "chain", "draw", "weights_0")
    np.testing.assert_allclose(found.pull[2], found.weights[2, :, :, 0] - weights(20)["w"][0], rtol=1e-4, atol=1e-6)
    with pytest.raises(StoreError, match=r"observables\.pull: stored \w+, asked None"):
        run(tmp_path)


def test_recorded_losses_become_columns_with_errors(tmp_path):
    recorded = {"losses": losses_of(loss, DATA)}
    found = run(tmp_path, observables=recorded).load()
    n, nbeta = len(jax.tree.leaves(DATA)[0]), found.attrs["nbeta"]
    expected = [singular_fluctuation({"losses": drawn}, nbeta / n).value for drawn in found["losses"].values]
    np.testing.assert_allclose(found["singular_fluctuation"], expected)
    assert (found["singular_fluctuation_std_error"] > 0).all()
    assert found["singular_fluctuation"].attrs["role"] == "diagnostic"
    assert "waic" not in found
    whole = run(observables=recorded, nbeta=float(n))
    expected = [waic({"losses": drawn}).value for drawn in whole["losses"].values]
    np.testing.assert_allclose(whole["waic"], expected)
    text = write_report(found, stages(found), tmp_path / "report.html").read_text(encoding="utf-8")
    head = text[text.index('<table class="sortable">') :]
    assert ">ν̂<" in head[: head.index("</thead>")]
    assert head[: head.index("</tr>")].count("<th ") == head[head.index("<tbody>") :].split("</tr>")[0].count("<td")


def test_what_is_observed_is_bounded(sampled):
    with pytest.raises(ValueError, match="MiB a checkpoint, expected at most 256"):
        run(observables={"all": lambda w, info: jnp.zeros((1000, 2000))})
    assert not sampled


# Killed


def save_with_orbax(folder, count=8):
    with ocp.CheckpointManager(folder) as manager:
        for i in range(count):
            manager.save(10 * i, args=ocp.args.StandardSave({"params": jax.tree.map(jnp.asarray, weights(10 * i))}))
    return from_orbax(folder)


def start_victim(store, folder, pause, call="replace", after=0):
    """A run that pauses around a call to the system: after it, or before it once it has been called so many times.

    The latter leaves a file beside the store that says that it has come there.
    """
    command = [sys.executable, __file__, str(store), str(folder), str(pause), call, str(after)]
    compiled = {"JAX_COMPILATION_CACHE_DIR": f"{folder}-compiled", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | compiled  # fifty of them need not each compile the same
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended before it could be killed: {process.stderr.read().decode()[-2000:]}")
        assert time.monotonic() < end
        time.sleep(0.002)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_and_run_again_gives_the_same_bytes(tmp_path):
    """Trust 1."""
    checkpoints = save_with_orbax(tmp_path / "run")
    process = start_victim(tmp_path / "killed", tmp_path / "run", pause=0.2)
    wait_for(lambda: len(units(tmp_path / "killed")) >= 4, process)
    kill(process)
    assert 4 <= len(units(tmp_path / "killed")) < 8
    whole, resumed = run(tmp_path / "whole", checkpoints), run(tmp_path / "killed", checkpoints)
    xr.testing.assert_identical(whole, resumed)
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


@pytest.mark.parametrize(("call", "after"), [("fsync", 4), ("replace", 3)])
def test_killed_between_data_and_commit_counts_as_not_done(tmp_path, call, after):
    """Trust 3: what is written is flushed, put in its place, and then its folder flushed; the manifest comes first."""
    checkpoints = save_with_orbax(tmp_path / "run", 4)
    process = start_victim(tmp_path / "killed", tmp_path / "run", pause=60, call=call, after=after)
    wait_for((tmp_path / "killed.waits").exists, process)
    kill(process)
    assert len(list((tmp_path / "killed" / "units").glob(".*.tmp"))) == 1
    assert len(units(tmp_path / "killed")) < 4
    xr.testing.assert_identical(run(tmp_path / "whole", checkpoints), run(tmp_path / "killed", checkpoints))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_instants(tmp_path, seed):
    """Trust 1, fifty times in all."""
    checkpoints = save_with_orbax(tmp_path / "run")
    whole = run(tmp_path / "whole", checkpoints)
    rng = random.Random(seed)
    for trial in range(10):
        store = tmp_path / f"killed{trial}"
        process = start_victim(store, tmp_path / "run", pause=0.2)
        wait_for((store / "manifest.json").exists, process)
        time.sleep(rng.uniform(0, 1.8))
        kill(process)
        xr.testing.assert_identical(whole, run(store, checkpoints))
        assert contents(tmp_path / "whole") == contents(store)


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path):
    """Trust 6."""
    checkpoints = save_with_orbax(tmp_path / "run", 3)
    process = start_victim(tmp_path / "store", tmp_path / "run", pause=60)
    wait_for((tmp_path / "store" / "manifest.json").exists, process)
    try:
        with pytest.raises(StoreError, match="in use by another run"):
            run(tmp_path / "store", checkpoints)
    finally:
        kill(process)
    assert (run(tmp_path / "store", checkpoints).status == "done").all()


# Refusals


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"nbeta": 7.0}, r"definition\.nbeta: stored 15\.\d+, asked 7\.0"),
        ({"gamma": 2.0}, r"definition\.gamma: stored 1\.0, asked 2\.0"),
        ({"data": DATA + 1}, r"definition\.data\.digest: stored \w+, asked \w+"),
        ({"data": DATA[:32], "nbeta": 1.0}, r"definition\.data\.num_examples: stored 64, asked 32"),
        ({"loss": other_loss}, r"definition\.loss\.fingerprint: stored \w+, asked \w+"),
        ({"seed": 1}, r"key: stored \[0, 0\], asked \[0, 1\]"),
        ({"num_draws": 30}, r"numerics\.num_draws: stored 20, asked 30"),
        ({"sampler": LeimkuhlerMatthews(0.02)}, r"numerics\.sampler\.step_size: stored 0\.01, asked 0\.02"),
        ({"metrics": {"norm": lambda w, b: w["w"] @ w["w"]}}, r"metrics\.norm: stored None, asked \w+"),
    ],
)
def test_another_sweep_is_refused_with_the_difference(done, change, difference, sampled):
    """Trust 7."""
    before = contents(done)
    with pytest.raises(StoreError, match=difference):
        run(done, **change)
    assert contents(done) == before
    assert not sampled


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    store = tmp_path_factory.mktemp("done")
    run(store)
    return store


def test_changed_weights_of_a_done_step_are_refused(done):
    """Trust 7."""
    changed = from_memory({**source().params, 20: {"w": np.float32([9, 9])}})
    with pytest.raises(StoreError, match="weights of step 20 have changed"):
        run(done, changed)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\0"])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json.* is damaged"):
        run(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == content


@pytest.mark.parametrize("name", ["llc", "status", "chain", "a/b", ""])
def test_metrics_take_no_reserved_name(name, sampled):
    with pytest.raises(ValueError, match="metrics and observables cannot be named"):
        run(metrics={name: lambda w, b: w["w"]})
    assert not sampled


# Broken checkpoints


@pytest.mark.parametrize("step", [0, 10, 40])
def test_one_broken_checkpoint_fails_alone(step):
    sound, partial = run(), run(checkpoints=Broken(source(), step))
    others = sound.step != step
    xr.testing.assert_identical(sound.isel(checkpoint=others), partial.isel(checkpoint=others))
    (row,) = np.flatnonzero(~others)
    failed = partial.isel(checkpoint=row)
    assert failed.status == "failed"
    assert failed.verdict == f"step {step}: zeros where weights were expected"
    assert not failed.ok
    assert np.isnan(failed.llc)
    assert np.isnan(failed.delta_loss).all()


def test_nan_weights_fail_alone():
    """Trust 9."""
    params = {**source().params, 20: {"w": np.float32([np.nan, 1])}}
    found = run(checkpoints=from_memory(params))
    assert found.status.values.tolist() == ["done", "done", "failed", "done", "done"]
    assert "NaN or infinite in w" in str(found.verdict[2].item())
    whole = run()
    np.testing.assert_array_equal(found.delta_loss[[0, 1, 3, 4]], whole.delta_loss[[0, 1, 3, 4]])


def test_a_truncated_orbax_checkpoint_fails_alone(tmp_path):
    """Trust 8."""
    sound = run(checkpoints=save_with_orbax(tmp_path, 4))
    damaged = [p for p in (tmp_path / "20").rglob("*") if p.is_file() and "/d/" in str(p)]
    assert damaged
    for path in damaged:
        os.truncate(path, path.stat().st_size // 2)
    partial = run(checkpoints=from_orbax(tmp_path))
    assert partial.status.values.tolist() == ["done", "done", "failed", "done"]
    assert partial.verdict[2].item()
    others = [0, 1, 3]
    np.testing.assert_array_equal(partial.delta_loss[others], sound.delta_loss[others])
    np.testing.assert_array_equal(partial.llc[others], sound.llc[others])


def test_a_failed_checkpoint_is_tried_again(tmp_path, sampled):
    run(tmp_path, Broken(source(), 10))
    assert [path.stem for path in units(tmp_path)] == [f"{step:012d}" for step in (0, 20, 30, 40)]
    sampled.clear()
    assert (run(tmp_path).status == "done").all()
    assert sampled == [(0, 10, 20)]


def test_all_broken_is_an_error():
    with pytest.raises(CheckpointError, match="none of the 5 checkpoints can be used; the first: step 0: zeros"):
        run(checkpoints=Broken(source(), *source().steps))


# The Dataset that comes out


def test_dataset_of_a_sweep(tmp_path):
    metrics = {
        "loss": lambda w, batch: jnp.max(loss(w, batch)),
        "twice": lambda w, batch: 2 * w["w"],
        "half": lambda w, batch: (w["w"][0] / 2).astype(jnp.bfloat16),
    }
    found = run(tmp_path, Broken(source(), 10), metrics=metrics, title="a title")
    stored = open_results(tmp_path).load()
    xr.testing.assert_identical(found, stored)
    again = run(tmp_path, Broken(source(), 10), metrics=metrics, title="a title")
    xr.testing.assert_identical(found, again)
    assert found.twice.dims == ("checkpoint", "twice_0")
    sound = [0, 2, 3, 4]
    expected = np.stack([2 * weights(step)["w"] for step in found.step.values])
    np.testing.assert_array_equal(found.twice[sound], expected[sound])
    assert np.isnan(found.twice[1]).all()
    largest = [float(metrics["loss"](weights(step), DATA)) for step in found.step.values[sound]]
    np.testing.assert_allclose(found["loss"][sound], largest, rtol=1e-5)
    np.testing.assert_allclose(found.half[sound], expected[sound, 0] / 4, rtol=1e-2)
    assert {name for name in found if found[name].attrs.get("role") == "metric"} == set(metrics)
    assert found.attrs["title"] == "a title"


def test_anchor_loss_without_a_loss_metric():
    found = run()
    expected = [float(jnp.mean(loss(weights(step), DATA))) for step in found.step.values]
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    assert "role" not in found["loss"].attrs


if __name__ == "__main__":
    store, folder, pause, call, after = sys.argv[1:]
    original, calls = getattr(os, call), 0

    def slowly(*args):
        global calls
        calls += 1
        if int(after) and calls > int(after):
            Path(f"{store}.waits").touch()
            time.sleep(float(pause))
        original(*args)
        if not int(after):
            time.sleep(float(pause))

    setattr(os, call, slowly)
    run(store, from_orbax(folder))
