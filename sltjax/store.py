"""A sweep on disk: one atomic file a checkpoint, and a manifest that says what they are all results of.

    store/
      manifest.json         definition, numerics, versions; written once, before the first unit
      units/000000000100.npz    what was sampled around one checkpoint; a zip, so every array carries a checksum
      dataset.nc            all units as one xarray Dataset, written anew at the end of every run

A unit either is there whole or does not exist: it is written under another name, flushed, then renamed.
"""

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Unit = Mapping[str, np.ndarray]
"""What one checkpoint left: name -> array; "weights" holds the digest of the parameters it was sampled around."""


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes; a lock ends with its process, however that ends.

        Raises:
            StoreError: another process holds it.
        """
        self._units.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"{self.path} is in use by another run; wait for it, or choose another store"
                ) from None
            self._discard_unfinished()
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

    def read(self, step: int) -> dict[str, np.ndarray] | None:
        """The unit of a step; None if there is none.

        Raises:
            DamagedUnitError: the file is not what was written.
        """
        path = self._path(step)
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
        """Write the unit of a step, atomically; equal units are equal bytes."""
        write_atomically(self._path(step), _encode(unit))

    def _path(self, step: int) -> Path:
        return self._units / f"{step:012d}.npz"

    def _discard_unfinished(self) -> None:
        """Remove what a killed process was writing: nobody else writes while the lock is held."""
        for pattern in ("units/.*.npz.*.tmp", ".manifest.json.*.tmp", ".dataset.nc.*.tmp"):
            for unfinished in self.path.glob(pattern):
                unfinished.unlink()


def _encode(unit: Unit) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: unit[name] for name in sorted(unit)})
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all, and on disk before returning.

    Raises:
        OSError: with the number of bytes that were needed; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"could not write {len(content):,} bytes: {reason}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
