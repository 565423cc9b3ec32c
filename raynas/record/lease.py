"""Who writes a run folder in an object store: a lease that is renewed every few seconds."""

import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from raynas.errors import StorageError
from raynas.record.folder import RunFolder
from trials.places import as_os_errors

#: a lease that was not renewed for so long is taken over
LEASE_SECONDS = 20.0
_BEAT_SECONDS = 4.0


class Lease:
    """Says who writes a run folder; one that is not renewed is taken over.

    At once, where its process is known to be dead, else after `LEASE_SECONDS`.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path):
        self._path, self._run = RunFolder(run).lease, run
        self._holder = uuid.uuid4().hex
        self._beaten = 0.0

    def acquire(self) -> None:
        """Take the lease, if need be after waiting whether its holder renews it.

        Raises:
            StorageError: when another process holds it.
        """
        found = self._read()
        deadline = time.monotonic() + LEASE_SECONDS
        while found and not _is_dead(found) and time.monotonic() < deadline:
            time.sleep(1)
            now = self._read()
            if now and now != found:
                raise in_use(self._run, now)
            found = now
        self._write()

    def confirm(self) -> None:
        """Refuse to go on when another process has taken the lease at the same time.

        Raises:
            StorageError: then.
        """
        found = self._read()
        if found and found.get("holder") != self._holder:
            raise in_use(self._run, found)

    def check(self) -> None:
        """Look who holds the lease, where it was not renewed in time, as in a process that slept.

        Raises:
            StorageError: when another process has taken it.
        """
        if time.monotonic() - self._beaten > LEASE_SECONDS / 2:
            with suppress(OSError), as_os_errors(self._path):  # a put finds out what is wrong
                self.confirm()

    def beat(self) -> None:
        """Renew the lease, unless that was done a moment ago, or it is another's by now."""
        if time.monotonic() - self._beaten > _BEAT_SECONDS:
            with suppress(StorageError):
                self.confirm()
                self._write()

    def release(self) -> None:
        """Let others have it at once."""
        with suppress(OSError, StorageError), as_os_errors(self._path):
            self.confirm()
            self._path.unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Return whether a process holds it and renews it."""
        found = self._read()
        moment = found.get("time")
        if not isinstance(moment, int | float) or _is_dead(found):
            return False
        return abs(time.time() - moment) < LEASE_SECONDS

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self) -> None:
        content = {
            "holder": self._holder,
            "host": os.uname().nodename,
            "machine": _machine(),
            "pid": os.getpid(),
            "time": round(time.time(), 3),
        }
        self._path.write_bytes(json.dumps(content).encode())
        self._beaten = time.monotonic()


def in_use(run: Path, lease: dict[str, Any] | None = None) -> StorageError:
    """Return the error of a run folder that another process writes."""
    where = f" (process {lease.get('pid')} on {lease.get('host')})" if lease else ""
    return StorageError(
        f"The run folder {run} is in use by another process{where}. Wait for it to end, or choose"
        " another name."
    )


def _machine() -> str | None:
    """Return what processes have in common whose numbers mean the same; None: not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_dead(lease: dict[str, Any]) -> bool:
    """Return whether the process that holds a lease is known to have ended."""
    pid, machine = lease.get("pid"), lease.get("machine")
    if not isinstance(pid, int) or pid <= 0 or machine is None or machine != _machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
