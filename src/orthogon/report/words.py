"""Numbers, units and outcomes in plain words."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from orthogon.methods import METHODS
from orthogon.printing import printable

OUTCOMES = {
    "asr not reached": "no trigger turned enough samples into the target class",
    "too few samples": "the victim class has too few samples for the protocol",
    "not finite": "the model's outputs or losses were not finite numbers",
}
"""Why a pair has no distance, in words."""
MARKS = {"asr not reached": "none", "too few samples": "few", "not finite": "error"}
"""The same in a cell of the heat map."""


def decimals(values: Iterable[float]) -> int:
    """How many decimals a table of these values needs for about three digits."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 1 else 3


def number(value: float, places: int = 1) -> str:
    """A number with thousands separated, or a dash where there is none."""
    return f"{value:,.{places}f}" if math.isfinite(value) else "–"


def percent(share: float) -> str:
    """A share of 1 in per cent, whole, but never 100 % where it is less."""
    if not math.isfinite(share):
        return "–"
    rounded = 99 if 0.99 < share < 1 else round(100 * share)
    return f"{rounded} %"


def exact_percent(share: float | int | None, missing: str = "–") -> str:
    """A share of 1 as "91.90 %"; `missing` where there is none."""
    return missing if share is None or not math.isfinite(share) else f"{100 * share:.2f} %"


def points(share: float | int | None) -> str:
    """A share of 1 as "91.90", in per cent without the sign, or a dash."""
    return "–" if share is None else f"{100 * share:.2f}"


def percentage_points(share: float) -> str:
    """A share of 1 as "1 percentage point" or "0.5 percentage points"."""
    return f"{100 * share:g} percentage point{'' if 100 * share == 1 else 's'}"


def change(share: float | int | None) -> str:
    """A relative change as "+40.0 %", or a dash."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:+.1f} %"


def lone_number(value: float | int | None) -> str:
    """A number that stands in no table: about three digits and at least one decimal, or a dash."""
    return "–" if value is None else number(float(value), max(1, decimals([float(value)])))


def minutes(value: float | int | None) -> str:
    """Minutes without their unit, or a dash."""
    return "–" if value is None else number(value, 1 if value >= 10 else 2)


def or_nan(value: float | int | None) -> float:
    """NaN for what JSON has as null."""
    return math.nan if value is None else float(value)


def duration(seconds: float) -> str:
    """Seconds as "42 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def ordinal(number: int) -> str:
    """ "1st", "2nd", "11th", "103rd"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def counted(count: int, noun: str) -> str:
    """ "1 pair", "1,806 pairs"; the noun's plural is made with an s, "classes" with es."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def count_words(counts: Mapping[str, int]) -> str:
    """Outcomes and how often: "2 × asr not reached (why), 1 × …"."""
    return "; ".join(f"{n:,} × {printable(outcome)} ({OUTCOMES.get(outcome, 'no distance')})" for outcome, n in counts.items())


@dataclass(frozen=True)
class Size:
    """A trigger's size in a unit, and what it means on an image.

    Args:
        unit: as in distances.json, such as "mask L1, summed over channels".
        image_shape: (channels, height, width) of the samples; None where unknown.
    """

    unit: str
    image_shape: tuple[int, int, int] | None

    @property
    def area(self) -> int | None:
        """Pixels of an image, where known."""
        return self.image_shape[1] * self.image_shape[2] if self.image_shape else None

    def pixels(self, value: float) -> float | None:
        """How many fully replaced pixels a size amounts to; None where the unit is no mask or the image is unknown."""
        if self.image_shape is None or not self.unit.startswith("mask L1") or not math.isfinite(value):
            return None
        return value / self.image_shape[0] if "channels" in self.unit else value

    def words(self, value: float) -> str:
        """ "a patch of about 8 of 1,024 pixels", or the number with its unit where pixels mean nothing."""
        pixels = self.pixels(value)
        if pixels is None:
            return f"a trigger of size {number(value, decimals([value]))} ({printable(self.unit)})"
        count = "less than 1" if pixels < 0.95 else f"about {number(pixels, 0)}"
        return f"a patch of {count} of {number(float(self.area or 0), 0)} pixels"

    def share(self, value: float) -> str:
        """The same as a share of the image, "0.8 %"; empty where pixels mean nothing."""
        pixels = self.pixels(value)
        return "" if pixels is None or not self.area else f"{100 * pixels / self.area:.2g} %"

    def patch(self, value: float) -> str:
        """ "≈ 8 of 1,024 pixels"; empty where pixels mean nothing."""
        pixels = self.pixels(value)
        return "" if pixels is None else f"≈ {number(pixels, 0 if pixels >= 0.95 else 2)} of {self.area or 0:,} pixels"

    def from_to(self, before: float, after: float) -> str:
        """ "from a patch of about 18 pixels to one of about 40, of 1,024"; empty where pixels mean nothing."""
        pixels = [self.pixels(value) for value in (before, after)]
        first, last = ("less than 1" if p is None or p < 0.95 else f"about {number(p, 0)}" for p in pixels)
        return "" if None in pixels else f"from a patch of {first} to one of {last} of {self.area or 0:,} pixels"

    @property
    def explanation(self) -> str:
        """How to turn the unit into pixels; empty where pixels mean nothing."""
        if self.image_shape is None or self.pixels(1.0) is None:
            return ""
        channels = self.image_shape[0] if "channels" in self.unit else 1
        start = f"Divided by the {channels} channels, a distance" if channels > 1 else "A distance"
        counted = "one half replaced counts half"
        return f"{start} is the number of pixels, of {self.area:,}, that the trigger replaces; {counted}."


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as "outer.inner": value."""
    rows: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def command_line(started: Mapping[str, Any]) -> str | None:
    """The command that made a run, from its settings.json; None where that file does not tell.

    Nested names lose what is before the dot, as on the command line; what is None, empty or False is left out. Of a hardening
    method's numbers only those that are not the method's own are told.
    """
    command, settings = started.get("command"), started.get("settings")
    if not isinstance(command, str) or not isinstance(settings, Mapping):
        return None
    words = ["orthogon", *command.split()]
    told = {name.rpartition(".")[2]: value for name, value in flat(settings).items()}
    if (method := told.get("method")) in METHODS and command == "harden":
        words.append(str(told.pop("method")))
        own = {name.rpartition(".")[2]: value for name, value in flat(asdict(METHODS[str(method)])).items()}
        changed = {name: value for name, value in told.items() if name in own and value != own[name]}
        words += [f"--no-{name.replace('_', '-')}" for name, value in changed.items() if value is False]
        told = {name: value for name, value in told.items() if name not in own or name in changed}
    for name, value in told.items():
        words += _flag(name.replace("_", "-"), value)
    return printable(shlex.join(words))


def _flag(name: str, value: Any) -> list[str]:
    if value is None or value is False or value in ({}, []):
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list | tuple):
        return [f"--{name}", *(str(v) for v in value)]
    return [f"--{name}", str(value)]


_STOPS = r"\s,;|()\[\]{}<>\"'`"
"""What ends a word of a path within a text."""
_BEGIN = r"(?<![^\s:=,;|(\[{<\"'`])"
"""Where a path may begin: at the start, or behind one of these."""
_SLASHES = r"\\/"
_POSIX, _WINDOWS = r"(?:~(?:[A-Za-z_][\w.-]*)?)?/+", r"(?:[A-Za-z]:[\\/]+|\\\\)"


def _folders(root: str, slashes: str) -> str:
    """The pattern of a path but for its last part; a folder's name may have a few blanks, but none after a file's ending."""
    word = rf"[^{slashes}{_STOPS}]+"
    name = rf"(?:(?!\S*(?:\.[A-Za-z]\w*|:)\s){word}[ ]+){{0,3}}{word}(?<![:=])"
    return rf"{root}(?:{name}[{slashes}]+)*(?=[^\s{slashes},;|)\]}}>\"'`])"


_ADDRESS = rf"\b(?!file:)[A-Za-z][\w+.-]{{1,30}}://[^{_STOPS}]*"
_FOLDERS = re.compile(rf"(?P<address>{_ADDRESS})|{_BEGIN}(?:{_folders(_POSIX, '/')}|{_folders(_WINDOWS, _SLASHES)})")
_ROOT = re.compile(rf"{_BEGIN}(?:{_POSIX}|{_WINDOWS})")
_TEXT = re.compile(r"[\n\"'`]|[,;:]\s")
"""What a text has, and a path hardly ever."""


def without_folders(value: Any) -> Any:
    """The same JSON with absolute paths cut to their last part: a published card should not tell whose disk it was.

    Addresses such as https://host/a/b stay as they are.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in value]
    return _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    """Of one path as a whole its name, whatever its folders are called; of a text the text, its paths cut."""
    if _ROOT.match(text) and len(_ROOT.findall(text)) == 1 and not _TEXT.search(text):
        path = PurePosixPath(text) if text.startswith(("/", "~")) else PureWindowsPath(text)
        return path.name or text
    return _FOLDERS.sub(lambda found: found["address"] or "", text)
