"""Why a checkpoint cannot be read, in words: what lies in the place of a file, or else the error."""

import re
from typing import TYPE_CHECKING

from sltjax.checkpoints.source import printable

if TYPE_CHECKING:
    from etils import epath

FOREIGN = {
    b"<!doctype html": "is an HTML page",
    b"<html": "is an HTML page",
    b"<?xml": "is an XML page, such as a storage server answers with when it refuses",
    b"version https://git-lfs": "is a git-LFS pointer, not the file it stands for",
}
PICKLED = "a pickle, which can run any program and is never opened"
PICKLE = re.compile(rb"\x80[\x02-\x05][^\x00]")


class DamagedError(Exception):
    """A file that is not what its name says, or is not there; the message is a sentence that begins with its name."""


def wrong_content(file: "epath.Path") -> str | None:
    """Return what a file is that it ought not to be, as in "is an HTML page", or None."""
    try:
        with file.open("rb") as content:
            start = content.read(64)
    except OSError:  # a folder, or a file that may not be read
        return None
    if not start.strip():
        return "is empty"
    if PICKLE.match(start):
        return f"is {PICKLED}"
    return next((what for sign, what in FOREIGN.items() if start.lstrip().lower().startswith(sign)), None)


def worded(error: Exception) -> str:
    """Return an error as one sentence."""
    # tensorstore appends the whole specification and its own source lines.
    sentence = re.split(r" \[(?:tensorstore_spec|source)|\n", str(error), maxsplit=1)[0]
    text = printable(sentence, longest=400).rstrip(". ")
    return f"{text}." if isinstance(error, DamagedError) else f"{type(error).__name__}: {text}."
