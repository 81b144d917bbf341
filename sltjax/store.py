"""A sweep on disk: one atomic file a checkpoint, and a manifest that says what they are all results of.

store/
  manifest.json              definition, numerics, versions; written once, before the first unit
  units/000000000100.npz     what was sampled around one checkpoint; a zip, so every array carries a checksum
  failures/000000000100.txt  why a checkpoint could not be used, until it can
  dataset.nc                 all units as one xarray Dataset, written anew at the end of every run

A unit either is there whole or does not exist: it is written under another name, flushed, then renamed. Several
processes may share a folder if each holds a shard of its own; otherwise it has room for one.
"""

import fcntl
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Unit = Mapping[str, np.ndarray]
"""What one checkpoint left: name -> array; "weights" holds the digest of the parameters it was sampled around."""

Shard = tuple[int, int]
"""(i, N): every Nth block from the ith, for one of N processes."""

PATIENCE = 3600.0  # seconds for which a process waits for another to calibrate, or to write the dataset


class StoreError(Exception):
    """The store holds something else than this call would put into it, or is in use."""


class DamagedUnitError(StoreError):
    """A unit is not, byte for byte, what was written; it can be sampled again."""


class Store:
    """The folder of one sweep.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._units = self.path / "units"
        self._failures = self.path / "failures"

    @contextmanager
    def locked(self, shard: Shard | None = None) -> Iterator[None]:
        """Hold the folder, or a shard of it, against other processes; a lock ends with its process, however that ends.

        Raises:
            StoreError: another process holds it, or that shard of it, or all of it while this one asks for a shard.
        """
        self._units.mkdir(parents=True, exist_ok=True)
        self._failures.mkdir(exist_ok=True)
        refusal = f"{self.path} is in use by another run; wait for it, or choose another store"
        if shard is None:
            with _flock(self.path / ".lock", fcntl.LOCK_EX, refusal):
                self._discard_unfinished()
                yield
            return
        index, count = shard
        mine = f"shard {index}/{count} of {self.path} is in use by another run: give every process a shard of its own"
        with (
            _flock(self.path / ".lock", fcntl.LOCK_SH, refusal),
            _flock(self.path / f".lock-{index}-of-{count}", fcntl.LOCK_EX, mine),
        ):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do what only one process may do at a time, such as calibrating; the others wait.

        Raises:
            StoreError: it was not this process's turn for an hour.
        """
        with _flock(self.path / ".lock-alone", fcntl.LOCK_EX, f"{self.path}: another run never let go", PATIENCE):
            yield

    def manifest(self) -> dict[str, Any] | None:
        """What the store holds results of; None if it is new.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        path = self.path / "manifest.json"
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text())
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}); restore it, or choose another store") from None
        if not isinstance(manifest, dict):
            raise StoreError(f"{path} is damaged (it holds no table); restore it, or choose another store")
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, atomically."""
        write_atomically(self.path / "manifest.json", json.dumps(manifest, indent=2, sort_keys=True).encode())

    def steps(self) -> list[int]:
        """The steps that have a unit, whole or damaged, ascending."""
        return sorted(int(path.stem) for path in self._units.glob("[0-9]*.npz"))

    def changed(self) -> int:
        """When a unit or a failure was last written, in nanoseconds; 0 if none was."""
        written = (*self._units.glob("[0-9]*.npz"), *self._failures.glob("[0-9]*.txt"))
        return max((path.stat().st_mtime_ns for path in written), default=0)

    def read(self, step: int) -> dict[str, np.ndarray] | None:
        """The unit of a step; None if there is none.

        Raises:
            DamagedUnitError: the file is not what was written.
        """
        path = self._unit(step)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                unit = {name: stored[name] for name in stored.files}
            # The zip's checksums do not cover its own headers; equal units are equal bytes, so this does.
            sound = _encode(unit) == content
        except Exception:  # a flipped bit in a zip may raise almost anything
            sound = False
        if not sound:
            raise DamagedUnitError(f"{path} is damaged")
        return unit

    def write(self, step: int, unit: Unit) -> None:
        """Write the unit of a step, atomically; equal units are equal bytes. What is told of its failing is dropped."""
        write_atomically(self._unit(step), _encode(unit))
        self._failure(step).unlink(missing_ok=True)

    def failures(self) -> dict[int, str]:
        """Step -> why it could not be used, for the steps that have no unit."""
        told = {int(path.stem): path.read_text() for path in sorted(self._failures.glob("[0-9]*.txt"))}
        return {step: reason for step, reason in told.items() if not self._unit(step).exists()}

    def write_failure(self, step: int, reason: str) -> None:
        """Keep why a step could not be used."""
        write_atomically(self._failure(step), reason.encode())

    def _unit(self, step: int) -> Path:
        return self._units / f"{step:012d}.npz"

    def _failure(self, step: int) -> Path:
        return self._failures / f"{step:012d}.txt"

    def _discard_unfinished(self) -> None:
        """Remove what a killed process was writing: nobody else writes while the whole folder is held."""
        for pattern in (
            "units/.*.npz.*.tmp",
            "failures/.*.txt.*.tmp",
            ".manifest.json.*.tmp",
            ".dataset.nc.*.tmp",
        ):
            for unfinished in self.path.glob(pattern):
                unfinished.unlink()


@contextmanager
def _flock(path: Path, kind: int, refusal: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file, waiting for it at most so many seconds.

    Open for reading and for writing, as NFS asks of those who lock a file to share it and to have it alone.
    """
    until = time.monotonic() + patience
    with open(path, "a+") as lock:
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreError(refusal) from None
                time.sleep(0.05)
            except OSError as error:
                raise StoreError(
                    f"{path.parent} cannot be locked ({error.strerror or error}), so processes could mix their results "
                    "there: mount it with locks (Lustre: -o flock), or choose a store on another file system"
                ) from error
        yield


def _encode(unit: Unit) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: unit[name] for name in sorted(unit)})
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all, and on disk before returning.

    Raises:
        OSError: with the number of bytes that were needed; nothing is left behind.
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    try:
        make_atomically(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"could not write {len(content):,} bytes: {reason}", str(path)) from error


def make_atomically(path: Path, make: Callable[[Path], None]) -> None:
    """Put in place, whole or not at all, what `make` writes to the path that it is given."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        make(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """See a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, a line each: "numerics.num_draws: stored 100, asked 200"."""
    lines = []
    for name in sorted({*stored, *asked}):
        old, new = stored.get(name), asked.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: stored {old}, asked {new}")
    return lines
