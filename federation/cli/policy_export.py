"""``entente policy export`` and ``schema``: the policy in forms that other programs read."""

from pathlib import Path
from typing import Annotated

import typer

from federation.cli.console import JsonOption, emit, out
from federation.core.errors import ConfigError, Reason


def export(
    folder: Annotated[Path, typer.Argument(help="Folder with the policy files.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for policy.cedar and policy.cedarschema.")],
    cedar: Annotated[bool, typer.Option("--cedar", help="As Cedar with a schema; the only form there is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the policy as Cedar. Evaluate it with the schema only; obligations stay ours."""
    from federation.policy.cedar import export_cedar
    from federation.policy.load import load_policy

    if not cedar:
        raise ConfigError(Reason.BAD_CONFIG, item="no form of export", fix="Add --cedar.")
    policy = load_policy(folder)
    texts = dict(zip(("policy.cedar", "policy.cedarschema"), export_cedar(policy), strict=True))
    target.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8")
    written = [str(target / name) for name in texts]
    value = {"version": policy.version, "files": written}
    emit(as_json, value, lambda: out.print(f"Version {policy.version[:12]} in {' and '.join(written)}", soft_wrap=True))


def schema(
    target: Annotated[Path, typer.Argument(help="Folder for the schemas, schema/ beside the policy files.")],
    as_json: JsonOption = False,
) -> None:
    """Write the JSON Schemas by which an editor completes and underlines policy files."""
    from federation.policy.schema import write_schemas

    written = [str(path) for path in write_schemas(target)]
    emit(as_json, {"files": written}, lambda: out.print(f"{len(written)} schemas in {target}", soft_wrap=True))


def register(app: typer.Typer) -> None:
    """Puts the commands of this page under ``entente policy``."""
    app.command(epilog="Example: entente policy export policies/ --cedar --out cedar/")(export)
    app.command(epilog="Example: entente policy schema policies/schema")(schema)
