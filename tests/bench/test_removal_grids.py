from __future__ import annotations

import pytest

from orthogon.bench import REMOVAL_GRIDS, RemovalGrid
from orthogon.bench.removal import AS_IT_CAME, Figures, Table, label_of, read_figures
from orthogon.removal import REMOVERS

RECORD, FIGURE_12 = REMOVAL_GRIDS["removal"], REMOVAL_GRIDS["moth-figure12"]
TABLE_4, TABLE_5, TABLE_9 = (REMOVAL_GRIDS[f"deck-table{number}"] for number in (4, 5, 9))


def published(grid: RemovalGrid, subject: str) -> Table:
    return grid.subject(subject).published


def models_of(grid: RemovalGrid) -> list[Table]:
    return [subject.published for subject in grid.subjects if subject.key not in ("average", "filters")]


def mean_of(grid: RemovalGrid, row: str, field: str) -> float | None:
    values = [getattr(model.get(row, Figures()), field) for model in models_of(grid)]
    return None if None in values else sum(values) / len(values)


@pytest.mark.parametrize(
    ("grid", "row", "field"),
    [
        *((TABLE_4, row, "accuracy") for row in (AS_IT_CAME, "moth", "deck")),
        *((TABLE_4, row, "success") for row in (AS_IT_CAME, "nad", "deck")),
        *((TABLE_9, row, field) for row in (AS_IT_CAME, "fine-pruning", "mcr", "deck") for field in ("accuracy", "success")),
    ],
    ids=lambda value: value.name if isinstance(value, RemovalGrid) else value,
)
def test_published_averages_are_those_of_the_columns_that_are_whole(grid: RemovalGrid, row: str, field: str) -> None:
    assert len(models_of(grid)) == 16
    assert mean_of(grid, row, field) == pytest.approx(getattr(published(grid, "average")[row], field), abs=0.000101)


def test_both_tables_have_the_same_poisoned_models_and_the_same_figures_of_deck() -> None:
    for one, other in zip(models_of(TABLE_4), models_of(TABLE_9), strict=True):
        assert (one[AS_IT_CAME], one["deck"]) == (other[AS_IT_CAME], other["deck"])


def test_what_the_text_says_of_dfst() -> None:
    first = published(TABLE_4, "dfst-cifar10-resnet32-detox1")
    assert first[AS_IT_CAME] == Figures(0.8995, 0.9760)
    assert first["anp"] == Figures(0.8334, 0.2067)
    assert first["deck"].success == 0.1422
    assert first[AS_IT_CAME].accuracy - first["deck"].accuracy == pytest.approx(0.0173)  # type: ignore[operator]
    third = published(TABLE_4, "dfst-cifar10-vgg13-detox1")
    assert [third[row].success for row in (AS_IT_CAME, "nad", "abs", "moth")] == [0.9589, 0.2456, 0.3378, 0.0533]
    last = published(TABLE_4, "dfst-stl10-vgg13-detox3")
    assert (last["abs"].success, last["deck"].success) == (0.3756, 0.1233)


def test_what_the_text_says_of_the_averages() -> None:
    average = published(TABLE_4, "average") | published(TABLE_9, "average")
    natural = average[AS_IT_CAME].accuracy or 0
    lost = {row: natural - (figures.accuracy or 0) for row, figures in average.items()}
    told = {"fine-tuning": 0.0165, "anp": 0.0428, "abs": 0.0232, "deck": 0.0183, "fine-pruning": 0.0381, "mcr": 0.0343}
    assert {row: lost[row] for row in told} == pytest.approx(told)


def test_what_the_text_says_of_the_adaptive_attack() -> None:
    """Section V-E: "the ASR drops to 9.94%/4.42% without accuracy degradation (83.94%/75.71%)"."""
    few, many = (published(TABLE_5, f"adaptive-{rate}") for rate in (20, 50))
    assert (few[AS_IT_CAME], many[AS_IT_CAME]) == (Figures(0.8364, 0.6043), Figures(0.6786, 0.7494))
    assert (few["deck"], many["deck"]) == (Figures(0.8394, 0.0994), Figures(0.7571, 0.0442))


def test_what_the_text_says_of_moths_other_backdoors() -> None:
    reflections = [s.published for s in FIGURE_12.subjects if s.key.startswith("reflection")]
    composites = [s.published for s in FIGURE_12.subjects if s.key.startswith("composite")]
    for row, told in (("nad", 0.7143), ("moth", 0.0898)):
        assert sum(model[row].success or 0 for model in reflections) / 4 == pytest.approx(told, abs=0.000051)
    assert sorted(model["moth"].success or 0 for model in composites)[::3] == [0.1760, 0.4450]
    assert sorted(model[AS_IT_CAME].success or 0 for model in composites)[::3] == [0.8760, 0.9951]
    assert sum((model["nad"].success or 0) > 0.65 for model in composites) == 3


def test_the_record_is_that_of_the_reference() -> None:
    record = published(RECORD, RECORD.mean)
    assert record["ft-sam"] == Figures(0.9210, 0.0247)
    assert min(record, key=lambda row: record[row].success or 0) == "ft-sam"


@pytest.mark.parametrize("grid", REMOVAL_GRIDS.values(), ids=lambda grid: grid.name)
def test_every_grid_has_its_mean_and_labels(grid: RemovalGrid) -> None:
    assert grid.mean in {subject.key for subject in grid.subjects}
    assert len({subject.label for subject in grid.subjects}) == len(grid.subjects)
    for subject in grid.subjects:
        assert set(subject.published) <= {AS_IT_CAME, *(grid.rows or subject.published)}
        for figures in subject.published.values():
            assert all(value is None or 0 <= value <= 1 for value in (figures.accuracy, figures.success))
            assert figures.words or (figures.accuracy, figures.success) != (None, None)


def test_rows_and_subjects_are_found_by_name_with_a_hint() -> None:
    methods = ("fine-tuning", "nad")
    assert RECORD.chosen(None, methods) == methods
    assert TABLE_4.chosen(None, methods) == ("fine-tuning", "nad", "anp", "abs", "moth", "deck")
    assert TABLE_4.chosen("nad, fine-tuning", methods) == ("fine-tuning", "nad")
    with pytest.raises(ValueError, match=r"'fine-tunin' is none of removal's \(did you mean fine-tuning\?\); there are"):
        RECORD.chosen("fine-tunin", methods)
    with pytest.raises(ValueError, match="'deck' cannot be run: it has no implementation"):
        TABLE_4.chosen("deck", methods)
    with pytest.raises(ValueError, match=r"'wanet-gtsrb' is none of deck-table9's \(did you mean wanet-gtsrb-resnet18\?\)"):
        TABLE_9.subject("wanet-gtsrb")


def test_every_method_has_a_label() -> None:
    assert label_of("ft-sam") == "FT-SAM"
    assert label_of("something-new") == "something-new"
    assert all(label_of(name) for name in REMOVERS)


def test_figures_are_read_as_printed() -> None:
    read = read_figures("a 91.5 97.16 - 3.2\n  b 90 99 - -\n", (AS_IT_CAME, "nad"))
    assert read["a"] == {AS_IT_CAME: Figures(0.915, 0.9716), "nad": Figures(None, 0.032)}
    assert read["b"] == {AS_IT_CAME: Figures(0.9, 0.99)}
    with pytest.raises(ValueError, match="3 figures for the accuracy and attack success rate of as-it-came, nad"):
        read_figures("a 1 2 3", (AS_IT_CAME, "nad"))
    with pytest.raises(ValueError, match="could not convert"):
        read_figures("a 91% 2", ("nad",))
