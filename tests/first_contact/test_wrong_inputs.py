"""Wrong input of many kinds is answered in one sentence, and the page of the docs shows those answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.first_contact.wrong_inputs import PAGE, WRONG, Wrong, answer, answered, row, world


@pytest.fixture(scope="module")
def start() -> Iterator[Path]:
    with world() as made:
        yield made


def test_there_are_at_least_forty_kinds() -> None:
    assert len({wrong.what for wrong in WRONG}) == len(WRONG) >= 40


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.what)
def test_it_is_answered_in_one_sentence_that_the_docs_show(wrong: Wrong, start: Path) -> None:
    code, _, err = answer(wrong, start)
    assert code == 2
    assert "Traceback" not in err
    assert answered(err).count("plait: ") == 1
    assert answered(err).startswith("plait: ")
    assert len([line for line in err.strip().splitlines() if "━" not in line]) == 1
    assert wrong.said in err
    rows = PAGE.read_text().splitlines()
    assert row(wrong, err) in rows or wrong.varies
    assert any(line.startswith(f"| {wrong.what} | ") for line in rows)


@pytest.mark.parametrize("wrong", WRONG[:3], ids=lambda wrong: wrong.what)
def test_debug_adds_the_traceback(wrong: Wrong, start: Path) -> None:
    debugged = Wrong(wrong.what, f"{wrong.command} --debug", wrong.said, wrong.prepare)
    code, _, err = answer(debugged, start)
    assert code == 2
    assert "Traceback" in err
    assert wrong.said in err
