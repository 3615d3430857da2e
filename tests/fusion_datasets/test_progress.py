"""Progress where stderr is no terminal: a line now and then."""

import pytest

from fusion_datasets import progress
from fusion_datasets.progress import Progress


def test_lines_come_every_ten_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("rows", 1000, done=400) as bar:
        for _ in range(6):
            clock[0] += 4.0
            bar.advance(100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["rows: 700 of 1000, 25/s, 12 s left", "rows: 1000 of 1000, 25/s, 0 s left"]


def test_bytes_are_shown_as_megabytes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("a.zip", 90_000_000, done=20_000_000, unit="B") as bar:
        clock[0] += 10.0
        bar.advance(30_000_000)
    assert capsys.readouterr().err == "a.zip: 50 of 90 MB, 3 MB/s, 13 s left\n"


def test_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with Progress("rows", 3, shown=False) as bar:
        bar.advance(3)
    assert capsys.readouterr() == ("", "")
