"""A place that fails, or whose writer is killed, at a chosen operation."""

from __future__ import annotations

from typing import Any

from wattcount.dataset.storage import Storage, StorageError

CHANGES = ("write", "create", "move", "copy", "remove")


class Killed(BaseException):
    """The process is gone: nothing that it would do afterwards is done."""


class FaultyStorage:
    """As `storage`, but the `fails_at`-th change (from 0) goes wrong.

    kill   the writer dies; otherwise the place fails from then on (`again`: only once)
    after  the change was made, and the answer is lost
    """

    def __init__(
        self, storage: Storage, fails_at: int, *, kill: bool = False, after: bool = False, again: bool = False
    ) -> None:
        self._storage = storage
        self._fails_at = fails_at
        self._kill = kill
        self._after = after
        self._again = again
        self._done = 0
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return self._wrapped(found, name) if name in CHANGES else found

    def _wrapped(self, call: Any, name: str) -> Any:
        def wrapped(*args: Any) -> Any:
            number = self._done
            self._done += 1
            if number < self._fails_at or (number > self._fails_at and self._again):
                return call(*args)
            if self._after and not self.failed:
                call(*args)
            self.failed = True
            if self._kill:
                raise Killed
            raise StorageError(f"cannot {name} {args[0]}: no space left")

        return wrapped
