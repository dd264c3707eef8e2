"""Removers: planted backdoors out of a model with clean images alone, one file each, under one contract."""

from orthogon.removal.abs import ABS
from orthogon.removal.anp import ANP
from orthogon.removal.aug_sam import AugSAM
from orthogon.removal.auto import Auto
from orthogon.removal.clp import CLP
from orthogon.removal.deck import Deck
from orthogon.removal.fine_pruning import FinePruning
from orthogon.removal.fine_tuning import FineTuning
from orthogon.removal.ft_sam import FTSAM
from orthogon.removal.harness import Removal, remove
from orthogon.removal.i_bau import IBAU
from orthogon.removal.mcr import MCR
from orthogon.removal.moth import Moth, MothAdditive, MothColour, MothFilter
from orthogon.removal.nad import NAD
from orthogon.removal.neural_cleanse import NeuralCleanse
from orthogon.removal.remover import Look, Remover, Work
from orthogon.removal.sau import SAU

REMOVERS: dict[str, type[Remover]] = {
    "auto": Auto,
    "fine-tuning": FineTuning,
    "fine-pruning": FinePruning,
    "nc": NeuralCleanse,
    "abs": ABS,
    "nad": NAD,
    "mcr": MCR,
    "anp": ANP,
    "clp": CLP,
    "i-bau": IBAU,
    "sau": SAU,
    "ft-sam": FTSAM,
    "aug-sam": AugSAM,
    "moth": Moth,
    "moth-filter": MothFilter,
    "moth-colour": MothColour,
    "moth-additive": MothAdditive,
    "deck": Deck,
}
"""Every method that the command line can name; made with no arguments, each has its source's settings."""

__all__ = [
    "ABS",
    "ANP",
    "CLP",
    "FTSAM",
    "IBAU",
    "MCR",
    "NAD",
    "REMOVERS",
    "SAU",
    "AugSAM",
    "Auto",
    "Deck",
    "FinePruning",
    "FineTuning",
    "Look",
    "Moth",
    "MothAdditive",
    "MothColour",
    "MothFilter",
    "NeuralCleanse",
    "Removal",
    "Remover",
    "Work",
    "remove",
]
