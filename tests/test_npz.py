"""Npz: what its files may hold, and may claim. What holds of every source is in test_sources.py, names in another."""

import io
import os
import pickle
import random
import struct
import time
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from sources import make_params, write_npz

from sltjax.checkpoints import CheckpointError, MismatchError, from_npz, read_ahead


def written(root, arrays, name="step_1.npz", save=np.savez):
    save(root / name, **arrays)
    return root / name


def archived(members, method=zipfile.ZIP_STORED):
    """A zip archive of such members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def array(shape=(2,), descr="<f4", data=bytes(8), version=(1, 0)):
    """An array whose header says what one likes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def overstated():
    """An array that takes 4 GB by every number in its archive, of which 90 kB are there."""
    member = array((10**9,), data=bytes(90_000))
    content = archived({"w.npy": member}, zipfile.ZIP_DEFLATED)
    return content.replace(struct.pack("<I", len(member)), struct.pack("<I", len(member) - 90_000 + 4 * 10**9))


LIES = {
    "no zip": (b"hello", "is no sound .npz file: BadZipFile"),
    "a bare array": (array(), "is no sound .npz file: BadZipFile"),
    "no array": (archived({"w.npy": b"hello"}), "is no sound .npz file: ValueError"),
    "an unknown version": (archived({"w.npy": array(version=(9, 9))}), "is no sound .npz file"),
    "another kind of member": (archived({"w.txt": b"hello"}), "w.txt in it is no array"),
    "torch.save": (archived({"archive/data.pkl": pickle.dumps(1)}), "archive/data.pkl in it is a pickle"),
    "a longer shape": (archived({"w.npy": array((3,))}), "w claims 12 bytes as float32 of shape (3,), and has 8"),
    "a shorter shape": (archived({"w.npy": array((1,))}), "w claims 4 bytes as float32 of shape (1,), and has 8"),
    "an absurd shape": (archived({"w.npy": array((2**40, 2**40))}), "w claims 4835703278458516698824704 bytes"),
    "a negative shape": (archived({"w.npy": array((-2,))}), "w claims -8 bytes"),
    "a program for a shape": (archived({"w.npy": array("__import__('os').abort()")}), "is no sound .npz file"),
    "an absurd claim": (overstated(), "bytes, more than a file of"),
    "another compression": (archived({"w.npy": array()}, zipfile.ZIP_LZMA), "in a way that numpy does not use"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_fails_fast_and_alone(tmp_path, lie):
    """Trust 11."""
    content, reason = LIES[lie]
    for step in (1, 3):
        written(tmp_path, {"w": np.ones(2)}, f"step_{step}.npz")
    (tmp_path / "step_2.npz").write_bytes(content)
    start = time.perf_counter()
    source = from_npz(tmp_path)
    results = dict(read_ahead(source, source.steps))
    assert time.perf_counter() - start < 1
    assert isinstance(results[2], CheckpointError)
    assert str(results[2]).startswith("step 2 cannot be read: step_2.npz")
    assert reason in str(results[2])
    assert str(results[2]).isprintable()
    np.testing.assert_array_equal(results[3]["w"], 1)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "step_1.npz", "w") as archive:
        archive.writestr("w.npy", array())
        archive.writestr("w.npy", array(data=bytes(7) + b"1"))
    with pytest.raises(CheckpointError, match=r"step_1\.npz: w is in it twice"):
        from_npz(tmp_path).load(1)


class Exploit:
    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return os.mkdir, (self.sign,)


def test_python_objects_are_never_opened(tmp_path):
    """Trust 11."""
    sign, root = str(tmp_path / "opened"), tmp_path / "run"
    root.mkdir()
    written(root, {"w": np.ones(2), "note": np.array([Exploit(sign)], dtype=object)})
    with pytest.raises(CheckpointError, match=r"step_1\.npz: note holds Python objects, that is a pickle, which can"):
        from_npz(root).load(1)
    np.testing.assert_array_equal(from_npz(root, rename={"note": None}).load(1)["w"], 1)
    assert not os.path.exists(sign)
    np.load(root / "step_1.npz", allow_pickle=True)["note"]  # the bait is live
    assert os.path.exists(sign)


def test_damage_anywhere_is_an_error_or_harmless(tmp_path):
    """Trust 8: arrays have checksums, so that no damaged weight is ever returned."""
    content = write_npz(tmp_path, "step_1.npz", make_params(1)).read_bytes()
    expected = from_npz(tmp_path).load(1)["dense"]["kernel"].tobytes()
    rng, failed = random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 4))):
            damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "step_1.npz").write_bytes(damaged)
        try:
            params = from_npz(tmp_path).load(1)
        except (CheckpointError, ValueError):
            failed += 1
        else:
            kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.shape == (70, 5)]
            assert [kernel.tobytes() for kernel in kernels] == [expected]
    assert failed > 100


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("separator", [".", "/"])
def test_keys_are_paths(tmp_path, save, separator):
    arrays = {"layers/0/w": np.ones((2, 3)), "layers/1/w": np.ones(()), "head": np.asfortranarray(np.eye(3)[:2])}
    written(tmp_path, {key.replace("/", separator): value for key, value in arrays.items()}, save=save)
    params = from_npz(tmp_path).load(1)
    assert jax.tree.map(np.shape, params) == {"layers": [{"w": (2, 3)}, {"w": ()}], "head": (2, 3)}
    np.testing.assert_array_equal(params["head"], np.eye(3)[:2])
    renamed = from_npz(tmp_path, rename={r"layers.(\d)\.?/?(.*)": r"\2\1"}, transform=lambda key, w: w + 1).load(1)
    assert set(renamed) == {"w0", "w1", "head"}
    assert renamed["w1"] == 2


def test_small_floats_come_back_as_far_as_numpy_keeps_them(tmp_path):
    eight = np.array([1, 2], ml_dtypes.float8_e4m3fn)
    written(tmp_path, {"half": np.array([1.5, 2], ml_dtypes.bfloat16), "eight": eight})
    with pytest.raises(
        MismatchError, match=r"got eight as \|V1, expected numbers: leave it out with `rename`, or make"
    ):
        from_npz(tmp_path)
    params = from_npz(tmp_path, transform=lambda key, w: w.view(eight.dtype) if key == "eight" else w).load(1)
    assert params["half"].dtype == ml_dtypes.bfloat16
    assert params["half"].tolist() == [1.5, 2]
    assert params["eight"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "note", [np.array("text"), np.array([b"x"]), np.zeros(1, [("a", "f4")]), np.datetime64("2026")]
)
def test_what_is_no_number_is_named(tmp_path, note):
    """Trust 9."""
    written(tmp_path, {"w": np.ones(1), "note": note})
    with pytest.raises(MismatchError, match=r"step 1: got note as .*, expected numbers: leave it out"):
        from_npz(tmp_path)


def test_folders_of_several_files(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / str(step)).mkdir()
        written(tmp_path / str(step), {"w": np.ones(step)}, "params.npz" if step != 2 else "weights.npz")
        written(tmp_path / str(step), {"mu": np.ones(1)}, "optimizer.npz")
    source = from_npz(tmp_path)
    assert source.steps == (1, 2, 3)
    with pytest.raises(CheckpointError, match=r"step 2 cannot be read: 2 holds optimizer\.npz, weights\.npz, expected"):
        source.load(2)


def test_arrays_that_lie_bare_are_not_taken_for_checkpoints(tmp_path):
    """Trust 11: what an .npy holds, its name does not tell."""
    np.save(tmp_path / "step_1.npy", np.array([{}]), allow_pickle=True)
    for path in (tmp_path, tmp_path / "step_1.npy"):
        with pytest.raises(ValueError, match=r"step_1\.npy: it is one array or else a pickle.*Convert pickles to"):
            from_npz(path)
    with pytest.raises(ValueError, match=r"test_npz\.py: it is no \.npz file"):
        from_npz(__file__)
