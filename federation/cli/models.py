"""``entente model``: versions of models, which one is in use, how two compare, and whether a saved one is genuine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.console import (
    MAX_NUMBER,
    RPC_TIMEOUT_S,
    ConfigOption,
    JsonOption,
    connect,
    emit,
    moment,
    out,
    styled,
    table,
)
from federation.v1 import models_pb2 as pb

if TYPE_CHECKING:
    from federation.training.measures import Interval

app = typer.Typer(no_args_is_help=True, help="Versions of models: which is in use, and how they compare.")
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the record; one line, about nobody.")]
VersionArgument = Annotated[int, typer.Argument(min=1, max=MAX_NUMBER, help="Version, from: entente model list.")]
COMPARE_S = 120.0


@app.command("list", epilog="Example: entente model list --config people/marketing")
def list_models(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List every version and every decision about which one is in use."""
    with connect(config) as connection:
        answer = connection.models.ListModels(pb.ListModelsRequest(), timeout=RPC_TIMEOUT_S)
    names = ("kind", "version", "party", "reason", "at")
    steps = [{name: getattr(step, name) for name in names} | _entry(step) for step in answer.steps]
    value = {"models": [_to_json(model) for model in answer.models], "steps": steps}

    def text() -> None:
        numbers = ["version", "epsilon", "AUC"]
        shown = table("Models", "version", "in use", "run", "kind", "finished", "epsilon", "AUC", right=numbers)
        for model in answer.models:
            auc = f"{model.auc:.4f}" if model.HasField("auc") else "-"
            used = styled("yes", "green") if model.in_use else ""
            spent = f"{model.epsilon_per_person:g}"
            shown.add_row(
                str(model.version),
                used,
                model.run_id,
                model.model.replace("_", " "),
                model.finished_at[:10],
                spent,
                auc,
            )
        out.print(shown)
        said = table("Decisions", "when", "step", "version", "by", "reason", right=["version"])
        for step in answer.steps:
            said.add_row(step.at[:19], step.kind, str(step.version), step.party, step.reason)
        out.print(said)

    emit(as_json, value, text)


@app.command(epilog="Example: entente model use 2 --reason 'ranks young customers better' --config people/marketing")
def use(version: VersionArgument, config: ConfigOption, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Put a version in use: partners score with it from now on (marketing, operator)."""
    with connect(config) as connection:
        request = pb.UseModelRequest(version=version, reason=reason)
        model = connection.models.UseModel(request, timeout=RPC_TIMEOUT_S).model
    emit(
        as_json, _to_json(model), lambda: out.print(f"Version [bold]{model.version}[/] (run {model.run_id}) is in use.")
    )


@app.command(epilog="Example: entente model rollback --reason 'calibration is off' --config people/compliance")
def rollback(config: ConfigOption, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Put the version back in use that was before (marketing, operator, compliance)."""
    with connect(config) as connection:
        listed = connection.models.ListModels(pb.ListModelsRequest(), timeout=RPC_TIMEOUT_S)
        now = next((model.version for model in listed.models if model.in_use), 0)
        request = pb.RollBackModelRequest(reason=reason, from_version=now)
        model = connection.models.RollBackModel(request, timeout=RPC_TIMEOUT_S).model
    said = f"Version [bold]{model.version}[/] (run {model.run_id}) is in use again."
    emit(as_json, _to_json(model), lambda: out.print(said))


@app.command(epilog="Example: entente model compare 1 2 --config people/marketing")
def compare(first: VersionArgument, second: VersionArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Compare two versions on the same rows, with a paired interval.

    A person gets the public set's answer. A partner compares on its own customers who may be scored; that stays there.
    """
    from federation.client.config import FILE_NAME

    own = (config / FILE_NAME).is_file() or config.name == FILE_NAME
    value = _compare_own(config, first, second) if own else _compare_public(config, first, second)

    def text() -> None:
        out.print(f"{value['positives']:,} takers among {value['rows']:,} {value['on']}")
        shown = table("AUC", "version", "value", "from", "to", right=["value", "from", "to"])
        names = {"first": str(first), "second": str(second), "difference": f"{second} minus {first}"}
        for name, label in names.items():
            shown.add_row(label, *(f"{number:.4f}" for number in value[name]))
        out.print(shown)
        certain = value["difference"][1] > 0 or value["difference"][2] < 0
        said = "The difference is more than chance." if certain else "The difference may be chance."
        out.print(f"{said} p = {value['p_value']:.3f}")

    emit(as_json, value, text)


@app.command(epilog="Example: entente model verify model/ --ca people/auditor/identity/ca.pem")
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder from: entente train show --save.")],
    ca: Annotated[Path, typer.Option("--ca", help="The alliance's CA certificate, PEM.")],
    as_json: JsonOption = False,
) -> None:
    """Check a saved model with nothing but its files and the CA: who signed the card, and that the weights are its."""
    from cryptography import x509

    from federation.core.errors import ConfigError, Reason
    from federation.training.signed_card import read_folder

    try:
        certificate = x509.load_pem_x509_certificate(ca.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(ca), detail="no PEM certificate") from exc
    model = read_folder(folder, certificate)
    names = ("model", "purpose", "trained_at", "epsilon_per_person", "epsilon_per_customer", "delta", "policy_version")
    about = {name: model.card[name] for name in names}
    value = {"run_id": model.run_id, "signed_by": model.signer.uri, "weights_sha256": model.digest, **about}

    def text() -> None:
        out.print(f"[green]Genuine[/]: run {model.run_id}, signed by {model.signer.uri}")
        for name, said in about.items():
            out.print(f"  {name.replace('_', ' ')}: {moment(str(said))}")

    emit(as_json, value, text)


def _entry(step: pb.ModelStep) -> dict[str, int | None]:
    """Its entry in the audit log, for roles that may read that."""
    return {"audit_index": step.audit_index if step.HasField("audit_index") else None}


def _compare_public(config: Path, first: int, second: int) -> dict[str, Any]:
    """On the gateway's public set."""
    with connect(config) as connection:
        request = pb.CompareModelsRequest(first=first, second=second)
        answer = connection.models.CompareModels(request, timeout=COMPARE_S)
    parts = {name: getattr(answer, name) for name in ("first", "second", "difference")}
    return {
        "on": "rows of the public set",
        "rows": answer.rows,
        "positives": answer.positives,
        **{name: [round(part.value, 5), round(part.low, 5), round(part.high, 5)] for name, part in parts.items()},
        "p_value": round(answer.p_value, 5),
    }


def _compare_own(config: Path, first: int, second: int) -> dict[str, Any]:
    """On a partner's own customers; nothing leaves."""
    from federation.cli.workplace import workplace
    from federation.client.connection import translated
    from federation.client.models import ModelShelf
    from federation.client.scoring import compare_models

    with workplace(config) as place:
        shelf = ModelShelf(place.connection.training, place.connection.models, place.identity, place.config.state)
        with translated():
            one, other = shelf.of_version(first), shelf.of_version(second)
        found, rows, positives = compare_models(place.data, one, other)
    parts: dict[str, Interval] = {
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
    }
    return {
        "on": "own customers, here",
        "rows": rows,
        "positives": positives,
        **{name: part.to_json(5) for name, part in parts.items()},
        "p_value": round(found.p_value, 5),
    }


def _to_json(model: pb.ModelInfo) -> dict[str, Any]:
    names = ("version", "run_id", "finished_at", "in_use", "model", "weights_sha256", "epsilon_per_person")
    return {**{name: getattr(model, name) for name in names}, "auc": model.auc if model.HasField("auc") else None}
