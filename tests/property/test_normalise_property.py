"""Normalising a column gives what normalising each text gives, and hashing a column what hashing each text gives."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from federation.overlap.hash_to_curve import hash_column, hash_to_curve
from federation.overlap.normalise import normalise, normalise_column

ODD = [
    *("a@b.com", "A.b@GMAIL.com", "x@googlemail.com", " q@w.de\t", "\x1ca@b.de", "ÄB@x.de", "ﬁ@x.de", "K@x.de", "a@b"),
    *(
        "a@b.c_d.com",
        "a\x7fb@x.de",
        "a@@b.c",
        "a b@x.de",
        "a@b.de\n",
        "a@-b.de",
        "a@xn--bcher-kva.de",
        "x" * 65 + "@b.de",
    ),
    *(
        "1-2-3-45",
        "aaaaa",
        "ab 12/34",
        "é12345",
        "K" * 40,
        "٣٣٣٣٣٣",
        "+351 912 345 678",
        "(212) 555-0101",
        "00351912345678",
    ),
    *(
        "a@" + "b" * 63 + ".de",
        "a@" + "b" * 64 + ".de",
        "a@" + "b." * 125 + "com",
        "a@" + "b." * 126 + "com",
        " " * 2000 + "a@b.de",
    ),
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(ODD),
        st.emails(),
        st.text(max_size=20),
        st.from_regex(r"\A[ A-Za-z0-9@._-]{0,12}@[a-zA-Z0-9_.-]{1,12}\.[a-z]{2} ?\Z"),
        st.text("aA0-. @é_\x1f", max_size=12),
    ),
    max_size=12,
)


@given(TEXTS, st.sampled_from(["email", "phone", "national_id"]))
def test_a_column_is_normalised_as_its_texts_are(texts: list[str], kind: str) -> None:
    found = normalise_column(pa.array(texts, pa.string()), kind, region="US", mode="possible")
    assert found.to_pylist() == [normalise(text, kind, region="US", mode="possible") for text in texts]


@given(TEXTS, st.integers(0, 3), st.binary(max_size=40))
def test_a_part_of_a_column_is_hashed_as_its_texts_are(texts: list[str], start: int, tag: bytes) -> None:
    part = pa.array(texts, pa.string()).slice(start)
    assert hash_column(part, tag) == hash_to_curve([text.encode() for text in texts[start:]], tag)
