"""Whatever is sent as files or as a statement: refused with a reason, and nothing in force changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import EntenteError
from federation.policy.steps import SIGNED, Kind, Statement, signing_kind
from federation.v1 import policy_pb2 as pb
from tests.kits.policy import AT, files, shipped
from tests.kits.proposal import Office

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
TEXTS = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [BOMB, "? [", "{" * 500, "a: 1\na: 2\n", "!!python/object:os.system x\n", "\x00", "\ufeffa: 1", "- - - -"]
    ),
    st.binary(max_size=100).map(lambda raw: raw.decode("utf-16", "replace").encode("utf-8", "replace").decode()),
)
OFFICE = Office()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*files(), "other.yaml", "../x"]), TEXTS, min_size=1, max_size=4), st.booleans())
def test_fuzzed_files_are_refused_and_change_nothing(broken, whole):
    sent = {**(files() if whole else {}), **broken}
    version = shipped().version[:-1] + "0"
    statement = Statement(Kind.PROPOSAL, "skyline", version, shipped().version, AT.isoformat(), words="x")
    signed = OFFICE.identities["compliance"].sign(signing_kind(Kind.PROPOSAL), statement.to_bytes())
    request = pb.ProposePolicyRequest(signed=signed, files=[pb.PolicyFile(name=n, yaml=t) for n, t in sent.items()])
    with pytest.raises(EntenteError):
        OFFICE.as_("compliance")._stub.ProposePolicy(request, timeout=1)
    assert OFFICE.node.policy.refresh().version == shipped().version
    assert OFFICE.node.proposals.proposals() == []


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SIGNED), st.binary(max_size=200))
def test_fuzzed_statements_are_refused_and_change_nothing(kind, payload):
    signed = OFFICE.identities["compliance"].sign(signing_kind(kind), payload)
    node, caller = OFFICE.node, OFFICE.caller("compliance")
    takes = {
        Kind.PROPOSAL: lambda: node.proposals.propose(caller, signed, files(), shipped()),
        Kind.ROLLBACK: lambda: node.proposals.roll_back(caller, signed, shipped()),
    }
    with pytest.raises(EntenteError):
        takes.get(kind, lambda: node.proposals.take(kind, caller, signed, shipped()))()
    assert node.policy.refresh().version == shipped().version
