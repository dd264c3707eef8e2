from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest

from orthogon.bench import GRIDS, MAKING, Grid, Published, moth, numbers_of
from orthogon.bench.published import NATURAL, Table, read_table
from orthogon.methods import METHODS, MOTH, HardeningSettings

TABLE_1, TABLE_2, TABLE_3 = (GRIDS[f"moth-table{number}"] for number in (1, 2, 3))
ALL_ROWS = [(grid, row) for grid in GRIDS.values() for row in grid.rows]
AVERAGES = [
    (TABLE_1, "Table I", moth.TABLE_1_AVERAGE),
    (TABLE_2, "Table II", moth.TABLE_2_AVERAGE),
    (TABLE_2, "Table VI", moth.TABLE_6_AVERAGE),
]
UNITS = {"minutes": 1.0, "distance": 1.0}  # the others are shares, printed in per cent


def published(grid: Grid, subject: str) -> Table:
    found = grid.subject(subject)
    assert found is not None
    return found.published


def mean_of(grid: Grid, source: str, row: str, field: str) -> float:
    values = [getattr(subject.published[row], field) for subject in grid.subjects if subject.source == source]
    return sum(values) / len(values)


@pytest.mark.parametrize(("grid", "source", "average"), AVERAGES, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("field", ["accuracy", "robust", "minutes", "distance", "increase"])
def test_published_averages_are_those_of_the_published_rows(grid: Grid, source: str, average: Table, field: str) -> None:
    for row, figures in average.items():
        if (told := getattr(figures, field)) is not None:
            assert mean_of(grid, source, row, field) == pytest.approx(told, abs=0.0101 * UNITS.get(field, 0.01))


@pytest.mark.parametrize(("grid", "source", "average"), AVERAGES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_average_of_what_is_lost_is_the_difference_of_the_averages(grid: Grid, source: str, average: Table) -> None:
    for figures in list(average.values())[1:]:
        assert figures.lost == pytest.approx(max(average["natural"].accuracy - figures.accuracy, 0), abs=0.000101)


def test_published_losses_are_differences_of_the_published_accuracies() -> None:
    for grid in GRIDS.values():
        for subject, row in product(grid.subjects, [row.key for row in grid.rows]):
            natural, figures = subject.published["natural"], subject.published[row]
            assert figures.lost == pytest.approx(max(natural.accuracy - figures.accuracy, 0), abs=0.000101)


def test_what_the_running_text_says_of_the_tables() -> None:
    increases = [subject.published["moth"].increase for subject in TABLE_1.subjects if subject.source == "Table I"]
    assert (min(filter(None, increases)), max(filter(None, increases))) == (0.5521, 1.9040)
    assert published(TABLE_1, "svhn-resnet32")["moth"].increase == 1.9040
    nin = published(TABLE_1, "cifar10-nin")
    assert (nin["uap"].distance, nin["natural"].distance) == (57.56, 60.67)
    hardened = [s.published["moth"].accuracy for s in TABLE_1.subjects if s.key.startswith("cifar10") and s.source == "Table I"]
    assert (min(hardened), max(hardened)) == (0.8681, 0.9148)
    adversarial = [s.published["natural"].accuracy for s in TABLE_2.subjects if s.key.startswith("cifar10")]
    assert (min(adversarial), max(adversarial)) == (0.7394, 0.7845)
    assert published(TABLE_1, "svhn-nin")["moth"].accuracy == 0.9499
    assert published(TABLE_2, "svhn-nin")["natural"].accuracy == 0.9163
    gtsrb, adversarial_gtsrb = published(TABLE_1, "gtsrb-nin"), published(TABLE_2, "gtsrb-nin")
    assert gtsrb["pairwise"].minutes == 1683.52
    assert gtsrb["pairwise"].minutes / gtsrb["moth"].minutes == pytest.approx(22.75, abs=0.005)
    assert adversarial_gtsrb["pairwise"].minutes == 2122.95
    assert adversarial_gtsrb["pairwise"].minutes / adversarial_gtsrb["moth"].minutes == pytest.approx(29.8, abs=0.05)


@pytest.mark.parametrize(("row", "told"), [("nc", 0.0833), ("nad", 0.0513), ("moth", 1.2860)])
def test_the_averages_that_the_text_tells_of_table_5(row: str, told: float) -> None:
    assert mean_of(TABLE_1, "Table V", row, "increase") == pytest.approx(told, abs=0.000101)


def test_the_ablation_is_of_the_model_of_table_1() -> None:
    one, three = published(TABLE_1, "cifar10-resnet20"), published(TABLE_3, "cifar10-resnet20")
    assert (three["natural"], three["moth"], three["no-scheduler"]) == (one["natural"], one["moth"], one["pairwise"])
    for row, slower in (("no-symmetric", 0.19), ("no-dynamic", 0.51), ("no-warm-up", 0.75), ("no-scheduler", 3.06)):
        assert three[row].minutes / three["moth"].minutes - 1 == pytest.approx(slower, abs=0.005)


@pytest.mark.parametrize(("grid", "row"), ALL_ROWS, ids=[f"{grid.name}-{row.key}" for grid, row in ALL_ROWS])
def test_every_row_has_valid_settings_and_published_figures(grid: Grid, row: moth.Row) -> None:
    assert all(row.key in subject.published for subject in grid.subjects)
    if row.method is None:
        with pytest.raises(ValueError, match="cannot be run"):
            row.settings()
        return
    assert row.settings({"steps": 7}).steps == 7
    assert (row.settings().adversary == "pgd") == (grid is TABLE_2)


@pytest.mark.parametrize("key", ["nc", "universal", "pairwise", "moth"])
def test_table_2_is_table_1_with_adversarial_training(key: str) -> None:
    one, two = (next(row for row in grid.rows if row.key == key) for grid in (TABLE_1, TABLE_2))
    assert one.settings() == METHODS[key]
    assert difference(one.settings(), two.settings()) == {"adversary"}


@pytest.mark.parametrize(
    ("key", "choice"),
    [
        ("moth", set()),
        ("no-symmetric", {"arms"}),
        ("no-dynamic", {"reuse"}),
        ("no-warm-up", {"warm_up"}),
        ("no-scheduler", {"schedule", "warm_up"}),  # one choice: nothing is ranked, so nothing is warmed up
    ],
)
def test_a_row_of_the_ablation_differs_from_moth_in_its_one_choice(key: str, choice: set[str]) -> None:
    row = next(row for row in TABLE_3.rows if row.key == key)
    assert difference(row.settings(), MOTH) == choice
    assert difference(row.settings({"steps": 20, "flip": True}), MOTH) == choice | {"steps", "flip"}


def difference(one: HardeningSettings, other: HardeningSettings) -> set[str]:
    return {field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)}


def test_rows_and_subjects_are_found_by_name() -> None:
    assert TABLE_1.chosen(None) == TABLE_1.rows
    assert [row.key for row in TABLE_1.chosen("moth, nc")] == ["nc", "moth"]
    assert TABLE_1.subject(None) is None
    with pytest.raises(ValueError, match=r"'mouth' is none of moth-table1's: nc, nad"):
        TABLE_1.chosen("moth,mouth")
    with pytest.raises(ValueError, match=r"'nad' cannot be run"):
        TABLE_1.chosen("nad")
    with pytest.raises(ValueError, match=r"'cifar' is none of moth-table3's: cifar10-resnet20"):
        TABLE_3.subject("cifar")


def test_the_users_numbers_are_for_all_rows_and_never_make_a_method() -> None:
    assert numbers_of(HardeningSettings(steps=9, flip=True)) == {"steps": 9, "flip": True}
    assert set(MAKING) <= {field.name for field in fields(HardeningSettings)}
    with pytest.raises(ValueError, match="--arms makes the method"):
        numbers_of(HardeningSettings(arms="directed"))


def test_a_table_is_read_as_printed() -> None:
    read = read_table("natural 91.52 56.77 53.49\n  moth 90.34 29.68 109.70 108.62 1.18\n", NATURAL)
    assert read["natural"] == Published(0.9152, 56.77, 53.49)
    assert read["moth"] == Published(0.9034, 29.68, 109.70, 1.0862, 0.0118)
    with pytest.raises(ValueError, match="6 figures for the columns accuracy"):
        read_table("moth 1 2 3 4 5 6", NATURAL)
    with pytest.raises(ValueError, match="could not convert"):
        read_table("moth 91.52%", NATURAL)
