"""Who is whose customer in the benchmark, for us and for the peers alike. Imports nothing: peers run it elsewhere."""

import random


def people_of(place: int, count: int) -> list[int]:
    """Customers of the partner in a place (0, 1, 2), in no order: half of them are also the next partner's."""
    first = (0, count // 2, count // 4)[place]
    people = list(range(first, first + count))
    random.Random(place).shuffle(people)  # invented people
    return people


def email_of(person: int) -> str:
    """Twenty-five characters."""
    return f"user{person:09d}@example.com"
