"""What numbers of settings may be: one error, with the name and the value, for every kind of settings."""

from __future__ import annotations

import math


def require(
    settings: object,
    *,
    counts: tuple[str, ...] = (),
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
    shares: tuple[str, ...] = (),
    below_one: tuple[str, ...] = (),
) -> None:
    """Look at the named fields of settings.

    Args:
        settings: any object with these fields.
        counts: at least 1.
        positive: above 0, finite.
        not_negative: at least 0, finite.
        shares: from 0 to 1.
        below_one: from 0 to below 1.

    Raises:
        ValueError: a number is outside its range, or NaN.
    """
    for names, allowed, fits in (
        (counts, "at least 1", lambda value: 1 <= value < math.inf),
        (positive, "above 0", lambda value: 0 < value < math.inf),
        (not_negative, "at least 0", lambda value: 0 <= value < math.inf),
        (shares, "from 0 to 1", lambda value: 0 <= value <= 1),
        (below_one, "from 0 to below 1", lambda value: 0 <= value < 1),
    ):
        for name in names:
            if not fits(getattr(settings, name)):
                raise ValueError(f"{name} must be {allowed}, got {getattr(settings, name)}")
