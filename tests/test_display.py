"""Progress: a bar on a terminal, few lines in a log elsewhere."""

from __future__ import annotations

import io
import logging

from repro import display


def lines(caplog) -> list[str]:
    return [record.message for record in caplog.records]


def test_a_log_gets_a_line_every_half_minute_and_the_last(caplog, monkeypatch):
    clock = iter(float(t) for t in range(0, 1000, 10))
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, logger="repro"):
        meter = display.Meter("net: fit", 8, logging.getLogger("repro"), done=2)
        for done in range(3, 9):
            meter.update(done, lambda done=done: f"loss {done}")
        meter.close()
    assert lines(caplog) == [
        "net: fit: step 5 of 8, loss 5, 0.10 steps/s, 0.5 min left",
        "net: fit: step 8 of 8, loss 8, 0.10 steps/s, 0.0 min left",
    ]


def test_a_terminal_gets_a_bar_and_the_log_nothing(caplog, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(display.sys, "stderr", screen)
    with caplog.at_level(logging.INFO, logger="repro"):
        meter = display.Meter("net: fit", 3, logging.getLogger("repro"))
        for done in range(1, 4):
            meter.update(done, lambda done=done: f"loss {done}")
        meter.close()
    assert "net: fit" in screen.getvalue() and "3/3" in screen.getvalue()
    assert "loss 3" in screen.getvalue() and not lines(caplog)


def test_lightning_is_quiet_only_inside():
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    with display.quiet_lightning():
        assert logger.level == logging.ERROR
    assert logger.level == before
