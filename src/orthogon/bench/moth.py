"""The tables of MOTH (Tao et al., "Model Orthogonalization", IEEE S&P 2022) as grids, and their published figures.

The copy of the paper that these were read from has the labels of the models scrambled, the rows and their order not. Each
block was given its model by a figure that the running text tells; the comments say which.
"""

from __future__ import annotations

from orthogon.bench.grid import Grid, Row, Subject
from orthogon.bench.published import ADVERSARIAL, NATURAL, Table, read_table

PAPER = "Tao et al., Model Orthogonalization: Class Distance Hardening in Neural Networks for Better Security, IEEE S&P 2022"


def _natural(text: str) -> Table:
    return read_table(text, NATURAL)


def _adversarial(text: str) -> Table:
    return read_table(text, ADVERSARIAL)


# Table III has the same model, "a ResNet20 model on CIFAR-10": 91.52 %, 53.49, 56.77 minutes (section V-D).
_NATURAL_CIFAR10_RESNET20 = _natural("""
    natural   91.52  56.77  53.49
    nc        89.95  84.96  60.57  14.26 1.57
    nad       91.09   3.06  55.80   4.84 0.43
    uap       90.04 243.11  96.00  81.57 1.48
    universal 90.57  65.00  93.54  78.16 0.95
    pairwise  88.78 120.47 111.09 112.84 2.74
    moth      90.34  29.68 109.70 108.62 1.18
""")
# "Network in Network (NiN) on CIFAR-10 … smaller than the original model (57.56 vs. 60.67)" (section V-B).
_NATURAL_CIFAR10_NIN = _natural("""
    natural   88.09  68.30  60.67
    nc        87.18  40.38  67.40  14.39 0.91
    nad       83.68   1.14  62.04   4.35 4.41
    uap       86.61 196.67  57.56  -5.22 1.48
    universal 86.76  33.90  90.69  54.09 1.33
    pairwise  86.35  64.51 120.38 104.13 1.74
    moth      86.81  36.63 121.64 107.60 1.28
""")
# CIFAR-10: the hardened models "have 86.81% to 91.48%" (section V-B), this one the latter; the third network is VGG19 (X-A).
_NATURAL_CIFAR10_VGG19 = _natural("""
    natural   92.30  68.42 61.14
    nc        91.23 134.08 52.87 -11.07 1.07
    nad       91.51   3.83 45.08 -25.17 0.79
    uap       90.78 226.55 77.20  29.53 1.52
    universal 91.71  95.80 71.17  18.88 0.59
    pairwise  90.01 243.96 99.32  61.83 2.29
    moth      91.48  44.80 92.93  55.21 0.82
""")
# "94.99% vs. 91.63% for NiN on SVHN (see Table I and Table II)" (section V-B).
_NATURAL_SVHN_NIN = _natural("""
    natural   95.61  10.50  64.63
    nc        94.39  24.75  65.76   8.12 1.22
    nad       92.48   1.42  59.36  -4.93 3.13
    uap       94.63  45.47  69.31   6.99 0.98
    universal 95.03  53.40 107.15  65.97 0.58
    pairwise  95.16 152.63 113.64  79.20 0.45
    moth      94.99  47.77 131.39 102.56 0.62
""")
# "190.40% (the largest increase on ResNet32 model with SVHN dataset)" (section V-B).
_NATURAL_SVHN_RESNET32 = _natural("""
    natural   95.15  26.70  55.11
    nc        94.09  31.59  60.04  12.31 1.06
    nad       93.91   0.89  53.68  -2.03 1.24
    uap       93.16 228.95  49.40  -8.86 1.99
    universal 94.60 109.30 120.20 113.92 0.55
    pairwise  94.74 530.43 126.60 129.21 0.40
    moth      94.49 172.63 160.65 190.40 0.66
""")
TABLE_1_AVERAGE = _natural("""
    natural   92.53  46.14  59.01
    nc        91.37  63.15  61.33   7.60 1.16
    nad       90.53   2.07  55.19  -4.59 2.00
    uap       91.04 188.15  69.89  20.80 1.49
    universal 91.73  71.48  96.55  66.20 0.80
    pairwise  91.01 222.40 114.21  97.44 1.52
    moth      91.62  66.30 123.26 112.88 0.91
""")
"""The last block of Table I: "46.68% improvement difference on average" between MOTH and Universal (section V-B)."""

# Table V. The first of four blocks; the fourth network of CIFAR-10 is ResNet50 (X-A), and Universal ends at "69.74%" (X-C).
_NATURAL_CIFAR10_RESNET50 = _natural("""
    natural   92.71  74.11  57.80
    nc        91.54 183.00  67.65 18.65 1.17
    nad       92.65   6.01  57.75  0.60 0.06
    uap       91.83 345.61  98.94 73.29 0.88
    universal 91.69 145.02  97.30 69.74 1.02
    pairwise  90.43 209.00 112.46 93.57 2.28
    moth      91.25  51.69 113.46 98.79 1.46
""")
# "For some models such as CNN on LISA, UAP is not able to increase the class distance" (X-C): -1.23 % here.
_NATURAL_LISA_CNN = _natural("""
    natural   97.30   0.15  68.47
    nc        82.67   8.27  74.94  14.21 14.63
    nad       95.45   0.15  67.70   0.20  1.85
    uap       95.60   1.79  65.90  -1.23  1.70
    universal 96.45  11.34 101.48  46.13  0.85
    pairwise  97.16 204.98 193.41 166.57  0.14
    moth      96.31  13.09 178.31 158.35  0.99
""")
# What is left: ResNet20, the second network of LISA (X-A); Pairwise is 19 times slower ("17x-19x … on LISA", X-D).
_NATURAL_LISA_RESNET20 = _natural("""
    natural   98.86   1.70  72.05
    nc        98.44  34.42  73.61   3.08 0.42
    nad       96.59   0.72  81.42  11.79 2.27
    uap       96.16   6.33  97.11  36.32 2.70
    universal 98.30  25.37 113.35  53.38 0.57
    pairwise  98.72 738.92 192.70 168.74 0.14
    moth      98.30  38.75 177.41 144.92 0.57
""")
# Pairwise: "1683.52 minutes … (see results on a NiN model for GTSRB in Table V)" (section V-B).
_NATURAL_GTSRB_NIN = _natural("""
    natural   95.28    4.60  56.93
    nc        95.65  110.51  51.99  -2.61 0.00
    nad       93.63    0.51  57.56   7.93 1.65
    uap       95.25   20.55  53.97   4.27 0.03
    universal 95.22   25.20  78.66  47.69 0.06
    pairwise  95.68 1683.52 167.42 201.81 0.00
    moth      95.55   74.01 117.30 112.34 0.00
""")

# Table II. First of its three blocks of CIFAR-10, in the order of Table I; 74.87 % is the accuracy of the authors' ResNet20.
_ADVERSARIAL_CIFAR10_RESNET20 = _adversarial("""
    natural   74.87 42.80 462.50 209.59
    nc        74.96 42.50  78.73 210.73  2.99 0.00 0.30
    nad       74.29 42.50   2.61 212.16  2.39 0.58 0.30
    universal 73.92 43.30  73.00 259.93 25.62 0.95 0.00
    pairwise  73.34 43.70 128.46 288.12 39.90 1.53 0.00
    moth      74.04 43.00  38.71 270.57 32.16 0.83 0.00
""")
# "a slight robustness drop (0.30%) for a NiN model on CIFAR-10" (section V-B), of MOTH.
_ADVERSARIAL_CIFAR10_NIN = _adversarial("""
    natural   73.94 41.40 430.39 189.49
    nc        73.75 38.00  43.41 188.32  3.90 0.19 3.40
    nad       73.61 39.50   1.26 192.24  1.23 0.33 1.90
    universal 73.54 41.10  35.60 221.53 19.02 0.40 0.30
    pairwise  73.46 40.50  75.66 271.83 47.97 0.48 0.90
    moth      73.47 41.10  25.57 276.93 51.18 0.47 0.30
""")
# What is left of CIFAR-10, whose adversarial models have "73.94% to 78.45%" (section V-B).
_ADVERSARIAL_CIFAR10_VGG19 = _adversarial("""
    natural   76.00 41.30 1166.18 201.07
    nc        75.37 41.60  141.38 226.70 17.13 0.63 0.00
    nad       73.81 39.90    4.12 210.16  5.53 2.19 1.40
    universal 75.06 42.90  113.42 298.06 41.56 0.94 0.00
    pairwise  75.31 42.30  322.68 359.57 62.19 0.69 0.00
    moth      75.08 42.50   81.54 326.85 53.33 0.92 0.00
""")
# "94.99% vs. 91.63% for NiN on SVHN" (section V-B).
_ADVERSARIAL_SVHN_NIN = _adversarial("""
    natural   91.63 51.20 132.00  90.10
    nc        92.02 41.50  27.38  91.62  4.35 0.00  9.70
    nad       88.73 31.10   1.42 102.76 16.39 2.90 20.10
    universal 92.10 51.80  56.00 124.04 38.18 0.00  0.00
    pairwise  91.55 51.10 156.10 126.88 42.01 0.09  0.10
    moth      91.40 52.30  51.42 136.96 54.10 0.24  0.00
""")
# What is left: ResNet32 on SVHN; Universal ends at "57.85%" (section V-B).
_ADVERSARIAL_SVHN_RESNET32 = _adversarial("""
    natural   92.94 58.30 300.08  78.27
    nc        92.25 49.90  43.20  95.08 26.17 0.69 8.40
    nad       90.02 48.70   5.81  75.93 -1.32 2.92 9.60
    universal 92.74 58.90 111.42 123.73 57.85 0.20 0.00
    pairwise  92.34 57.10 365.30 124.26 58.27 0.59 1.20
    moth      92.52 58.90 111.74 137.68 75.12 0.42 0.00
""")
TABLE_2_AVERAGE = _adversarial("""
    natural   81.88 47.00 498.23 153.70
    nc        81.67 42.70  66.82 162.49 10.91 0.21 4.30
    nad       80.09 40.34   3.04 158.65  4.84 1.79 6.66
    universal 81.47 47.60  77.89 205.46 36.45 0.41 0.00
    pairwise  81.20 46.94 209.64 234.13 50.07 0.68 0.06
    moth      81.30 47.56  61.80 229.80 53.18 0.58 0.00
""")
"""The last block of Table II: "53.18% with only 0.58% accuracy degradation … on average" (section V-B)."""

# Table VI. CIFAR-10's "73.94% to 78.45%" (section V-B): the latter is no model of Table II.
_ADVERSARIAL_CIFAR10_RESNET50 = _adversarial("""
    natural   78.45 42.30 973.47 195.90
    nc        77.21 42.70 155.98 224.85 27.84 1.24 0.00
    nad       77.60 44.50   6.11 201.52  3.73 0.85 0.00
    universal 77.60 42.10 150.53 262.28 37.13 0.85 0.20
    pairwise  77.63 42.50 399.74 276.04 43.32 0.82 0.00
    moth      77.63 41.70  91.90 297.40 55.19 0.82 0.60
""")
# The two of LISA, in the order of Table V; Universal of the second is the text's least, "16.26%" (X-C).
_ADVERSARIAL_LISA_CNN = _adversarial("""
    natural   75.43 25.00   5.00 213.70
    nc        73.44 24.43   8.54 228.81 16.05 1.99 0.57
    nad       70.17 23.57   0.14 198.26  3.51 5.26 1.43
    universal 74.15 33.14   4.00 270.17 29.08 1.28 0.00
    pairwise  76.85 33.71 258.99 312.77 59.74 0.00 0.00
    moth      74.72 31.14  17.47 278.11 59.01 0.71 0.00
""")
_ADVERSARIAL_LISA_RESNET20 = _adversarial("""
    natural   80.54 36.57  17.40 215.07
    nc        78.13 41.86  79.76 233.03 11.06 2.41 0.00
    nad       80.97 40.00   0.93 245.20 15.27 0.00 0.00
    universal 79.69 42.29  26.28 251.59 16.26 0.85 0.00
    pairwise  81.25 41.71 770.11 265.71 27.58 0.00 0.00
    moth      81.25 41.00  43.34 283.53 35.00 0.00 0.00
""")
# Pairwise: "2122.95 minutes" (section V-B), 29.8 times MOTH's, which is on GTSRB (X-D: "22x-29x slower on GTSRB").
_ADVERSARIAL_GTSRB_NIN = _adversarial("""
    natural   90.96 68.70   54.98  88.51
    nc        91.55 63.60  111.72  85.79 -2.60 0.00  5.10
    nad       88.12 54.30    0.50  95.25  6.34 2.84 14.40
    universal 90.25 69.70   26.00 118.41 35.47 0.70  0.00
    pairwise  91.62 72.60 2122.95 162.12 76.89 0.00  0.00
    moth      90.32 70.50   71.29 142.10 60.76 0.64  0.00
""")
TABLE_6_AVERAGE = _adversarial("""
    natural   81.35 43.14 262.71 178.30
    nc        80.08 43.15  89.00 193.12 13.09 1.27 0.00
    nad       79.22 40.59   1.92 185.06  7.21 2.13 2.55
    universal 80.42 46.81  51.70 225.61 29.49 0.93 0.00
    pairwise  81.84 47.63 887.95 254.16 51.88 0.00 0.00
    moth      80.98 46.09  56.00 250.29 52.49 0.37 0.00
""")
"""The last block of Table VI: "52.49% with only 0.37% accuracy degradation" (X-C). Table V's is missing in this copy."""

_ABLATION = _natural("""
    natural      91.52  56.77  53.49
    moth         90.34  29.68 109.70 108.62 1.18
    no-symmetric 90.69  35.40  94.16  78.90 0.83
    no-dynamic   90.65  44.72 103.45  95.59 0.87
    no-warm-up   90.44  52.00 105.28  99.53 1.08
    no-scheduler 88.78 120.47 111.09 112.84 2.74
""")

NC = Row("nc", "NC", "nc")
NAD = Row("nad", "NAD", None, note="`orthogon remove nad` does it, which hardens nothing: its published figures alone")
UAP = Row(
    "uap",
    "UAP",
    "universal-adversarial",
    note="the paper trains it from scratch; here it goes on from the natural model, as the other rows do, but by labels alone",
)
UNIVERSAL, PAIRWISE = Row("universal", "Universal", "universal"), Row("pairwise", "Pairwise", "pairwise")
MOTH = Row("moth", "MOTH", "moth")

TABLE_1 = Grid(
    "moth-table1",
    "MOTH, Table I (and V): naturally trained models",
    PAPER,
    (NC, NAD, UAP, UNIVERSAL, PAIRWISE, MOTH),
    (
        Subject("cifar10-resnet20", "CIFAR-10, ResNet20", "Table I", _NATURAL_CIFAR10_RESNET20),
        Subject("cifar10-nin", "CIFAR-10, NiN", "Table I", _NATURAL_CIFAR10_NIN),
        Subject("cifar10-vgg19", "CIFAR-10, VGG19", "Table I", _NATURAL_CIFAR10_VGG19),
        Subject("svhn-nin", "SVHN, NiN", "Table I", _NATURAL_SVHN_NIN),
        Subject("svhn-resnet32", "SVHN, ResNet32", "Table I", _NATURAL_SVHN_RESNET32),
        Subject("cifar10-resnet50", "CIFAR-10, ResNet50", "Table V", _NATURAL_CIFAR10_RESNET50),
        Subject("lisa-cnn", "LISA, CNN", "Table V", _NATURAL_LISA_CNN),
        Subject("lisa-resnet20", "LISA, ResNet20", "Table V", _NATURAL_LISA_RESNET20),
        Subject("gtsrb-nin", "GTSRB, NiN", "Table V", _NATURAL_GTSRB_NIN),
    ),
)

_PGD = {"adversary": "pgd"}
TABLE_2 = Grid(
    "moth-table2",
    "MOTH, Table II (and VI): adversarially trained models, still trained adversarially while they are hardened",
    PAPER,
    (NC.changed(_PGD), NAD, UNIVERSAL.changed(_PGD), PAIRWISE.changed(_PGD), MOTH.changed(_PGD)),
    (
        Subject("cifar10-resnet20", "CIFAR-10, ResNet20", "Table II", _ADVERSARIAL_CIFAR10_RESNET20),
        Subject("cifar10-nin", "CIFAR-10, NiN", "Table II", _ADVERSARIAL_CIFAR10_NIN),
        Subject("cifar10-vgg19", "CIFAR-10, VGG19", "Table II", _ADVERSARIAL_CIFAR10_VGG19),
        Subject("svhn-nin", "SVHN, NiN", "Table II", _ADVERSARIAL_SVHN_NIN),
        Subject("svhn-resnet32", "SVHN, ResNet32", "Table II", _ADVERSARIAL_SVHN_RESNET32),
        Subject("cifar10-resnet50", "CIFAR-10, ResNet50", "Table VI", _ADVERSARIAL_CIFAR10_RESNET50),
        Subject("lisa-cnn", "LISA, CNN", "Table VI", _ADVERSARIAL_LISA_CNN),
        Subject("lisa-resnet20", "LISA, ResNet20", "Table VI", _ADVERSARIAL_LISA_RESNET20),
        Subject("gtsrb-nin", "GTSRB, NiN", "Table VI", _ADVERSARIAL_GTSRB_NIN),
    ),
)

TABLE_3 = Grid(
    "moth-table3",
    "MOTH, Table III: ablation of its design choices",
    PAPER,
    (
        MOTH,
        Row("no-symmetric", "without symmetric hardening", "moth", {"arms": "directed"}),
        Row("no-dynamic", "without dynamic adjustment", "moth", {"reuse": False}),
        Row("no-warm-up", "without approximate warm-up", "moth", {"warm_up": "pairs"}),
        Row(
            "no-scheduler",
            "without scheduler",
            "moth",
            {"schedule": "round robin", "warm_up": "none"},
            note="all pairs in turn need no ranking, so the warm-up goes too: this is Pairwise of Table I",
        ),
    ),
    (Subject("cifar10-resnet20", "CIFAR-10, ResNet20", "Table III", _ABLATION),),
)
