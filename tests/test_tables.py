"""Numbers in words: each has its own, and one case more or less changes them only at an edge."""

import statistics

import pytest
import torch
from helpers import reproducible
from hypothesis import given
from hypothesis import strategies as st

from companion.tables import band, deviation, median, rounded, share, spread

CASES = st.integers(1, 500)
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@pytest.mark.breaks("companion/tables.py", "places) + 0.0:", "places):")
def test_a_zero_has_no_sign() -> None:
    assert rounded(-0.004) == "0.00"
    assert rounded(torch.tensor(-0.04), 1) == "0.0"
    assert rounded(-0.06, 1) == "-0.1"


@pytest.mark.breaks(
    "companion/tables.py",
    "round(round(float(value), DIGITS), places)",
    "round(float(value), places)",
)
def test_a_tie_is_one_on_either_side_of_rounding_errors() -> None:
    for tie in (0.125, 0.375, 2.5, -0.625):
        places = 0 if tie == 2.5 else 2
        assert rounded(tie + 1e-9, places) == rounded(tie - 1e-9, places) == rounded(tie, places)


@pytest.mark.breaks("companion/tables.py", '("lower", "higher")', '("lower", "lower")')
@reproducible
@given(NUMBERS)
def test_the_median_is_that_of_the_middle_two(numbers: list[float]) -> None:
    assert median(torch.tensor(numbers)) == pytest.approx(
        statistics.median(torch.tensor(numbers).tolist()), abs=1e-5
    )


@reproducible
@given(NUMBERS)
def test_a_spread_is_the_median_and_the_ends(numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    middle, ends = spread(values, 1).rstrip(")").split(" (")
    low, high = ends.split(" to ")
    assert [middle, low, high] == [
        rounded(each, 1) for each in (statistics.median(numbers), min(numbers), max(numbers))
    ]
    assert spread(values.reshape(-1, 1), 1) == spread(values, 1)


@pytest.mark.breaks(
    "companion/tables.py", "values.std(), places", "values.std(correction=0), places"
)
def test_a_deviation_is_that_of_a_sample() -> None:
    values = torch.tensor([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert deviation(values) == "5.00 ± 2.14"


@pytest.mark.breaks("companion/tables.py", "<= places <= DIGITS", "<= places < 9")
@pytest.mark.breaks("companion/tables.py", "numel() < count", "numel() < 1")
def test_what_cannot_be_printed_so_is_refused() -> None:
    """A seventh place would be a zero that nobody measured."""
    two = torch.tensor([1.0, 2.0])
    for places in (-1, 7, 8):
        for put in (rounded, spread, deviation):
            with pytest.raises(ValueError, match=f"places must be from 0 to 6, got {places}"):
                put(two if put is not rounded else 1.0, places)
    for odd in (1.0, True, "2"):
        with pytest.raises(TypeError, match="places must be a whole number"):
            spread(two, odd)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"value must be one number, got .* shape \(2,\)"):
        rounded(two)
    for put, count in ((median, 1), (spread, 1), (deviation, 2)):
        with pytest.raises(ValueError, match=f"values must be at least {count}, got {count - 1}"):
            put(two[: count - 1])


@reproducible
@given(CASES, st.data())
def test_a_band_holds_the_count_and_there_are_three(cases: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, cases))
    low, to, high, of, total = band(hits, cases).split()
    assert (to, of, int(total)) == ("to", "of", cases)
    assert int(low) <= hits <= int(high)
    every = [band(each, cases) for each in range(cases + 1)]
    assert len(set(every)) <= 3
    assert every == sorted(every, key=every.index)
    turned = [band(cases - each, cases) for each in range(cases + 1)]
    assert [len(set(every)), every.count(every[0])] == [len(set(turned)), turned.count(turned[0])]


@pytest.mark.breaks(
    "companion/tables.py",
    "math.floor(edge) if cut <= 0.5 else math.ceil(edge) - 1",
    "math.floor(edge)",
)
@pytest.mark.breaks("companion/tables.py", "        low = high + 1\n", "        low = high\n")
@pytest.mark.parametrize(
    ("cases", "edges"), [(4, [1, 3]), (6, [1, 5]), (8, [2, 6]), (20, [5, 15])], ids=str
)
def test_the_edges_are_the_quarters(cases: int, edges: list[int]) -> None:
    few, most = edges
    assert band(few, cases) == f"0 to {few} of {cases}"
    assert band(few + 1, cases) == band(most - 1, cases) == f"{few + 1} to {most - 1} of {cases}"
    assert band(most, cases) == f"{most} to {cases} of {cases}"


def test_cuts_of_ones_own_part_the_ranges() -> None:
    cuts = (0.1, 0.5, 0.9)
    ranges = ["0 to 5 of 50", "6 to 25 of 50", "26 to 44 of 50", "45 to 50 of 50"]
    assert [band(hits, 50, cuts) for hits in (5, 6, 25, 26, 44, 45)] == [
        ranges[k] for k in (0, 1, 1, 2, 2, 3)
    ]


def test_a_cut_in_decimals_is_what_it_says() -> None:
    assert band(29, 100, (0.29,)) == "0 to 29 of 100"
    assert band(55, 100, (0.55,)) == "55 to 100 of 100"


@pytest.mark.parametrize("cuts", [(), (0.0,), (0.5, 0.5), (0.5, 0.2), (1.0,)], ids=str)
def test_cuts_that_part_nothing_are_refused(cuts: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="cuts must rise from above 0 to below 1"):
        band(1, 2, cuts)


@pytest.mark.breaks(
    "companion/tables.py", "tenths = round(10 * hits / cases)", "tenths = int(10 * hits / cases)"
)
@reproducible
@given(CASES, st.data())
def test_a_share_is_said_in_the_nearest_tenth(cases: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, cases))
    said = share(hits, cases)
    assert (said == "all") == (hits == cases)
    assert (said == "none") == (hits == 0)
    tenths = {"all": 10, "none": 0, "nearly all": 10, "hardly any": 0}.get(said)
    tenths = int(said.split()[1]) if tenths is None else tenths
    assert abs(10 * hits / cases - tenths) <= 0.5


def test_a_tensor_of_one_number_is_a_count() -> None:
    assert band(torch.tensor(3), 4) == band(3, 4)
    assert share(torch.tensor(3), 30) == share(3, 30) == "about 1 in 10"


@pytest.mark.parametrize("function", [band, share])
def test_a_count_that_cannot_be_is_refused(function: object) -> None:
    for hits in (-1, -0.5, 8.5, 9):
        with pytest.raises(ValueError, match=f"from 0 to 8, got {hits}"):
            function(hits, 8)
    with pytest.raises(ValueError, match="cases must be at least 1"):
        function(0, 0)
