"""Log files are fresh at each start, bounded, and read back by whole lines."""

from __future__ import annotations

from pathlib import Path

from stripemeter.runtime.log_files import Follower, bound, open_fresh, tail


def test_a_start_begins_a_new_log_and_keeps_the_last(tmp_path: Path) -> None:
    """What the last start wrote is one file away; what was before it is gone."""
    log = tmp_path / "logs" / "api-1.log"
    for words in ("first\n", "second\n"):
        open_fresh(log)
        log.write_text(words, encoding="utf-8")
    open_fresh(log)
    assert log.read_text(encoding="utf-8") == ""
    assert (tmp_path / "logs" / "api-1.log.1").read_text(encoding="utf-8") == "second\n"


def test_a_log_that_grew_too_long_is_cut_under_its_writer(tmp_path: Path) -> None:
    """The writer keeps appending to the same file, from its new beginning."""
    log = tmp_path / "api-1.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 101)
        bound(log, max_bytes=100)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    """Nothing is lost before the bound."""
    log = tmp_path / "api-1.log"
    log.write_bytes(b"x" * 100)
    bound(log, max_bytes=100)
    assert log.stat().st_size == 100


def test_a_tail_is_the_last_lines(tmp_path: Path) -> None:
    """Newest last; a file that is not there says so."""
    log = tmp_path / "api-1.log"
    assert tail(log) == "(no log)"
    log.write_text("".join(f"line {number}\n" for number in range(100)), encoding="utf-8")
    assert tail(log, 2) == "line 98\nline 99"


def test_a_follower_yields_whole_lines_and_survives_a_cut(tmp_path: Path) -> None:
    """Half a line waits for its end; after a cut it reads from the beginning."""
    log = tmp_path / "api-1.log"
    follower = Follower(path=log)
    assert list(follower.new_lines()) == []
    log.write_text("one\ntw", encoding="utf-8")
    assert list(follower.new_lines()) == ["one"]
    log.write_text("one\ntwo\n", encoding="utf-8")
    assert list(follower.new_lines()) == ["two"]
    log.write_text("x\n", encoding="utf-8")
    assert list(follower.new_lines()) == ["x"]
