from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from typing import get_type_hints

import pytest

from orthogon.bench import GRIDS, MAKING, Grid, Published, deck, deck_appendix, moth, numbers_of
from orthogon.bench.published import NATURAL, Table, read_table
from orthogon.cli.harden import Harden
from orthogon.methods import DECK, METHODS, MOTH, HardeningSettings, PervasiveSettings

TABLE_1, TABLE_2, TABLE_3 = (GRIDS[f"moth-table{number}"] for number in (1, 2, 3))
DECK_1, DECK_2, DECK_3, DECK_8, DECK_10 = (GRIDS[f"deck-table{number}"] for number in (1, 2, 3, 8, 10))
BY_PATCHES, BY_PERVASIVE = (GRIDS[f"deck-cross-{measure}"] for measure in ("patch", "pervasive"))
ALL_ROWS = [(grid, row) for grid in GRIDS.values() for row in grid.rows]
AVERAGES = [
    (TABLE_1, "Table I", moth.TABLE_1_AVERAGE),
    (TABLE_2, "Table II", moth.TABLE_2_AVERAGE),
    (TABLE_2, "Table VI", moth.TABLE_6_AVERAGE),
    (DECK_1, "Table I", deck.TABLE_1_AVERAGE),
    (DECK_1, "Table VI", deck.TABLE_6_AVERAGE),
    (DECK_2, "Table II", deck.TABLE_2_AVERAGE),
    (DECK_2, "Table VII", deck.TABLE_7_AVERAGE),
    (DECK_8, "Table VIII", deck_appendix.TABLE_8_AVERAGE),
]
ODD = {("deck-table1", "Table I", "deck", "minutes"), ("deck-table1", "Table I", "uap", "robust")}  # the paper's own averages
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
        if (told := getattr(figures, field)) is not None and (grid.name, source, row, field) not in ODD:
            assert mean_of(grid, source, row, field) == pytest.approx(told, abs=0.0101 * UNITS.get(field, 0.01))


@pytest.mark.parametrize(("grid", "source", "average"), AVERAGES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_average_of_what_is_lost_is_the_difference_of_the_averages(grid: Grid, source: str, average: Table) -> None:
    for figures in list(average.values())[1:]:
        assert figures.lost == pytest.approx(max(average["natural"].accuracy - figures.accuracy, 0), abs=0.000101)


def test_published_losses_are_differences_of_the_published_accuracies() -> None:
    for grid in GRIDS.values():
        for subject, row in product(grid.subjects, [row.key for row in grid.rows]):
            natural, figures = subject.published["natural"], subject.published[row]
            if grid is not DECK_10:  # which has no such column
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
    assert (row.settings().adversary == "pgd") == grid.name.endswith("table2")


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


def test_deck_s_tables_are_of_moth_s_models() -> None:
    """The same accuracies and minutes before hardening, in both papers."""
    for grid, other in ((DECK_1, TABLE_1), (DECK_2, TABLE_2)):
        assert {subject.key for subject in grid.subjects} == {subject.key for subject in other.subjects}
        for subject in grid.subjects:
            one, two = subject.published["natural"], published(other, subject.key)["natural"]
            assert (one.accuracy, one.minutes) == (two.accuracy, two.minutes)


def test_what_deck_s_running_text_says_of_its_tables() -> None:
    increases = [subject.published["deck"].increase for subject in DECK_1.subjects if subject.source == "Table I"]
    assert (min(filter(None, increases)), max(filter(None, increases))) == (0.2286, 1.4273)
    assert published(DECK_1, "svhn-resnet32")["moth"].increase == -0.2390
    three, one = published(DECK_3, "cifar10-resnet20"), published(DECK_1, "cifar10-resnet20")
    assert (three["deck"].distance, three["deck"].increase, three["deck"].accuracy) == (58.14, 0.2042, one["deck"].accuracy)
    ten = published(DECK_10, "cifar10-resnet20")
    assert (ten["deck"].distance, ten["deck"].increase) == (one["deck"].distance, one["deck"].increase)
    assert ten["deck"].increase - max(ten[key].increase or 0 for key in ("swwae", "nearest", "zero")) == pytest.approx(0.1636)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("deck", {}),
        *((key, {"upsampling": key}) for key in ("swwae", "nearest", "zero")),
        ("pool2", {"encoder_layer": "pool2"}),
        *((f"no-{name}", {f"{name}_weight": 0.0}) for name in ("content", "similarity", "statistics", "smoothness")),
    ],
)
def test_a_row_of_deck_s_ablation_differs_in_its_one_choice(key: str, change: dict[str, object]) -> None:
    row = next(row for row in DECK_10.rows if row.key == key)
    assert row.settings() == replace(DECK, pervasive=replace(PervasiveSettings(), **change))
    mine = PervasiveSettings(encoder="net.safetensors", decoder="decoders")
    asked = row.settings(numbers_of(HardeningSettings(steps=20, pervasive=mine)))
    assert (asked.steps, asked.pervasive) == (20, replace(mine, **change))


def test_deck_s_rows_are_measured_alike() -> None:
    assert {grid.distances for grid in (DECK_1, DECK_2, DECK_8, DECK_10, BY_PERVASIVE)} == {"pervasive"}
    assert (DECK_3.distances, BY_PATCHES.distances) == ("filter", "patch")
    assert {grid.distances for grid in (TABLE_1, TABLE_2, TABLE_3)} == {"own"}


def test_what_the_text_says_of_deck_on_trojai_s_models() -> None:
    assert len(DECK_8.subjects) == 10
    assert mean_of(DECK_8, "Table VIII", "deck", "increase") == pytest.approx(0.8881, abs=0.000051)
    assert mean_of(DECK_8, "Table VIII", "natural", "distance") == pytest.approx(4.01, abs=0.0051)
    assert mean_of(DECK_8, "Table VIII", "deck", "distance") == pytest.approx(6.93, abs=0.0151)


def test_each_paper_s_model_stands_under_the_other_s_measure() -> None:
    """Appendix VI, of the models of both Tables I."""
    patches, pervasive = (published(grid, "cifar10-resnet20") for grid in (BY_PATCHES, BY_PERVASIVE))
    assert [patches[row].distance for row in ("natural", "deck", "moth")] == [53.49, 64.29, 109.70]
    assert [pervasive[row].distance for row in ("natural", "moth", "deck")] == [22.62, 25.92, 34.60]
    assert (patches["deck"].increase, patches["moth"].increase, pervasive["deck"].increase) == (None, 1.0862, 0.5266)
    for row in ("natural", "moth", "deck"):
        assert (patches[row].accuracy, patches[row].minutes) == (pervasive[row].accuracy, pervasive[row].minutes)


def test_a_grid_and_a_hardening_know_the_same_measures() -> None:
    assert get_type_hints(Grid)["distances"] == get_type_hints(Harden)["distances"]


def test_what_is_said_of_pervasive_triggers_reaches_the_rows_that_are_hardened_by_them() -> None:
    mine = PervasiveSettings(encoder="net.safetensors", regions=2)
    numbers = numbers_of(HardeningSettings(steps=20, pervasive=mine))
    by_patches, by_pervasive = (row.settings(numbers) for row in BY_PATCHES.rows)
    assert (by_patches.steps, by_patches.pervasive) == (20, PervasiveSettings())
    assert (by_pervasive.steps, by_pervasive.pervasive) == (20, mine)


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
    usual = HardeningSettings()
    assert numbers_of(usual, ("steps", "bound")) == {"steps": usual.steps, "bound": usual.bound}, "rows may have others"
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
