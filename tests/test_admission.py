"""service/admission.py: who may come in, and what those are told who may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import Gate
from service.errors import Overloaded


@given(most=st.integers(1, 20), comers=st.lists(st.integers(1, 30), max_size=20))
def test_no_more_than_the_limit_are_inside_unless_one_came_alone(most: int, comers: list[int]) -> None:
    """Queries are let in while there is room; one request of any size when nobody is inside; everybody leaves at the end."""
    gate, entered = Gate(most), []
    for queries in comers:
        room = gate.enter(queries)
        before = gate.inside
        if before and before + queries > most:
            with pytest.raises(Overloaded, match=f"max_concurrent_queries = {most}") as caught:
                room.__enter__()
            assert 1 <= (caught.value.retry_after_s or 0) <= 60
            assert gate.inside == before
        else:
            room.__enter__()
            entered.append(room)
            assert gate.inside == before + queries
    for room in entered:
        room.__exit__(None, None, None)
    assert gate.inside == 0


def test_who_fails_inside_leaves_too() -> None:
    """An error inside makes room like an answer."""
    gate = Gate(1)
    with pytest.raises(KeyError), gate.enter(1):
        raise KeyError
    with gate.enter(1):
        assert gate.inside == 1
