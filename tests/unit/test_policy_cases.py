"""The cases under policies/tests, against the shipped policy."""

import pytest

from federation.policy.mask import apply_obligations
from tests.policy_kit import cases, shipped

CASES = list(cases())


@pytest.mark.parametrize(("case", "facts"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_case(case, facts):
    decision = shipped().decide(facts)
    codes = [given.code for given in decision.reasons]
    if case["permitted"]:
        assert decision.permitted, decision.reasons
        assert set(codes) == {"permitted"}
    else:
        assert not decision.permitted
        assert sorted(codes) == sorted(case["reasons"])
        assert not decision.obligations.mask
    if "law" in case:
        assert case["law"] in {given.legal_ref for given in decision.reasons}
    if "masked" in case:
        assert apply_obligations(case["attributes"], decision.obligations) == case["masked"]
    if "min_k" in case:
        assert decision.obligations.min_k == case["min_k"]


def test_every_rule_decides_a_case():
    told = {given.rule for _, _, facts in CASES for given in shipped().decide(facts).reasons}
    assert {rule.id for rule in shipped().rules} <= told
