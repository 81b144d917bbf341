import os
import shutil
import threading
import time
import warnings
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from orbax.checkpoint import v1

from sltjax.checkpoints import CheckpointError, Source, digest, from_memory, from_orbax, read_ahead
from sltjax.checkpoints.leaves import flatten, match, nest
from sltjax.checkpoints.source import MismatchError, require_finite

HTML = b"<!DOCTYPE html><html><body>404</body></html>"


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense": {"kernel": jnp.asarray(rng.normal(size=(70, 5)), jnp.float32), "bias": jnp.ones(5, jnp.bfloat16)},
        "layers": [{"w": jnp.asarray(rng.normal(size=3), jnp.float32)}, {"w": jnp.zeros(2)}],
    }


def make_state(seed=0):
    params = make_params(seed)
    return {"params": params, "opt_state": optax.adam(1e-3).init(params), "step": seed, "note": None}


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        assert a.tobytes() == np.asarray(b).tobytes()


def managed(root, args_of, steps=(2, 10, 100), **options):
    with ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**options)) as manager:
        for step in steps:
            manager.save(step, args=args_of(step))


def bare(root, names, tree_of, **options):
    for name in names:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(root / name, args=ocp.args.PyTreeSave(tree_of(name)))


def listing(root):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(Path(root).rglob("*"))}


# Layouts


def single_params(root):
    managed(root, lambda s: ocp.args.StandardSave(make_params(s)))


def single_state(root):
    managed(root, lambda s: ocp.args.PyTreeSave(make_state(s)))


def composite(root):
    managed(
        root,
        lambda s: ocp.args.Composite(state=ocp.args.StandardSave(make_state(s)), meta=ocp.args.JsonSave({"seed": s})),
    )


def composite_items(root):
    managed(
        root,
        lambda s: ocp.args.Composite(
            model=ocp.args.StandardSave(make_params(s)),
            optimizer=ocp.args.StandardSave(make_state(s)["opt_state"]),
        ),
    )


def prefixed(root):
    managed(
        root,
        lambda s: ocp.args.StandardSave(make_state(s)),
        step_prefix="run",
        step_format_fixed_length=6,
    )


def standard_checkpointer(root):
    for step in (2, 10, 100):
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(root / f"step_{step}", make_state(step))


def zarr(root):
    names = ("checkpoint_2", "checkpoint_10", "checkpoint_100")
    bare(root, names, lambda n: make_state(int(n.split("_")[1])), use_ocdbt=False)


def zarr3(root):
    bare(root, ("ckpt-2", "ckpt-10", "ckpt-100"), lambda n: make_state(int(n.split("-")[1])), use_zarr3=True)


def v1_save(root):
    for step in (2, 10, 100):
        v1.save(root / str(step), make_state(step))


def v1_training(root):
    with v1.training.Checkpointer(root) as checkpointer:
        for step in (2, 10, 100):
            checkpointer.save(step, make_state(step))


def linen_train_state(root):
    def state(step):
        return TrainState.create(apply_fn=None, params=make_params(step), tx=optax.adam(1e-3))

    managed(root, lambda s: ocp.args.StandardSave(state(s)))


LAYOUTS = [
    (single_params, ""),
    (single_state, "params"),
    (single_state, "default/params"),
    (composite, "params"),
    (composite, "state/params"),
    (composite_items, "model"),
    (prefixed, "params"),
    (standard_checkpointer, "params"),
    (zarr, "params"),
    (zarr3, "params"),
    (v1_save, "params"),
    (v1_save, "state/params"),
    (v1_training, "params"),
    (linen_train_state, "params"),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Each layout is written once."""
    written = {}

    def get(layout):
        if layout not in written:
            written[layout] = tmp_path_factory.mktemp(layout.__name__)
            layout(written[layout])
        return written[layout]

    return get


@pytest.mark.parametrize(("layout", "select"), LAYOUTS)
def test_layout_is_read_bit_for_bit_and_left_alone(stored, layout, select):
    root = stored(layout)
    before = listing(root)
    source = from_orbax(root, select=select)
    assert isinstance(source, Source)
    assert source.steps == (2, 10, 100)
    assert source.skipped == ()
    for step in source.steps:
        assert_same(source.load(step), make_params(step))
    assert_same(from_orbax(str(root), select=select, like=make_params()).load(10), make_params(10))
    assert listing(root) == before


def test_one_checkpoint_is_one_step(stored):
    source = from_orbax(stored(zarr) / "checkpoint_10")
    assert source.steps == (10,)
    assert_same(source.load(10), make_params(10))
    assert from_orbax(stored(single_state) / "100").steps == (100,)
    assert from_orbax(stored(single_state) / "100" / "default").steps == (0,)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)


class Net(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.blocks = nnx.List([Block(rngs) for _ in range(11)])
        self.out = nnx.Linear(2, 1, rngs=rngs)


@pytest.mark.parametrize("pure", [False, True])
def test_nnx_state(tmp_path, pure):
    graphdef, params, rest = nnx.split(Net(1), nnx.Param, ...)
    stored = nnx.to_pure_dict(nnx.state(Net(1), nnx.Param)) if pure else nnx.state(Net(1), nnx.Param)
    managed(tmp_path, lambda s: ocp.args.StandardSave(stored), steps=(3,))
    got = from_orbax(tmp_path, select="", like=nnx.state(Net(2), nnx.Param)).load(3)
    assert_same(got, params)
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(nnx.merge(graphdef, got, rest).out(x), nnx.merge(graphdef, params, rest).out(x))
    pure_template = nnx.to_pure_dict(nnx.state(Net(2), nnx.Param))
    assert digest(from_orbax(tmp_path, select="", like=pure_template).load(3)) == digest(nnx.to_pure_dict(params))


def test_linen_variables(tmp_path):
    model = nn.Dense(3)
    variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
    bare(tmp_path, ("100",), lambda _: variables)
    assert_same(from_orbax(tmp_path, select="", like=variables).load(100), variables)
    assert_same(from_orbax(tmp_path).load(100), variables["params"])


def test_tuple_template(tmp_path):
    tree = {"a": (jnp.ones(2), [jnp.zeros(3)])}
    bare(tmp_path, ("1",), lambda _: tree)
    assert_same(from_orbax(tmp_path, select="", like=tree).load(1), tree)
    assert_same(from_orbax(tmp_path, select="a/0").load(1), jnp.ones(2))


def test_optimizer_state_is_not_read(stored, tmp_path):
    root = shutil.copytree(stored(zarr), tmp_path / "run")
    for folder in root.glob("*/opt_state*"):
        shutil.rmtree(folder)
    assert_same(from_orbax(root).load(10), make_params(10))


def test_select_that_is_not_there_lists_what_is(stored):
    with pytest.raises(MismatchError, match=r"select='weights'.*params \(params/dense/bias \(5,\)"):
        from_orbax(stored(standard_checkpointer), select="weights")
    with pytest.raises(ValueError, match=r"model/dense .*optimizer/0 "):
        from_orbax(stored(composite_items))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["layers"].pop(), r"unexpected layers/1/w \(got shape \(2,\)\)"),
        (lambda p: p["dense"].update(scale=np.ones(3)), r"missing dense/scale \(expected shape \(3,\)\)"),
        (
            lambda p: p["dense"].update(kernel=np.ones((5, 70))),
            r"mis-shaped dense/kernel \(got \(70, 5\), expected \(5, 70\)\)",
        ),
    ],
)
def test_template_that_does_not_fit(stored, change, message):
    like = make_params()
    change(like)
    with pytest.raises(CheckpointError, match=message):
        from_orbax(stored(zarr), like=like)


def test_checkpoint_unlike_the_others_fails_alone(tmp_path):
    other = make_state(3)
    del other["params"]["dense"]["kernel"]
    bare(tmp_path, ("1", "2", "3"), lambda n: other if n == "2" else make_state(int(n)))
    source = from_orbax(tmp_path)
    with pytest.raises(CheckpointError, match=r"step 2: .*missing dense/kernel"):
        source.load(2)
    assert_same(source.load(3), make_params(3))


# Faults


def largest(folder):
    return max((p for p in folder.rglob("d/*")), key=lambda p: p.stat().st_size)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def html(file):
    file.write_bytes(HTML)


def lfs(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def flip(file):
    data = bytearray(file.read_bytes())
    data[20:40] = bytes(255 - b for b in data[20:40])
    file.write_bytes(data)


FAULTS = [
    (single_state, "10/default", "largest", truncate, "OUT_OF_RANGE"),
    (single_state, "10/default", "largest", empty, "is empty"),
    (single_state, "10/default", "largest", html, "HTML"),
    (single_state, "10/default", "manifest.ocdbt", Path.unlink, r"manifest\.ocdbt is missing"),
    (single_state, "10/default", "manifest.ocdbt", truncate, "DATA_LOSS"),
    (single_state, "10/default", "manifest.ocdbt", flip, "manifest"),
    (single_state, "10/default", "manifest.ocdbt", html, "HTML"),
    (single_state, "10/default", "_METADATA", truncate, "JSONDecodeError"),
    (single_state, "10/default", "_METADATA", lfs, "git-LFS pointer"),
    (zarr, "checkpoint_10", "params.dense.kernel/0.0", truncate, "step 10 cannot be read"),
    (zarr, "checkpoint_10", "params.dense.kernel/0.0", Path.unlink, "step 10 cannot be read"),
    (zarr, "checkpoint_10", "params.dense.kernel/.zarray", html, "HTML"),
    (zarr3, "ckpt-10", "largest", truncate, "step 10 cannot be read"),
    (v1_training, "10/state", "largest", html, "HTML"),
]


@pytest.mark.parametrize(("layout", "folder", "file", "damage", "reason"), FAULTS)
def test_damaged_checkpoint_fails_alone(stored, tmp_path, capfd, layout, folder, file, damage, reason):
    root = shutil.copytree(stored(layout), tmp_path / "run")
    damage(largest(root / folder) if file == "largest" else root / folder / file)
    source = from_orbax(root)
    assert source.steps == (2, 10, 100)
    results = dict(read_ahead(source, source.steps))
    assert isinstance(results[10], CheckpointError)
    assert reason.replace("\\", "") in str(results[10])
    assert "\n" not in str(results[10])
    assert_same(results[2], make_params(2))
    assert_same(results[100], make_params(100))
    assert capfd.readouterr() == ("", "")


def test_all_damaged_is_reported_at_load(stored, tmp_path):
    root = shutil.copytree(stored(zarr), tmp_path / "run")
    for table in root.glob("*/_METADATA"):
        html(table)
    source = from_orbax(root)
    assert all(isinstance(result, CheckpointError) for _, result in read_ahead(source, source.steps))


def test_item_that_lost_its_table_is_not_replaced_by_another(tmp_path):
    managed(
        tmp_path,
        lambda s: ocp.args.Composite(
            state=ocp.args.StandardSave(make_state(s)), ema=ocp.args.StandardSave(make_state(s + 1))
        ),
        steps=(1, 2),
    )
    with pytest.raises(MismatchError, match="several items"):
        from_orbax(tmp_path)
    (tmp_path / "1" / "state" / "_METADATA").unlink()
    source = from_orbax(tmp_path, select="state/params")
    with pytest.raises(CheckpointError, match="step 1 cannot be read"):
        source.load(1)
    assert_same(source.load(2), make_params(2))


def test_unfinished_checkpoints_are_skipped(stored, tmp_path):
    root = shutil.copytree(stored(single_state), tmp_path / "run")
    shutil.copytree(root / "2", root / "11.orbax-checkpoint-tmp-1700")
    shutil.copytree(root / "2", root / "12")
    (root / "12" / "default" / "_METADATA").unlink()
    shutil.copytree(root / "2", root / "13")
    (root / "13" / "commit_success.txt").unlink()
    (root / "14").mkdir()
    (root / "15").write_bytes(HTML)
    shutil.copytree(root / "2", root / "best")
    source = from_orbax(root)
    assert source.steps == (2, 10, 100)
    reasons = {s.name: s.reason for s in source.skipped}
    assert set(reasons) == {"11.orbax-checkpoint-tmp-1700", "12", "13", "14", "15", "best"}
    assert "never finished" in reasons["11.orbax-checkpoint-tmp-1700"]
    assert "_METADATA" in reasons["12"]
    assert "commit_success.txt" in reasons["13"]
    assert "empty" in reasons["14"]
    assert "file" in reasons["15"]
    assert "step number" in reasons["best"]


def test_same_step_twice(stored, tmp_path):
    root = shutil.copytree(stored(single_state), tmp_path / "run")
    shutil.copytree(root / "10", root / "step_10")
    source = from_orbax(root)
    assert source.steps == (2, 10, 100)
    assert [s.name for s in source.skipped] == ["step_10"]
    shutil.copytree(root / "2", root / "step_100")
    with pytest.raises(ValueError, match=r"step 100 more than once.*100, step_100"):
        from_orbax(root)


def test_folders_without_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        from_orbax(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no finished checkpoint"):
        from_orbax(tmp_path)
    (tmp_path / "100").mkdir()
    with pytest.raises(ValueError, match="100: it is an empty folder"):
        from_orbax(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        from_orbax(tmp_path / "file")


def test_nan_weights_are_refused_by_name(tmp_path):
    state = make_state(1)
    state["params"]["dense"]["bias"] = jnp.full(5, jnp.nan, jnp.bfloat16).at[0].set(1)
    bare(tmp_path, ("1",), lambda _: state)
    with pytest.raises(CheckpointError, match=r"step 1: .*dense/bias \(4 of 5\)"):
        from_orbax(tmp_path).load(1)
    with pytest.raises(CheckpointError, match=r"w \(1 of 2\)"):
        require_finite({"w": np.array([1, np.inf]), "n": np.arange(3)})


def test_unknown_step(stored):
    with pytest.raises(ValueError, match="got step 3"):
        from_orbax(stored(zarr)).load(3)


# Memory, reading ahead, trees


def test_memory():
    params = {step: {"w": np.full(3, step, np.float32)} for step in (100, 2, 10)}
    source = from_memory(params)
    assert isinstance(source, Source)
    assert source.steps == (2, 10, 100)
    assert_same(source.load(10), params[10])
    params[10]["w"][:] = 0
    assert source.load(10)["w"][0] == 10
    assert from_memory([(np.int64(4), {"w": jnp.ones(2)})]).steps == (4,)
    assert_same(from_memory([(1, nnx.state(Net(0)))]).load(1), nnx.state(Net(0)))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no checkpoints"),
        ([(1, {"w": 1.0}), (1, {"w": 2.0})], r"step \[1\]"),
        ([(1.5, {"w": 1.0})], "whole number"),
    ],
)
def test_memory_refuses(pairs, message):
    with pytest.raises(ValueError, match=message):
        from_memory(pairs)


def test_memory_checks_at_load():
    source = from_memory([(1, {"w": np.ones(2)}), (2, {"w": np.array([1, np.nan])}), (3, {"v": np.ones(2)})])
    results = dict(read_ahead(source, (3, 2, 1)))
    assert list(results) == [3, 2, 1]
    assert "missing w" in str(results[3])
    assert "w (1 of 2)" in str(results[2])
    np.testing.assert_array_equal(results[1]["w"], 1)


class Counting:
    name, skipped = "counting", ()
    steps = tuple(range(20))

    def __init__(self):
        self.loaded = []

    def load(self, step):
        self.loaded.append(step)
        if step == 7:
            raise OSError("disk on fire")
        return {"w": np.full(1, step)}


def test_read_ahead_is_bounded_and_stops():
    source, threads = Counting(), threading.active_count()
    ahead = read_ahead(source, source.steps, depth=3)
    assert next(ahead)[0] == 0
    time.sleep(0.05)
    assert len(source.loaded) <= 3
    assert next(ahead)[0] == 1
    ahead.close()
    assert len(source.loaded) <= 4
    assert threading.active_count() == threads


def test_read_ahead_passes_other_errors_on():
    source = Counting()
    with pytest.raises(OSError, match="on fire"):
        list(read_ahead(source, source.steps))
    with pytest.raises(ValueError, match="depth=0"):
        read_ahead(source, source.steps, depth=0)


def test_digest():
    params = make_params()
    assert digest(params) == digest(jax.tree.map(np.asarray, params))
    assert digest({"b": np.ones(2), "a": np.zeros(3)}) == digest({"a": np.zeros(3), "b": np.ones(2)})
    different = [
        {"a": np.ones(2)},
        {"b": np.ones(2)},
        {"a": np.ones(2, np.float32)},
        {"a": np.ones((2, 1))},
        {"a": np.array([1, np.nextafter(1, 2)])},
        {"a": np.ones((0, 2))},
        {"a": np.float64(1)},
    ]
    assert len({digest(tree) for tree in different}) == len(different)


def test_leaves_go_round():
    tree = {"a": [{"w": np.ones(1)}, {"w": np.ones(2)}], "b": {"0": np.ones(3)}}
    assert jax.tree.structure(nest(flatten(tree))) == jax.tree.structure(tree)
    text = {tuple(map(str, path)): leaf for path, leaf in flatten(tree).items()}
    assert_same(match(text, tree), tree)
    assert nest({("a", "0"): 1, ("a", "1"): 2}) == {"a": {"0": 1, "1": 2}}


def test_a_leaf_named_value_is_kept():
    tree = {"attention": {"value": np.ones(2), "query": np.ones(3)}}
    assert_same(match(flatten(tree), tree), tree)
    with pytest.raises(MismatchError, match="missing attention/query"):
        match({("attention", "value"): np.ones(2)}, tree)


def test_reading_warns_of_nothing(stored):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_orbax(stored(single_state)).load(2)
