"""Threads take turns at parsing, since CPython 3.11 fails where they do not."""

from __future__ import annotations

import ast
import threading
import time

import pytest

from autoresearch.syntax import parse


def test_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    real = ast.parse

    def slow(*arguments: str) -> ast.Module:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return real(*arguments)

    monkeypatch.setattr(ast, "parse", slow)
    threads = [threading.Thread(target=parse, args=("x = 1",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_what_does_not_parse_is_said_with_its_name_and_the_next_one_gets_its_turn() -> None:
    with pytest.raises(SyntaxError) as error:
        parse("x = ", "train.py")
    assert error.value.filename == "train.py"
    assert isinstance(parse("x = 1").body[0], ast.Assign)
