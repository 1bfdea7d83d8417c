"""The chart's cells: one row is two dots, and tiers stand on each other."""

from gateway.demo.chart import Column, chart


def drawn(*columns: Column, rows: int = 3) -> list[str]:
    return chart(columns, limits=(4, 4), rows=rows, width=20).plain.split("\n")


def test_an_empty_fleet_draws_only_the_axis():
    assert drawn(Column((0, 0), 0)) == ["  8 ┤ ", "  4 ┤ ", "    │ "]


def test_a_column_is_as_high_as_what_is_in_flight():
    assert [line[5:] for line in drawn(Column((2, 0), 0), Column((4, 4), 0), Column((4, 2), 0))] == [
        "   ",
        " █▄",
        "▄██",
    ]


def test_what_is_shed_stands_on_top_in_its_own_colour():
    text = chart([Column((4, 4), 1)], limits=(4, 4), rows=6, width=20)
    assert "red" in {str(span.style) for span in text.spans}


def test_only_the_latest_columns_are_shown():
    columns = [Column((0, 0), 0)] * 40 + [Column((4, 4), 0)]
    assert all(len(line) == 20 for line in drawn(*columns))
    assert drawn(*columns)[-1].endswith(" █")
