"""Safetensors: layouts and lies of its files, and names as paths. What holds of every source is in test_sources.py."""

import json
import os
import random
import struct
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from flax import nnx
from safetensors.numpy import save_file
from sources import listing, make_params, named, write_safetensors, write_shards

from sltjax.checkpoints import CheckpointError, MismatchError, from_safetensors, read_ahead


def written(root, tensors, name="step_1.safetensors"):
    save_file({key: np.asarray(value) for key, value in tensors.items()}, root / name)
    return root / name


def raw(header, data=b"", length=None):
    """A file whose header says what one likes."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(start, stop, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


LIES = {
    "too short for a length": (b"abc", "it has 3 bytes"),
    "length of 2^63": (raw({}, length=2**63), "fewer than the 9223372036854775808 that its header"),
    "length of 2^64 - 1": (raw({}, length=2**64 - 1), "fewer than"),
    "length over the end": (raw({"a": entry(0, 8)}, bytes(8), length=1000), "fewer than the 1000"),
    "overlapping": (raw({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "not as its header says"),
    "the same twice": (raw({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)), "not as its header says"),
    "a name to clear the screen": (
        raw({"\x1b[2J": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
        "not as its header says",
    ),
    "a hole": (raw({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)), "not as its header says"),
    "over the end": (raw({"a": entry(0, 8), "b": entry(8, 16)}, bytes(8)), "not as its header says"),
    "more than is told": (raw({"a": entry(0, 8)}, bytes(80)), "not as its header says"),
    "backwards": (raw({"a": entry(8, 0)}, bytes(8)), "not as its header says"),
    "negative": (raw({"a": entry(-8, 0)}, bytes(8)), "not as its header says"),
    "absurd shape": (raw({"a": entry(0, 8, (2**40, 2**40))}, bytes(8)), "not as its header says"),
    "another shape": (raw({"a": entry(0, 8, (3,))}, bytes(8)), "not as its header says"),
    "unknown dtype": (raw({"a": entry(0, 8, dtype="F99")}, bytes(8)), "not as its header says"),
    "dtype numpy has not": (raw({"a": entry(0, 1, dtype="F4")}, bytes(1)), "tensors of F4, which numpy has not: a"),
    "nested without end": (raw(b'{"a":' * 100_000), "not as its header says"),
    "no JSON": (raw(b"hello"), "not as its header says"),
    "no text": (raw(b"\xff\xfe" * 40), "not as its header says"),
    "a list": (raw([1, 2]), "not as its header says"),
    "a zip": (b"PK\x03\x04" + bytes(100), "is a zip archive, as torch.save makes of a pickle"),
    "torch.save of old": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a pickle"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_fails_fast_and_alone(tmp_path, lie):
    """Trust 11."""
    content, reason = LIES[lie]
    for step in (1, 3):
        written(tmp_path, {"a": np.ones(2)}, f"step_{step}.safetensors")
    (tmp_path / "step_2.safetensors").write_bytes(content)
    start = time.perf_counter()
    source = from_safetensors(tmp_path)
    results = dict(read_ahead(source, source.steps))
    assert time.perf_counter() - start < 1
    assert isinstance(results[2], CheckpointError)
    assert str(results[2]).startswith("step 2 cannot be read: step_2.safetensors")
    assert reason in str(results[2])
    assert str(results[2]).isprintable()
    assert len(str(results[2])) < 500
    np.testing.assert_array_equal(results[3]["a"], 1)


def test_damage_anywhere_is_an_error_or_leaves_sound_arrays(tmp_path):
    """Trust 11: no change of bytes, of the header or behind it, does worse than fail its own checkpoint."""
    content = write_safetensors(tmp_path, "step_1.safetensors", make_params(1)).read_bytes()
    rng, failed = random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 4))):
            damaged[rng.choice((rng.randrange(8), rng.randrange(600), rng.randrange(len(content))))] = rng.randrange(
                256
            )
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(content)) :]
        (tmp_path / "step_1.safetensors").write_bytes(damaged)
        try:
            params = from_safetensors(tmp_path).load(1)
        except (CheckpointError, ValueError):
            failed += 1
        else:
            expected = [tuple(tensor["shape"]) for _, tensor in safetensors.deserialize(bytes(damaged))]
            assert sorted(np.shape(leaf) for leaf in jax.tree.leaves(params)) == sorted(expected)
    assert failed > 100


def test_names_are_no_paths_on_disk(tmp_path):
    """Trust 11: names such as `../` and HTML are keys of a dict, and made fit to print."""
    names = ["../../etc/passwd", "/root", "<script>alert(1)</script>", "a\x1b[2J\nb", "n" * 100_000, "ключ"]
    written(tmp_path, {name: np.ones(1, np.float32) for name in names})
    before = listing(tmp_path.parent)
    params = from_safetensors(tmp_path).load(1)
    assert len(jax.tree.leaves(params)) == len(names)
    assert listing(tmp_path.parent) == before
    with pytest.raises(MismatchError) as caught:
        from_safetensors(tmp_path, like={"w": np.ones(1)})
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 3000
    assert r"a\x1b[2J\nb" in message


# Folders


def test_a_run_of_a_trainer(tmp_path):
    """Its folder has the final model, checkpoints, and much that is neither."""
    for step in (500, 1000):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        write_safetensors(folder, "model.safetensors", make_params(step))
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "config.json"):
            (folder / name).write_bytes(b"x")
    write_safetensors(tmp_path, "model.safetensors", make_params(0))
    for name in ("config.json", "README.md", ".gitattributes", "training_args.bin"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".tmpSGwsMU").write_bytes(b"x")  # as `save_file` leaves when it is stopped
    for folder in ("runs", "checkpoint-1500", "tmp-checkpoint-2000", ".cache"):
        (tmp_path / folder).mkdir()
    (tmp_path / "checkpoint-2000").mkdir()
    (tmp_path / "checkpoint-2000" / "pytorch_model.bin").write_bytes(b"x")
    source = from_safetensors(tmp_path, like=make_params())
    assert source.steps == (500, 1000)
    np.testing.assert_array_equal(source.load(1000)["dense"]["kernel"], make_params(1000)["dense"]["kernel"])
    reasons = {s.name: s.reason for s in source.skipped}
    assert set(reasons) == {
        "model.safetensors",
        "training_args.bin",
        ".tmpSGwsMU",
        "runs",
        "checkpoint-1500",
        "tmp-checkpoint-2000",
        "checkpoint-2000",
    }
    assert "no step number" in reasons["model.safetensors"]
    assert reasons["checkpoint-1500"] == "no .safetensors file lies in it"
    assert "pytorch_model.bin is a pickle" in reasons["checkpoint-2000"]


def test_a_model_alone_is_step_0(tmp_path):
    write_safetensors(tmp_path, "model.safetensors", make_params(3))
    (tmp_path / "config.json").write_bytes(b"{}")
    assert from_safetensors(tmp_path).steps == (0,)
    assert from_safetensors(tmp_path / "model.safetensors").steps == (0,)
    write_shards(tmp_path, "sharded", make_params(3))
    source = from_safetensors(tmp_path / "sharded", like=make_params())
    assert source.steps == (0,)
    np.testing.assert_array_equal(source.load(0)["layers"][0]["w"], make_params(3)["layers"][0]["w"])


def test_a_folder_of_pickled_models_is_none(tmp_path):
    """Trust 11: the files of a model that was never saved otherwise are named, with the remedy."""
    (tmp_path / "checkpoint-100").mkdir()
    (tmp_path / "checkpoint-100" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"checkpoint-100: .*pytorch_model\.bin is a pickle.*Convert pickles to"):
        from_safetensors(tmp_path)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: it is a pickle.*Convert pickles to safetensors"):
        from_safetensors(tmp_path / "checkpoint-100" / "pytorch_model.bin")


@pytest.mark.parametrize("name", ["step_5", "ckpt-000005", "model-step5", "5", "epoch=1-step=5", "global_step5"])
def test_names_that_tell_a_step(tmp_path, name):
    written(tmp_path, {"w": np.ones(1)}, f"{name}.safetensors")
    assert from_safetensors(tmp_path).steps == (5,)


@pytest.mark.parametrize("name", ["loss-0.25", "best", "model-00001-of-00002", "0a" * 19 + "b7"])
def test_names_that_tell_none(tmp_path, name):
    written(tmp_path, {"w": np.ones(1)}, f"{name}.safetensors")
    written(tmp_path, {"w": np.ones(1)}, "step_1.safetensors")
    source = from_safetensors(tmp_path)
    assert source.steps == (1,)
    assert [s.name for s in source.skipped] == [f"{name}.safetensors"]


def drop_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def drop_table(folder):
    (folder / "model.safetensors.index.json").unlink()


def dangling(folder):
    drop_shard(folder)
    (folder / "model-00002-of-00002.safetensors").symlink_to("../../blobs/never")


def edit_table(change):
    def edit(folder):
        table = json.loads((folder / "model.safetensors.index.json").read_text())
        change(table["weight_map"])
        (folder / "model.safetensors.index.json").write_text(json.dumps(table))

    return edit


def table_is(text):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


def swap_shards(folder):
    first, second = (folder / f"model-0000{k}-of-00002.safetensors" for k in (1, 2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop_shard, "index.json names shards that are missing: model-00002-of-00002.safetensors"),
        (dangling, "index.json names shards that are missing: model-00002-of-00002.safetensors"),
        (drop_table, "holds model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, expected"),
        (lambda f: (drop_table(f), drop_shard(f)), "holds model-00001-of-00002.safetensors, expected"),
        (swap_shards, "model-00001-of-00002.safetensors has other tensors than model.safetensors.index.json says"),
        (
            edit_table(lambda m: m.pop("layers.1.w")),
            "has other tensors than model.safetensors.index.json says: layers.1",
        ),
        (edit_table(lambda m: m.update(a="../x.safetensors")), "names ../x.safetensors as a shard, expected a file"),
        (edit_table(lambda m: m.update(a="/etc/x.safetensors")), "as a shard, expected a file beside it"),
        (edit_table(lambda m: m.update(a=7)), "names 7 as a shard"),
        (edit_table(lambda m: m.update(a="passwords.txt")), "names passwords.txt as a shard"),
        (table_is("{}"), "is no table of shards: KeyError"),
        (table_is("[1]"), "is no table of shards: TypeError"),
        (table_is('{"weight_map": 3}'), "is no table of shards"),
        (table_is('{"weight_map": {}'), "is no table of shards"),
        (table_is("[" * 100_000), "is no table of shards: RecursionError"),
        (table_is("version https://git-lfs.github.com/spec/v1\n"), "index.json is a git-LFS pointer"),
        (table_is(""), "index.json is empty"),
    ],
)
def test_shards_that_do_not_make_a_whole(tmp_path, damage, reason):
    """Trust 8: a missing shard, or a table of another save, fails that checkpoint alone and names the file."""
    for step in (1, 2, 3):
        write_shards(tmp_path, f"checkpoint-{step}", make_params(step))
    damage(tmp_path / "checkpoint-2")
    source = from_safetensors(tmp_path)
    results = dict(read_ahead(source, source.steps))
    assert isinstance(results[2], CheckpointError)
    assert reason in str(results[2])
    assert str(results[2]).isprintable()
    np.testing.assert_array_equal(results[3]["layers"][0]["w"], make_params(3)["layers"][0]["w"])


def test_shards_that_nothing_is_wanted_of_are_not_opened(tmp_path):
    write_shards(tmp_path, "checkpoint-1", {"a": np.ones(2), "b": np.ones(3)})
    (tmp_path / "checkpoint-1" / "model-00002-of-00002.safetensors").write_bytes(b"damaged")
    params = from_safetensors(tmp_path, rename={"b": None}).load(1)
    np.testing.assert_array_equal(params["a"], 1)
    assert list(params) == ["a"]


def test_a_cache_says_what_is_not_in_it(tmp_path):
    root = tmp_path / "models--org--name"
    for folder in ("refs/pr", "snapshots"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text("1" * 40)
    (root / "refs" / "step7").write_text("../../../etc")
    (root / "refs" / "step6").write_bytes(b"\xff\xfe\x00")
    (root / "refs" / "step8").write_text("2" * 40)
    (root / "snapshots" / ("2" * 40)).mkdir()
    (root / "snapshots" / ("2" * 40) / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no finished checkpoint") as caught:
        from_safetensors(root)
    assert "main: it leads to nothing: it was never downloaded" in str(caught.value)
    assert "step6: it leads to nothing" in str(caught.value)
    assert "step7: it leads to nothing" in str(caught.value)
    assert "step8: no .safetensors file lies in it" in str(caught.value)


# Arrays


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64,
        np.float32,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2fnuz,
        np.int64,
        np.int8,
        np.uint16,
        np.bool_,
        np.complex64,
    ],
)
def test_dtypes_are_kept(tmp_path, dtype):
    arrays = {
        "w": np.arange(6).reshape(2, 3).astype(dtype),
        "scalar": np.ones((), dtype),
        "none": np.ones((0, 2), dtype),
    }
    written(tmp_path, arrays)
    got = from_safetensors(tmp_path).load(1)
    for name, array in arrays.items():
        assert (got[name].dtype, got[name].shape, got[name].tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16])
def test_nan_is_seen_in_small_floats(tmp_path, dtype):
    """Trust 9."""
    written(tmp_path, {"w": np.array([1, np.nan]).astype(dtype)})
    with pytest.raises(CheckpointError, match=r"step 1: the weights are NaN or infinite in w \(1 of 2\)"):
        from_safetensors(tmp_path).load(1)


# Names


TORCH = {
    "transformer.wte.weight": (7, 4),
    "transformer.h.0.attn.bias": (1, 3, 3),
    "transformer.h.0.attn.c_proj.weight": (4, 4),
    "transformer.h.1.attn.bias": (1, 3, 3),
    "transformer.h.1.attn.c_proj.weight": (4, 4),
    "lm_head.weight": (7, 4),
}


@pytest.fixture
def torch_run(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in TORCH.items()}
    written(tmp_path, arrays)
    return tmp_path, arrays


def leaf_shapes(params):
    return jax.tree.map(np.shape, params)


def test_names_become_nested_dicts_and_lists(torch_run):
    params = from_safetensors(torch_run[0]).load(1)
    block = {"attn": {"bias": (1, 3, 3), "c_proj": {"weight": (4, 4)}}}
    assert leaf_shapes(params) == {
        "transformer": {"wte": {"weight": (7, 4)}, "h": [block, block]},
        "lm_head": {"weight": (7, 4)},
    }


def test_lists_that_lack_an_index_are_dicts(tmp_path):
    written(tmp_path, {"a.0.w": 1.0, "a.2.w": 1.0, "b.00": 1.0, "c.1": 1.0, "c.0": 1.0})
    assert leaf_shapes(from_safetensors(tmp_path).load(1)) == {
        "a": {"0": {"w": ()}, "2": {"w": ()}},
        "b": {"00": ()},
        "c": [(), ()],
    }


PATTERNS = {
    r".*\.attn\.bias": None,
    r"transformer\.h\.(\d+)\.(.*)": r"blocks/\1/\2",
    r"transformer\.wte\.weight": "embedding",
}


def by_function(name):
    if name.endswith("attn.bias"):
        return None
    if name == "transformer.wte.weight":
        return ("embedding",)
    return name.replace("transformer.h", "blocks")


@pytest.mark.parametrize("rename", [PATTERNS, by_function, PATTERNS | {r".*\.attn\.bias": ""}])
def test_patterns_and_functions_rename(torch_run, rename):
    root, arrays = torch_run
    block = {"attn": {"c_proj": {"weight": (4, 4)}}}
    params = from_safetensors(root, rename=rename).load(1)
    assert leaf_shapes(params) == {"embedding": (7, 4), "blocks": [block, block], "lm_head": {"weight": (7, 4)}}
    np.testing.assert_array_equal(
        params["blocks"][1]["attn"]["c_proj"]["weight"], arrays["transformer.h.1.attn.c_proj.weight"]
    )


def test_the_first_pattern_that_matches_a_whole_name_is_taken(tmp_path):
    written(tmp_path, {"a.w": 1.0, "a.w2": 2.0})
    params = from_safetensors(tmp_path, rename={"a.w": "first", r"a\..*": "second", ".*": "third"}).load(1)
    assert params == {"first": 1, "second": 2}


def test_transform_has_stored_names(torch_run):
    root, arrays = torch_run
    seen = []

    def transform(name, array):
        seen.append(name)
        return jnp.asarray(array.T) if array.ndim == 2 else array

    like = {
        "embedding": np.zeros((4, 7)),
        "blocks": [{"attn": {"c_proj": {"weight": np.zeros((4, 4))}}}] * 2,
        "lm_head": {"weight": np.zeros((4, 7))},
    }
    params = from_safetensors(root, rename=PATTERNS, transform=transform, like=like).load(1)
    assert isinstance(params["embedding"], np.ndarray)
    np.testing.assert_array_equal(params["embedding"], arrays["transformer.wte.weight"].T)
    assert set(seen) == {name for name in arrays if not name.endswith("attn.bias")}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"rename": {r".*weight": "w", r".*bias": None}},
            r"got lm_head\.weight and transformer\.h\.0\.attn\.c_proj\.weight for one leaf, w; expected one",
        ),
        ({"rename": lambda name: name.split(".")[-1]}, "for one leaf, "),
        ({"rename": lambda name: ("a", 0) if "wte" in name else ("a", "0") if "head" in name else None}, "leaf, a/0"),
        (
            {"rename": {"lm_head.weight": "transformer/h"}},
            r"lm_head\.weight for the leaf transformer/h and transformer",
        ),
        ({"rename": {"lm_head.weight": "transformer/wte/weight/a"}}, "for transformer/wte/weight/a below it"),
        ({"rename": lambda name: 3}, r"`rename` makes 3 of .*, expected a name, a path as a tuple of keys, or None"),
        ({"rename": lambda name: (1.5,)}, r"`rename` makes \(1\.5,\) of"),
        ({"rename": lambda name: {}[name]}, r"`rename` fails on lm_head\.weight: KeyError: 'lm_head\.weight'"),
        ({"rename": {r"(.*)weight": r"\2"}}, r"`rename` fails on .*weight: .*invalid group reference"),
        ({"rename": {"(": "a"}}, r"got '\(' in `rename`, which is no regular expression: missing \)"),
        ({"rename": {".*": None}}, r"no tensors are stored that `rename` does not leave out"),
        ({"transform": lambda name, array: array.reshape(5)}, r"`transform` fails on .*: ValueError: cannot reshape"),
        ({"transform": lambda name, array: None}, r"got .*weight as object, expected numbers"),
        (
            {"rename": PATTERNS, "like": {"embedding": np.zeros((7, 4))}},
            r"unexpected lm_head/weight .*, blocks/0/attn/c_proj/weight ",
        ),
        ({"like": {"lm_head": {"weight": np.zeros((4, 7))}}}, r"mis-shaped lm_head/weight \(got \(7, 4\), expected"),
    ],
)
def test_names_that_do_not_come_out(torch_run, settings, said):
    """Trust 9: two tensors for one leaf, or none, is an error with their names."""
    with pytest.raises(ValueError, match=said):
        from_safetensors(torch_run[0], **settings)


def test_a_name_that_only_one_checkpoint_has_fails_it_alone(tmp_path):
    """Trust 8."""
    table = {"a": "w"}
    written(tmp_path, {"a": np.ones(1)}, "step_1.safetensors")
    written(tmp_path, {"b": np.ones(1)}, "step_2.safetensors")
    source = from_safetensors(tmp_path, rename=lambda name: table[name])
    with pytest.raises(CheckpointError, match="step 2: `rename` fails on b: KeyError: 'b'"):
        source.load(2)
    np.testing.assert_array_equal(source.load(1)["w"], 1)


def test_an_empty_file_of_tensors(tmp_path):
    save_file({}, tmp_path / "step_1.safetensors")
    with pytest.raises(MismatchError, match="step 1: no tensors are stored"):
        from_safetensors(tmp_path)


@pytest.mark.parametrize("separator", [".", "/"])
def test_keys_of_a_template_may_hold_separators(tmp_path, separator):
    """Haiku's do, and so do flat dicts of torch's names."""
    haiku = {"mlp/~/linear_0": {"w": np.ones(2), "b": np.zeros(1)}, "head.0": {"w": np.ones(3)}}
    write = {f"{module}{separator}{key}": array for module, leaves in haiku.items() for key, array in leaves.items()}
    written(tmp_path, write)
    got = from_safetensors(tmp_path, like=haiku).load(1)
    assert jax.tree.structure(got) == jax.tree.structure(haiku)
    flat = {name: np.zeros(array.shape) for name, array in write.items()}
    assert jax.tree.structure(from_safetensors(tmp_path, like=flat).load(1)) == jax.tree.structure(flat)


@pytest.mark.parametrize("suffix", ["", ".value"])
def test_nnx_state(tmp_path, suffix):
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    pure = nnx.to_pure_dict(params)
    written(tmp_path, {name + suffix: array for name, array in named(pure, ".").items()})
    got = from_safetensors(tmp_path, like=params).load(1)
    x = jnp.ones((1, 2))
    np.testing.assert_array_equal(nnx.merge(graphdef, got, rest)(x), model(x))


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    """Trust 8: whatever the system answers is that checkpoint's reason."""
    for step in (1, 2):
        written(tmp_path, {"w": np.ones(1)}, f"step_{step}.safetensors")
    source = from_safetensors(tmp_path)
    refuse = open

    def refusing(file, *args, **rest):
        if os.fspath(file).endswith("step_2.safetensors"):
            raise PermissionError(13, "Permission denied", "step_2.safetensors")
        return refuse(file, *args, **rest)

    monkeypatch.setattr("builtins.open", refusing)
    with pytest.raises(CheckpointError, match=r"step 2 cannot be read: PermissionError: .*Permission denied"):
        source.load(2)
