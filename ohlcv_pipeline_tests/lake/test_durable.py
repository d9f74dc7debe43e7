"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ohlcv_pipeline.lake.durable import place


def test_a_file_takes_the_place_of_another_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bars.parquet"
    place(target, lambda path: path.write_text("one"))

    def write(path: Path) -> None:
        path.write_text("two")
        assert target.read_text() == "one"
        assert path.parent == target.parent

    place(target, write)
    assert target.read_text() == "two"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_could_not_be_written_is_not_there(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        place(tmp_path / "bars.parquet", write)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
