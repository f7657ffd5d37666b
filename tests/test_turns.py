"""service/turns.py: who waits before the encoder, and that nobody waits for ever."""

from concurrent.futures import Future
from contextlib import AbstractContextManager

from hypothesis import given
from hypothesis import strategies as st

from service.turns import MOST_PER_THREAD, READY_PER_THREAD, Turns

Request = tuple[AbstractContextManager["Future[None]"], "Future[None]"]


@given(
    threads=st.integers(1, 3),
    moves=st.lists(
        st.tuples(st.sampled_from(["come", "come", "answer", "give up"]), st.integers(0, 200)), max_size=300
    ),
)
def test_who_comes_first_goes_first_and_the_next_go_together(threads: int, moves: list[tuple[str, int]]) -> None:
    """In order, never more than the most, and somebody only waits while enough are inside to keep the threads busy."""
    turns, present = Turns(threads), list[Request]()
    for move, which in moves:
        inside = [request for request in present if request[1].done()]
        waiting = [request for request in present if not request[1].done()]
        before = len(waiting)
        if move == "come":
            entrance = turns.take()
            present.append((entrance, entrance.__enter__()))
        elif leavers := (inside if move == "answer" else waiting):
            leaver = leavers[which % len(leavers)]
            present.remove(leaver)
            leaver[0].__exit__(None, None, None)
        let_in = [turn.done() for _, turn in present]
        assert let_in == sorted(let_in, reverse=True)
        assert sum(let_in) <= MOST_PER_THREAD * threads
        if sum(let_in) < len(present):
            assert sum(let_in) > READY_PER_THREAD * threads
        if move == "answer" and len(present) - sum(let_in) < before:
            assert sum(let_in) == MOST_PER_THREAD * threads or all(let_in)
    for entrance, _ in reversed(present):
        entrance.__exit__(None, None, None)
    with turns.take() as turn:
        assert turn.done()


def test_who_fails_inside_makes_room() -> None:
    """An error leaves like an answer."""
    turns = Turns(1)
    for _ in range(3 * MOST_PER_THREAD):
        try:
            with turns.take() as turn:
                assert turn.done()
                raise KeyError
        except KeyError:
            pass
