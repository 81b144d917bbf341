import errno
import fcntl
import os
import threading

import numpy as np
import pytest

from sltjax.store import DamagedUnitError, Store, StoreError, differences, write_atomically

UNIT = {
    "observed.delta_loss": np.arange(40, dtype=np.float32).reshape(2, 20),
    "acceptance": np.asarray(0.1, np.float32),
    "weights": np.asarray("ab" * 32),
}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        yield store


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_unit_comes_back_as_it_went(store):
    assert store.read(100) is None
    store.write(100, UNIT)
    assert files(store.path) == [".lock", "units/000000000100.npz"]
    back = store.read(100)
    assert set(back) == set(UNIT)
    for name, values in UNIT.items():
        assert back[name].dtype == values.dtype
        np.testing.assert_array_equal(back[name], values)


def test_equal_units_are_equal_bytes(store):
    store.write(1, UNIT)
    store.write(2, dict(reversed(UNIT.items())))
    one, two = sorted((store.path / "units").iterdir())
    assert one.read_bytes() == two.read_bytes()


def test_every_flipped_bit_is_seen(store):
    store.write(1, UNIT)
    (path,) = (store.path / "units").iterdir()
    content = path.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedUnitError, match=r"000000000001\.npz is damaged"):
            store.read(1)


def test_every_truncation_is_seen(store):
    store.write(1, UNIT)
    (path,) = (store.path / "units").iterdir()
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedUnitError):
            store.read(1)


def test_a_unit_that_may_not_be_read_is_not_taken_for_missing(store):
    (store.path / "units" / "000000000001.npz").mkdir()  # root may read any file
    with pytest.raises(IsADirectoryError):
        store.read(1)


def test_objects_are_refused(store):
    with pytest.raises(ValueError, match="allow_pickle"):
        store.write(1, {"x": np.asarray([object()])})
    assert files(store.path) == [".lock"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff"])
def test_a_damaged_manifest_is_an_error(store, content):
    (store.path / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        store.manifest()


def test_manifest_comes_back(store):
    assert store.manifest() is None
    store.write_manifest({"b": [1, 0.1], "a": {"name": "λ"}})
    assert store.manifest() == {"b": [1, 0.1], "a": {"name": "λ"}}


def test_one_at_a_time(store):
    with pytest.raises(StoreError, match="in use by another run"), Store(store.path).locked():
        pass
    outcome = []

    def other():
        try:
            with Store(store.path).locked():
                outcome.append("in")
        except StoreError:
            outcome.append("refused")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert outcome == ["refused"]


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), Store(tmp_path).locked():
        raise KeyError
    with Store(tmp_path).locked():
        pass


@pytest.mark.parametrize("shard", [None, (0, 2)])
def test_locks_are_asked_for_as_nfs_takes_them(tmp_path, monkeypatch, shard):
    """A lock to share needs a file that is open for reading, a lock to have alone one that is open for writing."""
    modes = []
    monkeypatch.setattr(
        fcntl, "flock", lambda lock, kind: modes.append(fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE)
    )
    with Store(tmp_path).locked(shard):
        assert modes
        assert set(modes) == {os.O_RDWR}


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def unheard_of(lock, kind):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unheard_of)
    with pytest.raises(StoreError, match=r"cannot be locked \(Function not implemented\)"), Store(tmp_path).locked():
        pass


def test_what_a_killed_process_was_writing_is_cleared(tmp_path):
    (tmp_path / "units").mkdir()
    ours = [tmp_path / "units" / ".000000000001.npz.77.tmp", tmp_path / ".manifest.json.77.tmp"]
    theirs = [tmp_path / "notes.tmp", tmp_path / ".mine.tmp", tmp_path / "units" / "x.tmp"]
    for path in ours + theirs:
        path.write_text("x")
    with Store(tmp_path).locked():
        assert not any(path.exists() for path in ours)
        assert all(path.exists() for path in theirs)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_full(tmp_path, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    write_atomically(path, b"before")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="could not write 12,345 bytes: No space left on device") as error:
        write_atomically(path, bytes(12_345))
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert files(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"x")
    assert files(tmp_path) == []


def test_data_is_on_disk_before_its_name_is(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    write_atomically(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_differences():
    stored = {"a": {"b": 1, "c": [1, 2], "gone": None}, "same": 1, "old": 0}
    asked = {"a": {"b": 2, "c": [1, 2]}, "same": 1, "new": 3}
    assert differences(stored, asked) == [
        "a.b: stored 1, asked 2",
        "new: stored None, asked 3",
        "old: stored 0, asked None",
    ]
    assert differences(stored, stored) == []
