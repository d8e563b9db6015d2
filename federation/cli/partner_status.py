"""``entente partner status``: the identity, the connection, what the agent does, and what has left."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, emit, out, table
from federation.cli.workplace import workplace
from federation.client.connection import translated
from federation.core.errors import EntenteError, Reason
from federation.v1 import enrolment_pb2

if TYPE_CHECKING:
    from federation.client.workplace import Workplace

STATUS_FILE = "agent.json"


def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the identity, the connection, what the agent does, and what has left this partner."""
    from federation.client.agent import TROUBLE, read_status
    from federation.client.alone import is_running

    with workplace(config) as place:
        folder = place.config.state
        agent = read_status(folder / STATUS_FILE, running=is_running(folder))
        try:
            place.connection.wait_ready(5)
            with translated():
                me = place.connection.enrolment.WhoAmI(enrolment_pb2.WhoAmIRequest(), timeout=RPC_TIMEOUT_S)
            gateway: dict[str, Any] = {"reachable": True, "certificate_expires_at": me.certificate_expires_at}
            gateway["agent_connected"] = place.config.party in me.connected_partners
        except EntenteError as error:
            reachable = error.reason is not Reason.UNAVAILABLE
            gateway = {"reachable": reachable, "reason": str(error.reason), "message": error.public}
        reports = [json.loads(path.read_text()) for path in sorted((place.config.state / "reports").glob("*.json"))]
        value: dict[str, Any] = {
            "party": place.config.party,
            "gateway": {"address": place.config.gateway, **gateway},
            "agent": agent,
            "unsent_withdrawals": place.consents.pending(),
            "training_proposals": _proposals(place),
            "last_delta": _kept(place.config.state / "last-delta.json"),
            "egress": place.egress.summary(),
            "reports": reports,
        }

    def text() -> None:
        out.print(f"[bold]{value['party']}[/] at {place.config.gateway}")
        for name, told in gateway.items():
            out.print(f"  {name}: {told}")
        if not agent["running"]:
            out.print("  The agent is not running here. Start it: entente partner run")
        parts = table("Agent", "part", "state", "since", "text")
        for name, part in agent["parts"].items():
            parts.add_row(name, part["state"], part["since"][:19], part["text"])
        out.print(parts)
        for name, part in agent["parts"].items():
            if trouble := part.get(TROUBLE):
                out.print(f"  {name}, {trouble['at'][:19]}: {trouble['text']}", markup=False)
        if value["training_proposals"]:
            waiting = table("Training runs that wait for your word", "run", "model", "epsilon", "rounds", "until")
            for row in value["training_proposals"]:
                epsilon, rounds = f"{row['epsilon']:g}", str(row["rounds"])
                waiting.add_row(row["run_id"], row["model"], epsilon, rounds, row["expires_at"][:19])
            out.print(waiting)
            out.print("  entente train approve RUN, or refuse RUN")
        if delta := value["last_delta"]:
            counts = ", ".join(f"{count:,} {name}" for name, count in delta["people"].items())
            out.print(f"Last change of epoch {delta['epoch']}, {delta['at'][:19]}: people {counts}")
        left = table("What left this partner", "call", "messages", "bytes", right=["messages", "bytes"])
        for row in value["egress"]:
            left.add_row(row["method"], f"{row['messages']:,}", f"{row['bytes']:,}")
        out.print(left)

    emit(as_json, value, text)


def _kept(path: Path) -> dict[str, Any]:
    """What the agent wrote down for its own partner; nothing before it did."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _proposals(place: "Workplace") -> list[dict[str, Any]]:
    """Training runs that wait for a person at this partner."""
    from federation.client.training.approvals import Approvals

    return [
        {
            "run_id": waiting.run_id,
            "proposed_by": waiting.proposed_by,
            "expires_at": waiting.expires_at,
            "model": waiting.proposal.model,
            "features": list(waiting.proposal.features),
            "epsilon": waiting.proposal.epsilon,
            "rounds": waiting.proposal.rounds,
        }
        for waiting in Approvals(place.engine, place.clock).waiting()
    ]
