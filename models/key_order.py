"""The order in which a generator spells the parts of a key, as its folder says it.

The subject comes first, because questions name it: subjects that occur in a question start in the beam. The predicate follows,
as published (kexue.fm/archives/8802), or the meaning. The order belongs to the network, which was trained to write it, and to
the prefix tree, whose keys are spelled the same way.
"""

from collections.abc import Mapping

Order = tuple[str, str, str]

PARTS: Order = ("subject", "predicate", "meaning")
"""Of a key, in the order in which files and calls have them."""
ORDERS: tuple[Order, ...] = (PARTS, ("subject", "meaning", "predicate"))
"""In which a key may be spelled."""


def read_order(card: Mapping[str, object]) -> Order:
    """Read `order` of a folder's card (moverank.json); PARTS where it has none.

    Raises ValueError where it is not one of ORDERS.
    """
    found = card.get("order", PARTS)
    for order in ORDERS:
        if isinstance(found, list | tuple) and tuple(found) == order:
            return order
    listed = " or ".join(", ".join(order) for order in ORDERS)
    raise ValueError(f"order in moverank.json must be {listed}, not {found!r}")


def places_in(order: Order) -> tuple[int, int, int]:
    """Give the place of each of PARTS in a key that is spelled in `order`."""
    subject, predicate, meaning = (order.index(part) for part in PARTS)
    return subject, predicate, meaning
