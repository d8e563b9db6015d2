"""Masks are idempotent, never longer, and never show what the input does not hold."""

import unicodedata
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.policy.facts import Obligations
from federation.policy.mask import apply, apply_obligations
from federation.policy.scan import identifiers

KEY, OTHER = b"k" * 32, b"o" * 32
SHORTENING = ["phone", "email", "card", "id_number", "name", "year", "country", "drop"]
MASKS = [*SHORTENING, "band", "band(18,30,45)", "band(-100,0,5)", "pseudonym", "keep"]
values = (
    st.text(max_size=40)
    | st.from_regex(r"\+?[0-9 ()*-]{0,24}", fullmatch=True)
    | st.emails()
    | st.integers().map(str)
    | st.from_regex(r"<?-?[0-9]{1,4}(-?-?[0-9]{1,4}|\+)?", fullmatch=True)
    | st.dates().map(str)
)


@given(st.sampled_from(MASKS), values)
@settings(max_examples=600)
def test_twice_is_once(mask, value):
    once = apply(mask, value, KEY)
    assert once is None or apply(mask, once, KEY) == once


@given(st.sampled_from(SHORTENING), values)
@settings(max_examples=400)
def test_never_longer(mask, value):
    masked = apply(mask, value, KEY)
    assert masked is None or 0 < len(masked) <= len(value)


@given(
    st.sampled_from(["phone", "email", "card", "id_number", "name"]), st.text(alphabet="abc123@.-+*张é ", max_size=30)
)
@settings(max_examples=400)
def test_shows_fewer_characters_than_there_are(mask, value):
    masked = apply(mask, value)
    shown = Counter(masked or "")
    shown.pop("*", None)
    assert not shown - Counter(value)
    shown.pop("@", None)
    assert shown.total() < max(len(value.strip()), 1)


@given(st.sampled_from(SHORTENING), values)
@settings(max_examples=400)
def test_nothing_invisible_comes_out(mask, value):
    masked = apply(mask, value) or ""
    assert not any(unicodedata.category(character)[0] in "CM" for character in masked)


@given(st.sampled_from(["phone", "card", "id_number"]), st.integers(10**13, 10**19).map(str))
def test_a_masked_number_is_no_identifier_any_more(mask, number):
    assert identifiers(apply(mask, number)) == ()


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_a_band_tells_only_the_band(a, b):
    edges = (-100, 0, 18, 30, 45)
    same = sum(a >= edge for edge in edges) == sum(b >= edge for edge in edges)
    mask = "band(-100,0,18,30,45)"
    assert (apply(mask, str(a)) == apply(mask, str(b))) is same


@given(values)
def test_a_pseudonym_is_another_for_every_recipient(value):
    ours, theirs = apply("pseudonym", value, KEY), apply("pseudonym", value, OTHER)
    assert ours != theirs
    assert apply("pseudonym", ours, OTHER) not in {ours, theirs}


@given(st.integers(-1000, 1000), st.integers(-100, 100))
def test_a_cap_holds(value, cap):
    got = apply_obligations({"n": str(value)}, Obligations({"n": "keep"}, cap={"n": cap}))
    assert int(got["n"]) == min(value, cap)
