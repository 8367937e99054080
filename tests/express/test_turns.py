"""Whoever waits has a turn, in whatever order others come, leave and are preferred."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from understudy.express.turns import MAX_PASSES, Turns

CLIENTS = st.sampled_from("abcd")
SUITS = {
    True: lambda waiter: waiter[1],
    False: lambda waiter: not waiter[1],
    None: lambda _: True,
}
"""Which of two kinds something is for; None: for either."""


def call_all(turns: Turns[str]) -> list[str]:
    called = []
    while (waiter := turns.call()) is not None:
        called.append(waiter)
    return called


@given(st.lists(CLIENTS))
def test_clients_have_turns_and_each_is_served_in_its_own_order(clients: list[str]) -> None:
    turns: Turns[str] = Turns()
    for number, client in enumerate(clients):
        turns.join(client, f"{client}{number}")
    called = call_all(turns)
    assert not turns
    assert sorted(called) == sorted(f"{client}{number}" for number, client in enumerate(clients))
    for client in set(clients):
        own = [int(waiter[1:]) for waiter in called if waiter[0] == client]
        assert own == sorted(own)
    # Between two turns of one client, every other that still waits has exactly one.
    for start, waiter in enumerate(called):
        rest = [other[0] for other in called[start:]]
        following = rest[1 : rest.index(waiter[0], 1)] if rest.count(waiter[0]) > 1 else rest[1:]
        assert set(following) >= set(rest) - {waiter[0]}
        if rest.count(waiter[0]) > 1:
            assert len(following) == len(set(following))


def test_a_client_that_comes_again_stands_behind_the_others() -> None:
    turns: Turns[str] = Turns()
    turns.join("a", "a1")
    turns.join("b", "b1")
    assert turns.call() == "a1"
    turns.join("a", "a2")
    turns.join("c", "c1")
    assert call_all(turns) == ["b1", "a2", "c1"]


@given(st.lists(CLIENTS, min_size=1), st.data())
def test_who_leaves_is_not_called_and_changes_nobodys_order(
    clients: list[str], data: st.DataObject
) -> None:
    waiters = [(client, f"{client}{number}") for number, client in enumerate(clients)]
    gone = data.draw(st.lists(st.sampled_from(waiters), unique=True))
    turns: Turns[str] = Turns()
    for client, waiter in waiters:
        turns.join(client, waiter)
    for client, waiter in gone * 2:
        turns.leave(client, waiter)
    called = call_all(turns)
    assert set(called) == {waiter for client, waiter in waiters if (client, waiter) not in gone}
    for client in set(clients):
        own = [int(waiter[1:]) for waiter in called if waiter[0] == client]
        assert own == sorted(own)


def test_the_first_whom_it_suits_is_called() -> None:
    turns: Turns[str] = Turns()
    for client, waiter in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")]:
        turns.join(client, waiter)
    assert turns.call(lambda waiter: waiter == "b2") == "b2"
    assert turns.call(lambda waiter: waiter == "a2") == "a2"
    assert turns.call(lambda _: False) is None
    assert call_all(turns) == ["b1", "a1"]


def test_the_first_of_a_line_is_served_though_the_rest_of_it_suits_better() -> None:
    turns: Turns[tuple[str, bool, int]] = Turns()
    for number in range(200):
        for client in "abc":
            turns.join(client, (client, client == "a" and number > 0, number))
    called = [turns.call(SUITS[True]) or turns.call() for _ in range(100)]
    assert ("a", False, 0) in called
    # Who passed it over and who came first: each as often as it may be, and no more.
    assert called.index(("a", False, 0)) <= MAX_PASSES * 3


@given(
    st.lists(st.tuples(CLIENTS, st.booleans())),
    st.lists(st.one_of(st.none(), st.booleans(), st.tuples(CLIENTS, st.booleans()))),
)
def test_nobody_waits_for_more_turns_than_there_are_before(
    first: list[tuple[str, bool]], then: list[bool | tuple[str, bool] | None]
) -> None:
    """Whatever is preferred: a turn counts where somebody had it, or the next one is anybody's."""
    turns: Turns[tuple[str, bool, int]] = Turns()
    bounds: dict[tuple[str, bool, int], int] = {}
    number = 0

    def join(client: str, kind: bool) -> None:
        nonlocal number
        number += 1
        waiter = (client, kind, number)
        before = sum(other[0] == client for other in bounds)
        most_clients = 4
        bounds[waiter] = (before + 1) * (MAX_PASSES + 1) * most_clients * (MAX_PASSES + 1)
        turns.join(client, waiter)

    for client, kind in first:
        join(client, kind)
    for step in [*then, *[True] * len(first), *[None] * (len(first) + len(then))]:
        if isinstance(step, tuple):
            join(*step)
            continue
        called = turns.call(SUITS[step])
        if called is None and turns and step is not None:
            called = turns.call()  # what suits nobody is given up, and the first is next
        if called is not None:
            del bounds[called]
            bounds = {waiter: left - 1 for waiter, left in bounds.items()}
            assert all(bounds.values()), "somebody had to wait for too many others"
    assert not bounds
