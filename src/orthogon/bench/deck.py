"""DECK's tables of hardening (Tao et al., "DECK: Model Hardening for Defending Pervasive Backdoors") as grids, with figures.

All rows are measured by pervasive triggers, whatever they were hardened with; Table III's second opinion is of filters.
"""

from __future__ import annotations

from dataclasses import replace

from orthogon.bench.grid import Grid, Row, Subject
from orthogon.bench.moth import MOTH, NAD, NC, UAP
from orthogon.bench.published import ADVERSARIAL, Table, read_table

PAPER = "Tao et al., DECK: Model Hardening for Defending Pervasive Backdoors, arXiv:2206.09272"


def _read(text: str) -> Table:
    return read_table(text, ADVERSARIAL)


_TABLE_1 = {
    "cifar10-resnet20": _read("""
        natural 91.52 0.00  56.77 22.62
        nc      89.95 0.00  84.96 24.11  6.01 1.57 0.00
        nad     91.09 0.00   3.06 22.57 -0.29 0.43 0.00
        anp     90.31 0.00   0.95 22.69  0.29 1.21 0.00
        uap     90.04 0.00 243.11 23.98  6.64 1.48 0.00
        moth    90.34 0.00  29.68 25.92 14.04 1.18 0.00
        deck    90.31 0.00  16.73 34.60 52.66 1.21 0.00
    """),
    "cifar10-nin": _read("""
        natural 88.09 0.20  68.30 21.18
        nc      87.18 0.50  40.38 21.46  1.55 0.91 0.00
        nad     83.68 0.30   1.14 21.52  2.32 4.41 0.00
        anp     85.88 0.20   0.41 20.96 -0.98 2.21 0.00
        uap     86.61 0.30 196.67 21.13  0.03 1.48 0.00
        moth    86.81 0.00  36.63 23.21 10.04 1.28 0.20
        deck    86.35 0.20  21.02 25.95 22.86 1.74 0.00
    """),
    "cifar10-vgg19": _read("""
        natural 92.30 0.20  68.42 27.60
        nc      91.23 0.90 134.08 27.19 -0.87 1.07 0.00
        nad     91.51 0.20   3.83 28.58  3.40 0.79 0.00
        anp     90.48 0.20   1.04 28.57  4.90 1.82 0.00
        uap     90.78 0.90 226.55 25.35 -5.25 1.52 0.00
        moth    91.48 0.20  44.80 26.64 -2.09 0.82 0.00
        deck    90.88 1.50  19.00 37.88 39.72 1.42 0.00
    """),
    "svhn-nin": _read("""
        natural 95.61 6.50 10.50 23.43
        nc      94.39 6.10 24.75 23.33  0.53 1.22 0.40
        nad     92.48 9.80  1.42 25.03  7.54 3.13 0.00
        anp     93.72 4.10  0.55 23.14 -0.50 1.89 2.40
        uap     94.63 4.30 45.47 22.54 -3.18 0.98 2.20
        moth    94.99 6.60 47.77 23.37  0.54 0.62 0.00
        deck    94.08 7.10 18.33 37.55 61.47 1.53 0.00
    """),
    "svhn-resnet32": _read("""
        natural 95.15 0.20  26.70 36.40
        nc      94.09 0.30  31.59 33.87  -6.13 1.06 0.00
        nad     93.91 0.40   0.89 34.36  -5.12 1.24 0.00
        anp     93.99 0.20   3.61 37.59   4.19 1.16 0.00
        uap     93.16 0.10 228.95 39.51   9.85 1.99 0.10
        moth    94.49 7.90 172.63 27.48 -23.90 0.66 0.00
        deck    93.84 0.70  29.15 87.20 142.73 1.31 0.00
    """),
}
TABLE_1_AVERAGE = _read("""
    natural 92.53 1.42  46.14 26.24
    nc      91.37 1.56  63.15 25.99  0.22 1.16 0.00
    nad     90.53 2.14   2.07 26.41  1.57 2.00 0.00
    anp     90.88 0.94   1.31 26.59  1.58 1.66 0.48
    uap     91.04 1.14 188.15 26.50  1.62 1.49 0.28
    moth    91.62 2.94  66.30 25.32 -0.27 0.91 0.00
    deck    91.09 1.90  21.86 44.64 63.89 1.44 0.00
""")
"""The last block of Table I: "from 26.24 to 44.64 on average (63.89% improvement)" (section V-B). Two of its figures do not
follow from the rows: DECK's minutes, 21.86 in the text, too (the rows' mean is 20.85), and UAP's robustness (1.12)."""

_TABLE_6 = {
    "cifar10-resnet50": _read("""
        natural 92.71 0.00  74.11 23.05
        nc      91.54 0.00 183.00 24.40  5.78 1.17 0.00
        nad     92.65 0.00   6.01 23.10  0.48 0.06 0.00
        anp     92.27 0.00   4.66 23.35  1.35 0.44 0.00
        uap     91.83 0.70 345.61 24.10  5.08 0.88 0.00
        moth    91.25 0.00  51.69 24.84  8.22 1.46 0.00
        deck    91.43 0.00  21.49 42.42 83.96 1.28 0.00
    """),
    "lisa-cnn": _read("""
        natural 97.30 1.00  0.15 42.51
        nc      82.67 1.14  8.27 46.86  15.46 14.63 0.00
        nad     95.45 0.86  0.15 44.79   8.58  1.85 0.14
        anp     96.45 1.14  0.07 45.68  11.30  0.85 0.00
        uap     95.60 3.57  1.79 39.35  -2.40  1.70 0.00
        moth    96.31 1.29 13.09 50.16  18.69  0.99 0.00
        deck    96.73 0.71  3.82 82.56 111.38  0.57 0.29
    """),
    "lisa-resnet20": _read("""
        natural 98.86 0.00  1.70 29.79
        nc      98.44 0.00 34.42 29.49  0.81 0.42 0.00
        nad     96.59 0.00  0.72 30.99  5.51 2.27 0.00
        anp     96.88 0.00  1.16 28.74 -1.47 1.98 0.00
        uap     96.16 0.00  6.33 29.58  2.67 2.70 0.00
        moth    98.30 0.14 38.75 27.02 -5.55 0.57 0.00
        deck    98.44 0.00  4.42 34.71 17.65 0.42 0.00
    """),
    "gtsrb-nin": _read("""
        natural 95.28 13.90   4.60 29.28
        nc      95.65 13.30 110.51 29.28  0.15 0.00 0.60
        nad     93.63 12.20   0.51 32.74 14.96 1.65 1.70
        anp     94.05 13.30   0.43 29.13  0.68 1.23 0.60
        uap     95.25 15.80  20.55 30.47  7.44 0.03 0.00
        moth    95.55 17.40  74.01 30.75  8.00 0.00 0.00
        deck    96.33 12.80  45.71 33.33 16.48 0.00 1.10
    """),
}
TABLE_6_AVERAGE = _read("""
    natural 96.04 3.73 20.14 31.16
    nc      92.08 3.61 84.05 32.51  5.55 3.96 0.12
    nad     94.58 3.26  1.85 32.91  7.38 1.46 0.46
    anp     94.91 3.61  1.58 31.73  2.97 1.13 0.11
    uap     94.71 5.02 93.57 30.88  3.20 1.33 0.00
    moth    95.35 4.71 44.39 33.19  7.34 0.69 0.00
    deck    95.73 3.38 18.86 48.26 57.37 0.31 0.35
""")
"""The last block of Table VI: "from 31.16 to 48.26 on average (57.37% improvement)" (appendix IV)."""

_TABLE_2 = {
    "cifar10-resnet20": _read("""
        natural 74.87 42.80 462.50 32.28
        nc      74.96 42.50  78.73 32.92  2.48 0.00 0.30
        nad     74.29 42.50   2.61 32.56  1.08 0.58 0.30
        anp     73.75 40.90   0.97 31.39 -2.41 1.12 1.90
        moth    74.04 43.00  38.71 33.72  4.76 0.83 0.00
        deck    74.55 42.00  15.52 39.18 22.56 0.32 0.80
    """),
    "cifar10-nin": _read("""
        natural 73.94 41.40 430.39 30.28
        nc      73.75 38.00  43.41 30.03 -0.40 0.19 3.40
        nad     73.61 39.50   1.26 30.12 -0.27 0.33 1.90
        anp     73.10 36.00   0.42 29.59 -2.23 0.84 5.40
        moth    73.47 41.10  25.57 32.36  7.27 0.47 0.30
        deck    73.01 40.60  14.11 41.29 37.81 0.93 0.80
    """),
    "cifar10-vgg19": _read("""
        natural 76.00 41.30 1166.18 34.50
        nc      75.37 41.60  141.38 34.31 -0.49 0.63 0.00
        nad     73.81 39.90    4.12 37.45  9.35 2.19 1.40
        anp     75.69 38.50    1.07 32.95 -4.11 0.31 2.80
        moth    75.08 42.50   81.54 39.45 13.99 0.92 0.00
        deck    75.68 42.30   18.21 43.31 25.63 0.32 0.00
    """),
    "svhn-nin": _read("""
        natural 91.63 51.20 132.00 45.99
        nc      92.02 41.50  27.38 31.66 -27.12 0.00  9.70
        nad     88.73 31.10   1.42 42.92  -0.96 2.90 20.10
        anp     91.45 46.90   0.56 36.13 -19.34 0.18  4.30
        moth    91.40 52.30  51.42 38.40 -14.43 0.24  0.00
        deck    91.45 50.20  17.17 67.60  48.12 0.18  1.00
    """),
    "svhn-resnet32": _read("""
        natural 92.94 58.30 300.08 47.54
        nc      92.25 49.90  43.20 33.18 -20.29 0.69 8.40
        nad     90.02 48.70   5.81 48.25  15.85 2.92 9.60
        anp     91.70 51.50   2.33 35.91 -16.34 1.24 6.80
        moth    92.52 58.90 111.74 35.44 -17.10 0.42 0.00
        deck    93.18 58.10  32.80 56.54  32.57 0.00 0.20
    """),
}
TABLE_2_AVERAGE = _read("""
    natural 81.88 47.00 498.23 38.12
    nc      81.67 42.70  66.82 32.42 -9.16 0.21 4.30
    nad     80.09 40.34   3.04 38.26  5.01 1.79 6.66
    anp     81.14 42.76   1.07 33.19 -8.89 0.74 4.24
    moth    81.30 47.56  61.80 35.87 -1.10 0.58 0.00
    deck    81.57 46.64  19.56 49.58 33.34 0.30 0.36
""")
"""The last block of Table II."""

_TABLE_7 = {
    "cifar10-resnet50": _read("""
        natural 78.45 42.30 973.47 32.98
        nc      77.21 42.70 155.98 33.30  1.08 1.24 0.00
        nad     77.60 44.50   6.11 34.28  3.92 0.85 0.00
        anp     77.05 33.70   4.66 30.15 -8.49 1.40 8.60
        moth    77.63 41.70  91.90 35.05  6.51 0.82 0.60
        deck    77.20 42.70  41.67 39.81 21.70 1.25 0.00
    """),
    "lisa-cnn": _read("""
        natural 75.43 25.00  5.00  97.82
        nc      73.44 24.43  8.54  87.82  -9.53 1.99 0.57
        nad     70.17 23.57  0.14  98.26  -2.02 5.26 1.43
        anp     73.86 23.00  0.07  86.14 -12.33 1.57 2.00
        moth    74.72 31.14 17.47  95.72  -3.57 0.71 0.00
        deck    74.29 30.86  5.78 105.47  15.30 1.14 0.00
    """),
    "lisa-resnet20": _read("""
        natural 80.54 36.57 17.40  92.81
        nc      78.13 41.86 79.76  93.79   7.37 2.41  0.00
        nad     80.97 40.00  0.93  88.73  -1.08 0.00  0.00
        anp     80.26 20.71  1.18  81.04  -8.01 0.28 15.86
        moth    81.25 41.00 43.34  77.27 -19.89 0.00  0.00
        deck    81.82 36.71  6.18 101.55  17.80 0.00  0.00
    """),
    "gtsrb-nin": _read("""
        natural 90.96 68.70  54.98 50.02
        nc      91.55 63.60 111.72 36.11 -23.39 0.00  5.10
        nad     88.12 54.30   0.50 36.49 -20.58 2.84 14.40
        anp     89.67 61.30   0.54 37.11 -21.09 1.29  7.40
        moth    90.32 70.50  71.29 48.54   2.00 0.64  0.00
        deck    90.37 69.20  27.83 52.14  11.73 0.59  0.00
    """),
}
TABLE_7_AVERAGE = _read("""
    natural 81.35 43.14 262.71 68.41
    nc      80.08 43.15  89.00 62.75  -6.12 1.27 0.00
    nad     79.22 40.59   1.92 64.44  -4.94 2.13 2.55
    anp     80.21 34.68   1.61 58.61 -12.48 1.13 8.46
    moth    80.98 46.09  56.00 64.15  -3.74 0.37 0.00
    deck    80.92 44.87  20.37 74.74  16.63 0.42 0.00
""")
"""The last block of Table VII: "16.63% on average, with only 0.42% accuracy degradation" (appendix IV)."""

# Table III: mean distance by filters, and its increase in per cent; accuracy and minutes are those of Table I.
_BY_FILTERS: dict[str, dict[str, tuple[float, float | None]]] = {
    "cifar10-resnet20": {
        "natural": (39.04, None),
        "nc": (43.46, 9.67),
        "nad": (39.55, -6.63),
        "anp": (33.45, -7.02),
        "uap": (41.92, 6.87),
        "moth": (42.78, 9.58),
        "deck": (58.14, 20.42),
    },
    "svhn-resnet32": {
        "natural": (23.30, None),
        "nc": (20.42, -8.94),
        "nad": (15.97, -35.36),
        "anp": (26.38, 10.59),
        "uap": (34.93, 25.79),
        "moth": (11.20, -69.47),
        "deck": (41.72, 148.35),
    },
}

_TABLE_10 = read_table(
    """
    natural       91.52 56.77 22.62
    deck          90.31 16.73 34.60 52.66
    swwae         90.97 16.48 23.75  4.63
    nearest       90.32 16.37 23.35  3.52
    zero          89.83 16.55 30.92 36.30
    pool2         90.81 19.61 24.93 10.34
    no-content    90.13 16.47 33.42 46.48
    no-similarity 90.36 17.25 29.15 27.91
    no-statistics 90.27 17.88 30.10 32.38
    no-smoothness 90.13 18.09 33.64 47.54
    """,
    ("accuracy", "minutes", "distance", "increase"),
)

_LABELS = {
    "cifar10-resnet20": "CIFAR-10, ResNet20",
    "cifar10-nin": "CIFAR-10, NiN",
    "cifar10-vgg19": "CIFAR-10, VGG19",
    "cifar10-resnet50": "CIFAR-10, ResNet50",
    "svhn-nin": "SVHN, NiN",
    "svhn-resnet32": "SVHN, ResNet32",
    "lisa-cnn": "LISA, CNN",
    "lisa-resnet20": "LISA, ResNet20",
    "gtsrb-nin": "GTSRB, NiN",
}


def _subjects(source: str, tables: dict[str, Table]) -> tuple[Subject, ...]:
    return tuple(Subject(key, _LABELS[key], source, table) for key, table in tables.items())


def _by_filters(key: str) -> Table:
    """The rows of Table I with the distances of Table III."""
    rows = {}
    for row, (distance, increase) in _BY_FILTERS[key].items():
        grown = None if increase is None else round(increase / 100, 6)
        rows[row] = replace(_TABLE_1[key][row], distance=distance, increase=grown)
    return rows


ANP = Row("anp", "ANP", None, note="`orthogon remove anp` does it, which hardens nothing: its published figures alone")
DECK = Row("deck", "DECK", "deck")
_ROWS = (NC, NAD, ANP, UAP, MOTH, DECK)

TABLE_1 = Grid(
    "deck-table1",
    "DECK, Table I (and VI): naturally trained models, measured by pervasive triggers",
    PAPER,
    _ROWS,
    (*_subjects("Table I", _TABLE_1), *_subjects("Table VI", _TABLE_6)),
    distances="pervasive",
)

_PGD = {"adversary": "pgd"}
TABLE_2 = Grid(
    "deck-table2",
    "DECK, Table II (and VII): adversarially trained models, still trained adversarially while they are hardened",
    PAPER,
    (NC.changed(_PGD), NAD, ANP, MOTH.changed(_PGD), DECK.changed(_PGD)),
    (*_subjects("Table II", _TABLE_2), *_subjects("Table VII", _TABLE_7)),
    distances="pervasive",
)

TABLE_3 = Grid(
    "deck-table3",
    "DECK, Table III: naturally trained models, measured by filters",
    PAPER,
    _ROWS,
    tuple(Subject(key, _LABELS[key], "Table III", _by_filters(key)) for key in _BY_FILTERS),
    distances="filter",
)

_OTHER_DECODER = "packaged for the embedded encoder and VGG-19; for another, --decoder names a folder with one"
_POOL_2 = "the embedded encoder has no pool2; of a VGG, --decoder names a folder with a decoder of pool1 and one of pool2"
TABLE_10 = Grid(
    "deck-table10",
    "DECK, Table X: ablation of its design choices",
    PAPER,
    (
        DECK,
        Row("swwae", "with SWWAE", "deck", {"upsampling": "swwae"}, note=_OTHER_DECODER),
        Row("nearest", "with Nearest", "deck", {"upsampling": "nearest"}, note=_OTHER_DECODER),
        Row("zero", "with Zero", "deck", {"upsampling": "zero"}, note=_OTHER_DECODER),
        Row("pool2", "with pool2", "deck", {"encoder_layer": "pool2"}, note=_POOL_2),
        Row("no-content", "without content", "deck", {"content_weight": 0.0}),
        Row("no-similarity", "without SSIM", "deck", {"similarity_weight": 0.0}),
        Row("no-statistics", "without norm", "deck", {"statistics_weight": 0.0}),
        Row("no-smoothness", "without smooth", "deck", {"smoothness_weight": 0.0}),
    ),
    (Subject("cifar10-resnet20", "CIFAR-10, ResNet20", "Table X", _TABLE_10),),
    distances="pervasive",
)
