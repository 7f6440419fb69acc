"""A file is written whole, or what stood there stays."""

import json
import os

import pytest

from igds.files import write_json, write_whole


def test_what_stood_there_is_replaced(tmp_path):
    for content in (b"old", b"new"):
        write_whole(tmp_path / "a.bin", content)
        assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
        assert (tmp_path / "a.bin").read_bytes() == content


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_stood_there_stays_where_writing_is_stopped(tmp_path, monkeypatch, error):
    write_whole(tmp_path / "a.bin", b"old")

    def stopped(_):
        raise error

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(type(error)) as raised:
        write_whole(tmp_path / "a.bin", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]
    if isinstance(error, OSError):
        assert (raised.value.errno, raised.value.filename) == (28, str(tmp_path / "a.bin"))


def test_json_that_cannot_be_written_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "card.json", {"name": "β"})
    with pytest.raises(ValueError):
        write_json(tmp_path / "card.json", {"name": float("nan")})
    assert json.loads((tmp_path / "card.json").read_text(encoding="utf-8")) == {"name": "β"}
