"""What each mask makes of ordinary and odd values."""

import pytest

from federation.core.errors import PolicyError, Reason
from federation.policy.facts import Obligations
from federation.policy.mask import MAX_VALUE_CHARS, apply, apply_obligations, check_mask, recipient_key


@pytest.mark.parametrize(
    ("mask", "value", "masked"),
    [
        ("phone", "13812341234", "138****1234"),
        ("phone", "+1 (390) 555-0168", "139****0168"),
        ("phone", "１３８１２３４１２３４", "138****1234"),
        ("phone", "555-0168", "*******"),
        ("phone", "none", None),
        ("card", "4111 1111 1111 1111", "411111******1111"),
        ("card", "4111 1111", "********"),
        ("id_number", "11010519491231002X", "110***********002X"),
        ("id_number", "X123", "****"),
        ("email", "anna@example.org", "a***@"),
        ("email", "a@b", "**@"),
        ("email", "no address", "***"),
        ("name", "张三", "张*"),
        ("name", "Maria Silva", "M***"),
        ("name", "X", "*"),
        ("year", "1984-05-31", "1984"),
        ("year", "31.05.1984", None),
        ("year", "1984/5/31", "1984"),
        ("year", "1984年5月31日", "1984"),
        ("year", "１９８４-05-31", "1984"),
        ("email", "张三丰@例子.cn", "张***@"),
        ("email", "\u202eanna@example.org", "***@"),
        ("name", "\u0301Ana", "***"),
        ("name", "👩‍👩‍👧 Silva", "***"),
        ("country", "pt-11", "PT"),
        ("country", "Lisboa", None),
        ("band(18,30,45)", "17", "<18"),
        ("band(18,30,45)", "18", "18-29"),
        ("band(18,30,45)", "29.5", "18-29"),
        ("band(18,30,45)", "45", "45+"),
        ("band(18,30,45)", "32-33", "30-44"),
        ("band(18,30,45)", "20-40", "18-44"),
        ("band(18,30,45)", "old", None),
        ("band(0,1000)", "-327", "<0"),
        ("band", "6127", "5000-9999"),
        ("drop", "anything", None),
        ("keep", "as it is", "as it is"),
    ],
)
def test_masks(mask, value, masked):
    assert apply(mask, value) == masked


@pytest.mark.parametrize("mask", ["", "hash", "band()", "band(5,1)", "band(1,1)", "band(a)", "Keep"])
def test_an_unknown_mask_fails(mask):
    with pytest.raises(PolicyError) as caught:
        check_mask(mask)
    assert caught.value.reason == Reason.OBLIGATION_FAILED
    with pytest.raises(PolicyError):
        apply(mask, "5")


@pytest.mark.parametrize("value", ["x" * (MAX_VALUE_CHARS + 1), 5, None])
def test_what_cannot_be_masked_is_refused(value):
    with pytest.raises(PolicyError):
        apply("keep", value)


def test_a_field_that_nobody_named_is_refused_and_not_quoted():
    duties = Obligations({"age": "band(18,30)", "job": "drop"})
    assert apply_obligations({"age": "20", "job": "cook"}, duties) == {"age": "18-29"}
    with pytest.raises(PolicyError) as caught:
        apply_obligations({"age": "20", "anna@example.org": "x"}, duties)
    assert caught.value.reason == Reason.OBLIGATION_FAILED
    assert "anna" not in str(caught.value)


def test_a_pseudonym_needs_a_key_of_the_recipient():
    with pytest.raises(PolicyError):
        apply("pseudonym", "C1", b"short")
    with pytest.raises(PolicyError):
        recipient_key(b"short", "bank")
    master = bytes(32)
    assert recipient_key(master, "bank") != recipient_key(master, "insurer")


def test_a_cap_drops_what_is_no_number():
    assert apply_obligations({"n": "many"}, Obligations({"n": "keep"}, cap={"n": 3})) == {}
