"""Questions that nobody declared: read off what is released where that answers them, else paid for and kept.

One question, one answer: it is read off the first table of the epoch, in the order of release, that answers it, so a
table that is released later never changes it, and neither does another spelling, another caller or another epsilon. An
ad hoc table answers its own sub-questions from then on, like a cube does.

What is read off a cube is shown from the cube's own threshold on, where that is larger: as the cube is declared now, or
was when it was drawn if it is declared no more.
"""

from dataclasses import dataclass
from typing import Protocol

from dp_accounting import DpEvent

from federation.core.canonical import digest_hex
from federation.core.errors import DataError, PolicyError, Reason
from federation.overlap.answers import half_width
from federation.overlap.questions import Question, answers
from federation.policy.specs import AdHocSpec
from federation.v1 import overlap_pb2 as pb
from gateway.budget.overview import ScopePreview
from gateway.identity.caller import Caller
from gateway.overlap.answers import Stored
from gateway.overlap.cubes import PURPOSE, ActiveCubes, digest
from gateway.overlap.figures import respond, widest
from gateway.overlap.tables import Tables
from gateway.overlap.wanted import Made, Wanted

MAX_PARTNERS = 8
MAX_COLUMNS = 6
MAX_CHARS = 100
MIN_EPSILON = 0.01
"""Of a question, unless the policy's default is lower. Next to nothing would buy tables without end, each of them kept;
and a table of nothing but noise would be the epoch's answer to every part of its question."""


class Prices(Protocol):
    """The ledger, asked what a spend would leave."""

    def preview(self, purpose: str, event: DpEvent) -> tuple[ScopePreview, ...]:
        """Every scope that it would count in."""
        ...


@dataclass(frozen=True)
class _Asked:
    question: Question
    wanted: Wanted
    rules: AdHocSpec


class AdHocRelease:
    """Answers questions of the moment.

    Args:
        tables: Draws and keeps.
        policies: The active policy.
        prices: For previews.
    """

    def __init__(self, tables: Tables, policies: ActiveCubes, prices: Prices) -> None:
        self._tables, self._policies, self._prices = tables, policies, prices

    def query(self, caller: Caller, asked: pb.TableQuestion) -> pb.QueryCubeResponse:
        """The answer that there is, or a new one that is paid for.

        Raises:
            DataError: BAD_FIELD.
            OverlapError: UNKNOWN_EPOCH, EPOCH_INCOMPLETE, QUESTION_MISFIT.
            PolicyError: POLICY_DENIED, also where ad hoc questions are not allowed or cost too much.
            BudgetError: there is not enough left.
            AuditError: nothing was released.
        """
        found = self._read(asked)

        def find() -> Stored | None:
            return self._find(found)

        if find() is None:
            self._allow(caller, found)

        def answer(made: Made) -> pb.QueryCubeResponse:
            least = self._least(found, made.stored)
            return respond(made, found.question, name=found.wanted.name, epoch=found.wanted.epoch, min_count=least)

        return self._tables.release(caller, found.wanted, answer, digest, find=find)

    def preview(self, caller: Caller, asked: pb.TableQuestion) -> pb.PreviewTableResponse:
        """What ``query`` would do. Looks at policy, declared labels, released tables and the ledger, at no count.

        Raises:
            DataError: BAD_FIELD.
            OverlapError: UNKNOWN_EPOCH, EPOCH_INCOMPLETE, QUESTION_MISFIT; EPOCH_REPLACED where nothing that is
                stored answers it.
            PolicyError: POLICY_DENIED, also where ad hoc questions are not allowed or cost too much.
            BudgetError: BAD_COST for an epsilon that no noise reaches.
            AuditError: a refusal could not be logged.
        """
        found = self._read(asked)
        wanted = found.wanted
        cells = self._tables.cells(found.question, wanted.epoch, wanted.what)
        stored = self._find(found)
        if stored is None:
            self._allow(caller, found)
        least = max(self._least(found, stored), self._tables.permit(caller, wanted, stored))
        seen = pb.PreviewTableResponse(epoch=wanted.epoch, delta=wanted.delta, cells=len(cells), min_count=least)
        if stored is not None:
            seen.read_from, seen.fits, seen.sigma = stored.name, True, stored.answer.sigma
            seen.expected_error = half_width(seen.sigma, widest(stored, found.question))
            return seen
        self._tables.current(wanted.epoch)
        scopes = self._prices.preview(wanted.purpose, self._tables.event(wanted))
        seen.epsilon, seen.sigma = wanted.epsilon, self._tables.sigma(wanted)
        seen.expected_error = half_width(seen.sigma)
        seen.fits = all(scope.fits for scope in scopes)
        seen.scopes.extend(
            pb.ScopeAfter(
                scope=scope.scope,
                epsilon_limit=scope.epsilon_limit,
                epsilon_spent=scope.epsilon_spent,
                epsilon_after=scope.epsilon_after,
            )
            for scope in scopes
        )
        return seen

    def _allow(self, caller: Caller, found: _Asked) -> None:
        """Raises PolicyError (POLICY_DENIED), and logs it, where the policy has no place for a question that costs."""
        rules, wanted, beyond = found.rules, found.wanted, ""
        least = min(MIN_EPSILON, rules.default_epsilon)
        if not rules.allowed:
            beyond = "ad hoc questions are not allowed"
        elif wanted.purpose not in rules.purposes:
            beyond = f"ad hoc questions are for {', '.join(sorted(rules.purposes))}, not for {wanted.purpose[:48]}"
        elif wanted.epsilon > rules.max_epsilon:
            beyond = f"epsilon {wanted.epsilon:g}; one ad hoc question may cost {rules.max_epsilon:g}"
        elif wanted.epsilon < least:
            beyond = f"epsilon {wanted.epsilon:g}; one ad hoc question costs at least {least:g}"
        if beyond:
            error = PolicyError(Reason.POLICY_DENIED, item=beyond)
            self._tables.refuse(caller, wanted, error)
            raise error

    def _find(self, found: _Asked) -> Stored | None:
        """The first table of the epoch that answers the question."""
        stored = self._tables.store.released(found.wanted.epoch)
        return next((one for one in stored if answers(one.answer.question, found.question)), None)

    def _least(self, found: _Asked, stored: Stored | None) -> int:
        """The threshold, in people: that of ad hoc questions, or that of the cube that is read if it is larger."""
        if stored is None:
            return found.rules.min_count
        cube = self._policies.active.cubes.get(stored.name)
        return max(found.rules.min_count, cube.min_count if cube is not None else stored.answer.min_count)

    def _read(self, asked: pb.TableQuestion) -> _Asked:
        texts = [*asked.partners, *asked.by, *asked.where.keys(), *asked.where.values(), asked.purpose]
        too_many = len(asked.partners) > MAX_PARTNERS or len(asked.by) + len(asked.where) > MAX_COLUMNS
        if not asked.partners or too_many or any(len(text) > MAX_CHARS for text in texts):
            item = f"field question: 1 to {MAX_PARTNERS} partners, at most {MAX_COLUMNS} columns"
            raise DataError(Reason.BAD_FIELD, item=item)
        policy = self._policies.active
        rules, epsilon = policy.ad_hoc, asked.epsilon or policy.ad_hoc.default_epsilon
        if not 0 < epsilon < float("inf"):
            raise DataError(Reason.BAD_FIELD, item="field epsilon")
        where = tuple(sorted(asked.where.items()))
        fixed = {column for column, _ in where}
        question = Question(tuple(asked.partners), tuple(column for column in asked.by if column not in fixed), where)
        epoch, key_type = self._tables.complete(asked.epoch)
        name, purpose = f"ad-hoc-{question.digest()[:12]}", asked.purpose or PURPOSE
        paid = digest_hex({**question.canonical(), "purpose": purpose})[:24]
        wanted = Wanted(
            name=name,
            question=question,
            # Purpose and price are in the shape, so in the ledger's key: after a crash another one is another spend.
            shape=f"{paid}-{epsilon!r}-{rules.max_tokens_per_person}",
            epoch=epoch,
            key_type=key_type,
            epsilon=epsilon,
            delta=policy.budget.delta,
            tokens=rules.max_tokens_per_person,
            purpose=purpose,
            what=f"question {describe(question)}",
            terms=policy,
        )
        self._tables.cells(question, epoch, wanted.what)
        return _Asked(question, wanted, rules)


def describe(question: Question) -> str:
    """A question in a few words, for the ledger."""
    text = " and ".join(question.partners)
    text += f" by {', '.join(question.by)}" if question.by else ""
    text += f" where {', '.join(f'{column}={value}' for column, value in question.where)}" if question.where else ""
    return text[:300]
