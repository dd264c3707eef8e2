"""Attacks: the backdoors that the papers harden against, one file each, under one contract."""

from orthogon.attacks.adaptive import Adaptive
from orthogon.attacks.attack import Attack, Made, Materials, Threat
from orthogon.attacks.blend import Blend
from orthogon.attacks.clean_label import CleanLabel
from orthogon.attacks.composite import Composite
from orthogon.attacks.dfst import DFST
from orthogon.attacks.filters import Gotham, Kelvin, Lomo, Nashville, Toaster
from orthogon.attacks.input_aware import InputAware
from orthogon.attacks.patch import BadNets
from orthogon.attacks.poisoning import Poisoned, poison, quotas
from orthogon.attacks.polygon import Polygon
from orthogon.attacks.reflection import Reflection
from orthogon.attacks.sig import SIG
from orthogon.attacks.stamps import read_stamp
from orthogon.attacks.wanet import WaNet

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "polygon": Polygon,
    "blend": Blend,
    "sig": SIG,
    "wanet": WaNet,
    "clean-label": CleanLabel,
    "gotham": Gotham,
    "nashville": Nashville,
    "kelvin": Kelvin,
    "lomo": Lomo,
    "toaster": Toaster,
    "reflection": Reflection,
    "composite": Composite,
    "input-aware": InputAware,
    "dfst": DFST,
    "adaptive": Adaptive,
}
"""Every attack that the command line can name; made with no arguments, each has its source's settings."""

__all__ = [
    "ATTACKS",
    "DFST",
    "SIG",
    "Adaptive",
    "Attack",
    "BadNets",
    "Blend",
    "CleanLabel",
    "Composite",
    "Gotham",
    "InputAware",
    "Kelvin",
    "Lomo",
    "Made",
    "Materials",
    "Nashville",
    "Poisoned",
    "Polygon",
    "Reflection",
    "Threat",
    "Toaster",
    "WaNet",
    "poison",
    "quotas",
    "read_stamp",
]
