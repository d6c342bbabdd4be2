"""Locks on files: one run in a workdir, one process that prepares a copy of the scans.

A lock is `flock`ed for as long as it is held, so it is free when its process ends, however
that happens. Its content says who holds it.
"""

import contextlib
import datetime
import fcntl
import io
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError

LIFE_SIGN_SECONDS = 30  # the holder sets the file's time this often
# The lock of a host that gives no sign of life for so long, three signs, is taken over.
STALE_SECONDS = 100
_QUIET_WAIT_SECONDS = 1.0  # a shorter wait is not worth a message
_awaited: set[str] = set()  # what this process holds by `wait_for`


@contextlib.contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at path, or refuse at once; its folder is made where it is missing.

    What a dead process of this host held is taken over, with a line on stderr; so is what
    another host held, once it has given no sign of life for `STALE_SECONDS`, for which this
    waits. The file stays, emptied.

    Args:
        path: the lock.
        what: what it stands for, with its name, by example `--workdir runs/unet`.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    try:
        file = _open(path)
    except OSError as error:
        raise UserError(f"{what}: cannot be written ({path}: {error.strerror})") from error
    with file:
        _refuse_or_take_over(file, path, what)
        try:
            _write(file)
        except OSError as error:
            raise UserError(f"{what}: cannot be written ({path}: {error.strerror})") from error
        ended = threading.Event()
        life = threading.Thread(target=_show_life, args=(file.fileno(), ended), daemon=True)
        life.start()
        try:
            yield
        finally:
            ended.set()
            life.join()
            with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
                file.truncate(0)


@contextlib.contextmanager
def wait_for(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at path, waiting for another process that holds it.

    Goes on without a lock where there can be none (a read-only folder, a file system without
    locks) and where this process already holds it.

    Args:
        path: the lock; its folder is made where it is missing.
        what: what the other process is doing, for the message when it takes over a second.
    """
    key = os.path.abspath(path)
    try:
        file = None if key in _awaited else _open(path)
    except OSError:
        file = None
    if file is None:
        yield
        return
    with file:
        _wait(file, what)
        _awaited.add(key)
        try:
            yield
        finally:
            _awaited.discard(key)


def _open(path: Path) -> io.FileIO:
    with contextlib.suppress(FileExistsError):  # a file instead of the folder: open says so
        path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b", buffering=0)  # or a failed write would be tried again at the close


def _wait(file: io.FileIO, what: str):
    told_at = time.monotonic() + _QUIET_WAIT_SECONDS
    while _try_flock(file) is False:
        if time.monotonic() > told_at:
            print(f"waiting for another process that {what}", file=sys.stderr, flush=True)
            told_at = float("inf")
        time.sleep(0.05)


def _try_flock(file: io.FileIO) -> bool | None:
    """Return whether the lock was free and is now ours; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOTSUP, ENOLCK, ENOSYS and more, each file system has its own
        return None
    return True


def _refuse_or_take_over(file: io.FileIO, path: Path, what: str):
    locked = _try_flock(file)
    holder = _read(file)
    if holder is None and locked is not False:
        return
    who = "another process"  # which has not yet written its name
    if holder:
        who = f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
    remedy = "wait for its end or end it, or choose another place"
    if locked is False:
        silent = _silent_seconds(file, path)
        if silent > STALE_SECONDS:  # a file server may not have noticed that a machine is gone
            remedy += f"; no sign of life for {silent:.0f} s: if it is dead, delete {path}"
        raise UserError(f"{what}: in use by {who}; {remedy}")
    if holder["host"] != socket.gethostname():  # our flock may not reach that far
        if _gives_sign(file, path, f"{what}: {who} may be at work"):
            raise UserError(f"{what}: in use by {who}; {remedy}")
    elif locked is None and _alive(holder["pid"]) and _silent_seconds(file, path) < STALE_SECONDS:
        raise UserError(f"{what}: in use by {who}; {remedy}")
    print(f"{what}: taken over from {who}, which is dead", file=sys.stderr, flush=True)


def _gives_sign(file: io.FileIO, path: Path, told: str) -> bool:
    """Watch for a sign of life until there has been none for STALE_SECONDS.

    So that a job that is started again on another machine goes on by itself.
    """
    last, missing = os.fstat(file.fileno()).st_mtime, STALE_SECONDS - _silent_seconds(file, path)
    if missing > 0:
        text = f"{told}; waiting {missing:.0f} s for a sign of life"
        print(text, file=sys.stderr, flush=True)
    deadline = time.monotonic() + missing
    while time.monotonic() < deadline:
        time.sleep(min(1.0, missing / 10))
        if os.stat(path).st_mtime > last:
            return True
    return False


def _write(file: io.FileIO):
    started = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    file.truncate(0)
    file.write(json.dumps(holder).encode() + b"\n")


def _read(file: io.FileIO) -> dict[str, Any] | None:
    """Return host, pid and start of the holder; None when nobody held it or it is unreadable."""
    file.seek(0)
    try:
        holder = json.loads(file.read(1000))  # more is no lock
        return {"host": holder["host"], "pid": int(holder["pid"]), "started": holder["started"]}
    except (ValueError, TypeError, KeyError):
        return None


def _silent_seconds(file: io.FileIO, path: Path) -> float:
    """Return the seconds since the last sign of life, both times by the file server's clock."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as now:
            now.write(b"now")
            now.flush()
            return os.fstat(now.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror})") from error


def _alive(pid: int) -> bool:
    if pid == os.getpid():  # a number given anew, as in a container that was started again
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _show_life(file_number: int, ended: threading.Event):
    while not ended.wait(LIFE_SIGN_SECONDS):
        with contextlib.suppress(OSError):  # the file server may be back at the next sign
            os.utime(file_number)
