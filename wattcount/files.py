"""Files: a user's text, read with errors that name the file; content that is written in one step, so nobody reads half of it."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wattcount.errors import NotStartedError

TEMPORARY_SUFFIX = ".tmp"
"""Ending of the name that a file has until it is whole: `.<name>.<random>.tmp`, in the same folder."""


def read_text(path: Path, what: str) -> str:
    """The text of a file: UTF-8, or UTF-16 where the file begins with that byte order mark (as PowerShell's `>` writes it).

    what  the kind of file, for errors
    Raises `NotStartedError` where the file cannot be read.
    """
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError:
        raise NotStartedError(f"{what} {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise NotStartedError(
            f"{what} {path} is neither UTF-8 nor UTF-16 text (byte {error.start})"
        ) from None
    except OSError as error:
        raise NotStartedError(f"{what} {path} cannot be read: {error.strerror}") from None


def write_atomically(path: Path, content: bytes | str) -> None:
    """Puts a file in place in one step, and returns when it is on the disk. Text is written as UTF-8.

    Raises OSError; then the file that was there before is unchanged.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into, which takes the place of `path` when the block ends without an error.

    The new file never follows a link that lies in its place. Raises OSError; then the file that was there before is
    unchanged.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes sure that the disk has the names in a folder. Raises OSError where the disk fails.

    Does nothing for a folder that cannot be read, and on a file system without such a call.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
