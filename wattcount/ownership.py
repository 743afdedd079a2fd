"""Who works in a folder or with a device, and whether they have surely ended.

A claim is a small file that names the host of its owner. Its owner holds a lock (`flock`) on it, which the kernel releases
when the last process that holds it has ended, in whatever way. The file may stay behind. Then, and only then, another process
of the same host can take it over. A lock (`lock`) is such a file that one owner at a time holds, whoever made the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

CLAIM_NAME = "owner.lock"
"""Name of the claim to the folder that it lies in."""


class Claim:
    """A lock held until `release` or the end of the process, whichever comes first."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @property
    def descriptor(self) -> int:
        """Descriptor of the open file. A process that inherits it holds the claim too, until it has ended."""
        if self._descriptor is None:
            raise RuntimeError(f"the claim {self.path} was released")
        return self._descriptor

    def release(self, *, remove: bool = False) -> None:
        """Releases the claim; may be called more than once. `remove`: removes the file, as what was claimed is gone."""
        if self._descriptor is None:
            return
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def claim(path: Path) -> Claim | None:
    """Makes a new claim. None: the file system has no locks, so nobody takes the folder for abandoned.

    Raises OSError where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return None
    # Written only now: a claim without content is one that is being made.
    os.write(descriptor, json.dumps(mark()).encode())
    return Claim(path, descriptor)


def join(path: Path) -> Claim | None:
    """Holds a claim besides its owner, so that it lasts until both are gone. None: there is no claim to join."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return Claim(path, descriptor)


def take_over(path: Path) -> Claim | None:
    """The claim, if everyone who held it has surely ended; else None.

    A claim of another host stays as it is, in a shared folder too: not every file system tells a host of locks on another.
    """
    if not is_of_this_host(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Someone else may have taken it over, finished, and removed it since it was opened.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return Claim(path, descriptor)
    except OSError:
        pass
    os.close(descriptor)
    return None


def lock(path: Path, purpose: str, *, for_everyone: bool = False) -> Claim | None:
    """A claim that nobody else holds. None: somebody holds it, and `holder` tells who.

    purpose       shown to whoever finds the lock taken
    for_everyone  other users can take the lock too, once it is free

    Raises OSError where the file cannot be made, or the file system has no locks.
    """
    while True:
        descriptor = open_lock_file(path, for_everyone=for_everyone)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed it since it was opened.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({**mark(), "for": purpose}).encode())
                return Claim(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


LOCK_POLL_S = 0.1
"""Time between two looks at a lock that somebody else holds [s]."""


def wait_for_lock(path: Path, purpose: str, limit_s: float, *, for_everyone: bool = False) -> Claim | None:
    """As `lock`, but waits up to `limit_s` seconds for the holder. None: the holder still has it."""
    end_s = time.monotonic() + limit_s
    while (claim := lock(path, purpose, for_everyone=for_everyone)) is None and time.monotonic() < end_s:
        time.sleep(LOCK_POLL_S)
    return claim


def open_lock_file(path: Path, *, for_everyone: bool) -> int:
    """A descriptor of the file, made where there is none; `for_everyone`: other users can open it too."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        # In a sticky folder the kernel may refuse O_CREAT on a file of another user, so it is tried without.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
            if for_everyone:
                os.fchmod(descriptor, 0o666)  # whatever the umask
            return descriptor


def holder(path: Path) -> str:
    """Who took a lock last, for people: `pid 12 on node3, llama3_8b`."""
    try:
        owner: Any = json.loads(path.read_bytes())
        purpose = f", {owner['for']}" if owner["for"] else ""
        return f"pid {owner['pid']} on {owner['hostname']}{purpose}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said which"


def is_of_this_host(path: Path) -> bool:
    """Whether a claim was made on this host: under this kernel, or before this host was last started."""
    try:
        return is_here(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return False


def mark() -> dict[str, Any]:
    """Says which process on which host this is, for a file that its owner keeps locked; `is_here` reads it."""
    return {**_host(), "pid": os.getpid()}


def is_here(owner: object) -> bool:
    """Whether the `mark` is of this host, now or before it was last started."""
    if not isinstance(owner, dict):
        return False
    here = _host()
    if here["boot_id"] and owner.get("boot_id") == here["boot_id"]:
        return True
    return bool(here["machine_id"]) and all(
        owner.get(name) == here[name] for name in ("machine_id", "hostname")
    )


def boot_id() -> str:
    """Changes when the host is started again; empty where that cannot be told."""
    return _line("/proc/sys/kernel/random/boot_id")


def is_held(path: Path) -> bool | None:
    """Whether somebody of this host holds a lock on the file alone. None: the file system has no locks.

    A process that takes the lock at the same moment may find it taken. So only files that are locked when they are made, and
    never again, can be asked about. Raises OSError where the file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _host() -> dict[str, str]:
    """Containers share the kernel, and with it `boot_id` and locks, but neither of the other two."""
    return {
        "hostname": socket.gethostname(),
        "machine_id": _line("/etc/machine-id"),
        "boot_id": boot_id(),
    }


def _line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
