"""What DECK (Tao et al., "DECK: Model Hardening for Defending Pervasive Backdoors") published of removers: Tables IV, V, IX.

The copy of the paper that these were read from has lost some cells of Table IV. A cell that lacks one of its figures does
not say which, so that its others are left out too, but for those that the running text tells. Table IX has the poisoned models
and DECK's figures again, whole, with its own columns.
"""

from __future__ import annotations

from orthogon.bench.removal import AS_IT_CAME, Figures, RemovalGrid, Subject, Table, read_figures

PAPER = "Tao et al., DECK: Model Hardening for Defending Pervasive Backdoors, arXiv:2206.09272"
ROWS_4 = ("fine-tuning", "nad", "anp", "abs", "moth", "deck")
ROWS_9 = ("fine-pruning", "mcr", "deck")

# Figures of a cell stand in the order of its models, as section V-C tells: "DFST on ResNet32 Detox1 from 97.60% to more than
# 60%", ANP there to "20.67% but with … 89.95% to 83.34%", DECK to "14.22%"; "VGG13 Detox1 … to 24.56%, 33.78%, and 5.33%" by
# NAD, ABS and MOTH; on STL-10 "37.56% on VGG13 Detox3 by ABS" and "12.33%" by DECK.
_TABLE_4 = read_figures(
    """
    dfst-cifar10-resnet32-detox1 89.95 97.60     -     -     - 60.44 83.34 20.67 86.97 84.11 88.90     - 88.22 14.22
    dfst-cifar10-resnet32-detox3 90.93 95.33     -     -     - 17.33     - 90.11 90.74 37.78 89.53     - 88.11 12.22
    dfst-cifar10-vgg13-detox1    90.34 95.89     -     -     - 24.56     - 89.56 88.71 33.78 87.26  5.33 88.03  2.00
    dfst-cifar10-vgg13-detox3    91.29 97.44     -     -     - 55.33     - 96.11 88.67 66.67 89.91     - 89.08  5.67
    dfst-stl10-resnet32-detox1   75.74 97.67     -     -     - 44.00     - 90.11     -     - 71.97     - 72.10  2.67
    dfst-stl10-resnet32-detox3   76.45 99.00     -     -     - 89.11     - 69.56     -     - 72.09     - 72.86  4.78
    dfst-stl10-vgg13-detox1      72.18 98.67     -     -     - 86.67     - 98.11     -     - 69.86     - 68.61  5.89
    dfst-stl10-vgg13-detox3      72.09 98.89     -     -     - 81.00     - 97.33     - 37.56 67.54     - 69.89 12.33
    blend-cifar10-resnet20       90.96 99.96 90.33 84.92 86.81  3.94     -  6.22 89.41  5.66 85.44 12.26 89.08  0.00
    blend-svhn-nin               94.10 92.37 92.70  0.54 94.40  0.33     -  0.41 91.76 10.66 94.41  0.20 94.56  0.85
    sig-cifar10-resnet20         83.38 93.30     - 59.40 85.84  9.44     -     - 86.82 85.29 80.39 17.72 86.91  3.97
    sig-svhn-nin                 95.48 92.46     - 41.60 94.21  0.68     -     - 93.47 55.02 94.90  0.69 93.96  0.46
    wanet-cifar10-resnet18       94.15 99.55 93.58 80.71 91.37  0.87     -  0.11 89.61  1.88 92.65  0.62 91.12  0.64
    wanet-gtsrb-resnet18         99.01 98.94 96.80 48.75 94.96  0.02     -  0.00 98.51  0.00 97.72  0.01 97.70  0.30
    wanet-celeba-resnet18        78.99 99.08 78.89 21.35 76.57 15.34     - 14.22 75.56 21.69 77.80  8.91 77.57  8.12
    cleanlabel-cifar10-resnet18  87.60 98.36 85.74 97.34 84.44  7.47     -     - 85.33  7.18 83.70  8.34 85.67  4.22
    """,
    (AS_IT_CAME, *ROWS_4),
)
# ANP's are told by the text alone: "ANP is able to reduce the ASR to 45.96% with 4.28% accuracy degradation", which is to 82.14.
_AVERAGE_4 = read_figures(
    "average 86.42 97.16 84.77 67.13 83.60 31.03 82.14 45.96 84.10 41.38 84.00 31.68 84.59 4.90", (AS_IT_CAME, *ROWS_4)
)["average"]

_TABLE_9 = read_figures(
    """
    dfst-cifar10-resnet32-detox1 89.95 97.60 88.20 62.89 87.95 62.67 88.22 14.22
    dfst-cifar10-resnet32-detox3 90.93 95.33 88.09 47.44 82.84 60.78 88.11 12.22
    dfst-cifar10-vgg13-detox1    90.34 95.89 87.37 51.11 86.58 90.33 88.03  2.00
    dfst-cifar10-vgg13-detox3    91.29 97.44 88.84 85.67 88.81 86.78 89.08  5.67
    dfst-stl10-resnet32-detox1   75.74 97.67 68.89 96.11 68.05 84.67 72.10  2.67
    dfst-stl10-resnet32-detox3   76.45 99.00 69.25 88.22 69.98 81.89 72.86  4.78
    dfst-stl10-vgg13-detox1      72.18 98.67 67.12 67.00 66.06 66.22 68.61  5.89
    dfst-stl10-vgg13-detox3      72.09 98.89 68.14 49.44 66.66 79.67 69.89 12.33
    blend-cifar10-resnet20       90.96 99.96 87.75  3.63 85.53 63.58 89.08  0.00
    blend-svhn-nin               94.10 92.37 88.26 23.75 93.50  0.59 94.56  0.85
    sig-cifar10-resnet20         83.38 93.30 81.01 76.29 83.31 16.63 86.91  3.97
    sig-svhn-nin                 95.48 92.46 93.35 23.49 93.19 45.16 93.96  0.46
    wanet-cifar10-resnet18       94.15 99.55 89.14  2.09 93.29  1.74 91.12  0.64
    wanet-gtsrb-resnet18         99.01 98.94 96.06 63.40 98.54 10.47 97.70  0.30
    wanet-celeba-resnet18        78.99 99.08 76.57 18.07 78.32 16.21 77.57  8.12
    cleanlabel-cifar10-resnet18  87.60 98.36 83.66 26.77 85.23 13.91 85.67  4.22
    """,
    (AS_IT_CAME, *ROWS_9),
)
_AVERAGE_9 = read_figures("average 86.42 97.16 82.61 49.09 82.99 48.83 84.59 4.90", (AS_IT_CAME, *ROWS_9))["average"]

_TABLE_5 = read_figures(
    """
    adaptive-20 83.64 60.43 83.94 9.94
    adaptive-50 67.86 74.94 75.71 4.42
    """,
    (AS_IT_CAME, "deck"),
)

# Figure 14 is of bars without figures: what the text tells of it (section V-C).
_FILTERS = {
    "fine-tuning": Figures(words="17 of 34 repaired"),
    "nad": Figures(words="21 of 34 repaired"),
    "anp": Figures(words="15 of 34 repaired"),
    "abs": Figures(words="15 of 34 repaired"),
    "moth": Figures(words="28 of 34 repaired"),
    "deck": Figures(success=0.0055),
}

_WORDS = {"dfst": "DFST", "blend": "Blend", "sig": "SIG", "wanet": "WaNet", "cleanlabel": "Clean Label"}
_WORDS |= {"cifar10": "CIFAR-10", "stl10": "STL-10", "svhn": "SVHN", "gtsrb": "GTSRB", "celeba": "CelebA", "nin": "NiN"}
_WORDS |= {"resnet18": "ResNet18", "resnet20": "ResNet20", "resnet32": "ResNet32", "vgg13": "VGG13"}
_WORDS |= {"detox1": "1 detoxification", "detox3": "3 detoxifications"}


def _label(key: str) -> str:
    """ "DFST, CIFAR-10, ResNet32, 1 detoxification"."""
    return ", ".join(_WORDS[part] for part in key.split("-"))


def _subjects(source: str, average: Table, models: dict[str, Table]) -> tuple[Subject, ...]:
    mean = Subject("average", "five pervasive backdoors, mean of 16 models, 5 % clean", source, average)
    return (mean, *(Subject(key, _label(key), source, figures) for key, figures in models.items()))


TABLE_4 = RemovalGrid(
    "deck-table4",
    "Eliminating injected pervasive backdoors (DECK, Table IV)",
    PAPER,
    ROWS_4,
    (
        *_subjects("Table IV", _AVERAGE_4, _TABLE_4),
        Subject(
            "filters",
            "34 models of TrojAI round 4 with filters, mean",
            "Figure 14 and section V-C",
            _FILTERS,
            "the accuracy lost is below 0.3 points on average but for ANP's 1.16",
        ),
    ),
    "average",
)
TABLE_5 = RemovalGrid(
    "deck-table5",
    "The adaptive attack, made while the model is hardened (DECK, Table V and section V-E)",
    PAPER,
    ("deck",),
    tuple(
        Subject(key, f"adaptive, CIFAR-10, ResNet20, {key[-2:]} % poisoned", "Table V", figures)
        for key, figures in _TABLE_5.items()
    ),
    "adaptive-20",
)
TABLE_9 = RemovalGrid(
    "deck-table9",
    "Fine-pruning and MCR against pervasive backdoors (DECK, Table IX)",
    PAPER,
    ROWS_9,
    _subjects("Table IX", _AVERAGE_9, _TABLE_9),
    "average",
)
