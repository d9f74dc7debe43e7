"""Every case of `spec/vendors.md`, Part C, that concerns bars has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
OF_BARS = {*range(1, 13), *range(14, 33), *range(34, 38), *range(39, 50), *range(52, 58), 61, 62}
NAME = re.compile(r"(?:def test_|\")(?:part_c|case)((?:_(?:and_)?\d+)+)_")


def test_every_case_of_bars_is_in_the_name_of_a_test() -> None:
    named = {
        int(number)
        for path in TESTS.rglob("*.py")
        for found in NAME.findall(path.read_text())
        for number in re.findall(r"\d+", found)
    }
    assert sorted(OF_BARS - named) == []
