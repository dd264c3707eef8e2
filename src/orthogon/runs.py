"""A run's folder: settings, events and results that survive kill -9, a full disk and a second process."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import EACCES, EAGAIN, EDQUOT, EEXIST, ENAMETOOLONG, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

_REASONS = {
    ENOSPC: "no space is left on its disk; free some and give the same command again (without --fresh), finished parts are kept",
    EDQUOT: "the disk quota is used up; free some and give the same command again (without --fresh), finished parts are kept",
    EACCES: "permission denied; choose another folder, or change its permissions",
    EPERM: "permission denied; choose another folder, or change its permissions",
    EROFS: "its disk is read-only; choose another folder",
    ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    EEXIST: "a file of that name is in the way; choose another folder",
    ENAMETOOLONG: "the name is too long; choose another",
}


class RunError(OSError):
    """A run's folder cannot be used as asked; the message says why and what to do."""


class OtherSettings(RunError):
    """The folder holds a run of other settings, which are listed in the message."""


class DiskFull(RunError):
    """A file does not fit on its disk, or into the quota there."""


class RunInUse(RunError):
    """Another process is writing this run now."""


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns the system's error into one that names the path and the way out."""
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        kind = DiskFull if error.errno in (ENOSPC, EDQUOT) else RunError
        raise kind(f"cannot write {path}: {reason}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader, or a crash at any moment, sees the old file or the new one.

    Raises:
        RunError: the folder is unwritable or full; the old file is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can open folders (Windows and some network disks cannot)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step; errors as `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step; errors as `write_bytes`.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON has no word for (None is ours).
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ValueError: the file is not JSON, or something else than an object.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON that can be read: it holds lists within lists, too deep") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors in one step, whatever device or memory format they have; errors as `write_bytes`."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, None if metadata is None else dict(metadata)))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell one set of JSON-like settings from another, for the names of folders."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def versions() -> dict[str, str]:
    """What computed the numbers: packages, Python, platform, processor, and the GPU ("none" where there is none)."""
    return {
        "orthogon": importlib.metadata.version("orthogon"),
        "torch": str(torch.__version__),  # with its build, such as +cu128, which the package's metadata leave out
        "torchvision": importlib.metadata.version("torchvision"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _processor() -> str:
    with contextlib.suppress(OSError):  # on Linux `platform` knows the architecture alone
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False)
class Run:
    """An open run: this process alone writes its folder until `close` (or the end of the `with`, or its death)."""

    folder: Path
    command: str
    settings: dict[str, Any]
    resumed: bool
    """True where the folder already held this run."""
    moved: tuple[str, ...]
    """Versions and machine where they are others than those that began the run, "torch: old -> new" each."""
    _lock: IO[bytes]

    @classmethod
    def open(
        cls,
        folder: Path,
        command: str,
        settings: Mapping[str, Any],
        *,
        inputs: Mapping[str, Any] | None = None,
        fresh: bool = False,
    ) -> Run:
        """Begin the run of a folder, or go on with it.

        Args:
            folder: made where it is missing.
            command: what the run does, such as "measure".
            settings: JSON-like; all that the results depend on, and nothing else.
            inputs: JSON-like; digests of what the run reads and what names among its settings stand for; compared like
                settings, so that a model, data or a protocol that changed under the same name are noticed.
            fresh: begin anew; an earlier run is kept beside it under another name, not deleted.

        Raises:
            OtherSettings: the folder's run has another command or other settings; the message lists them.
            RunInUse: another process has the run open.
            RunError: the folder cannot be written.
            ValueError: the settings hold NaN or infinity.
        """
        asked = {"command": command, "settings": dict(settings), "inputs": dict(inputs or {})}
        asked = json.loads(json.dumps(asked, allow_nan=False))
        if fresh:
            _set_aside(folder)
        with _named_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = _lock_folder(folder)
        try:
            begun = _checked_settings(folder, asked)
            now = versions()
            if begun is None:
                write_json(folder / "settings.json", {**asked, "versions": now, "started": _now()})
            else:
                _remove_leftovers(folder)
        except BaseException:
            lock.close()
            raise
        known = {} if begun is None else begun.get("versions") or {}
        moved = tuple(differences(known, {name: now.get(name) for name in known}))
        run = cls(folder, command, asked["settings"], begun is not None, moved, lock)
        run.event("resumed" if run.resumed else "started", **({"versions": now} if moved else {}))
        return run

    def path(self, name: str) -> Path:
        """Where a file of this run lies."""
        return self.folder / name

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl: the time, the kind and the JSON-like fields.

        Raises:
            RunError: the folder is unwritable or full.
        """
        path = self.path("events.jsonl")
        line = json.dumps({"time": _now(), "kind": kind, **fields}, allow_nan=False, ensure_ascii=False) + "\n"
        with _named_errors(path), path.open("ab+") as file:
            if file.tell() and not _ends_line(file):
                line = "\n" + line
            file.write(line.encode())

    def close(self) -> None:
        """Let other processes open the run."""
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ends_line(file: IO[bytes]) -> bool:
    """Whether the last write was whole: a process killed in the middle of a line leaves half of it."""
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run in their order, without lines that a kill cut short; empty where there are none."""
    path = folder / "events.jsonl"
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
            events.append(json.loads(line))
    return events


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings.json of a run ("command", "settings", "inputs", "versions", "started"); None where there is no run.

    Raises:
        RunError: the file is there, but is not ours.
    """
    path = folder / "settings.json"
    if not path.exists():
        return None
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; choose another folder") from error
    if not {"command", "settings"} <= record.keys():
        raise RunError(f"{path} is not the settings of a run; choose another folder")
    return record


def _checked_settings(folder: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The settings.json of the folder where it holds this very run, None where it holds none; another run is an error."""
    found = read_settings(folder)
    if found is None:
        return None
    old, new = ({"command": r["command"], **r["settings"], "inputs": r.get("inputs", {})} for r in (found, asked))
    changes = differences(old, new)
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        advice = "choose another folder, give the same settings again to go on with this run, or --fresh to set it aside"
        raise OtherSettings(f"{folder} holds a run of other settings:\n{listed}\n{advice}")
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line "name: old -> new" for each JSON-like setting that differs, nested names joined by dots."""
    lines = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left behind, in the folder and those within it."""
    for pattern in (".*.partial", "*/.*.partial"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def _set_aside(folder: Path) -> None:
    """Rename a folder's run to the first free "<folder>.old-N"."""
    if read_settings(folder) is None:
        return
    _lock_folder(folder).close()  # refuses while another process writes it
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with _named_errors(folder):
        folder.rename(aside)


def _lock_folder(folder: Path) -> IO[bytes]:
    """Hold the folder's lock file; the system lets go of it when the process ends, however it ends."""
    path = folder / ".lock"
    with _named_errors(path):
        file = path.open("ab")
    try:
        _lock_file(file)
    except OSError as error:
        if error.errno in (EACCES, EAGAIN):
            file.close()
            message = f"{folder} is being written by another process; wait for it, or choose another folder"
            raise RunInUse(message) from error
        # Some network disks know no locks: two careless processes are a smaller harm than no run at all.
    return file


def _lock_file(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
