"""The app folder that ``flwr run`` takes: the names of our two apps and the proposal, and no line of code.

Flower bundles such a folder (FAB) and ships it to every node. What runs there is what the names stand for in the
package that is installed at each party.
"""

from importlib.metadata import version
from pathlib import Path

from federation.core.errors import ConfigError, Reason
from federation.training.plan import RUN_ID
from federation.training.stock.server_app import proposal_text
from federation.v1 import training_pb2 as pb

SERVER_APP = "federation.training.stock.server_app:app"
CLIENT_APP = "federation.client.stock.app:app"
_PYPROJECT = """[project]
name = "entente-run"
version = "{version}"
description = "One approved training run; its code is the installed package's"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "entente"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
proposal = "{proposal}"
round-timeout-s = {timeout_s}
"""


def write_bundle(folder: Path, proposal: pb.TrainingProposal, timeout_s: float) -> None:
    """Writes the folder of one run.

    Args:
        folder: Made; must not be there.
        proposal: Complete, its run id included.
        timeout_s: Of one phase of a round.

    Raises:
        ConfigError: BAD_CONFIG where the folder is there, or the run's id is no file name.
    """
    if not RUN_ID.fullmatch(proposal.run_id):
        raise ConfigError(Reason.BAD_CONFIG, item=f"run id {proposal.run_id[:64]!r}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError as exc:
        raise ConfigError(Reason.BAD_CONFIG, item=f"{folder} is there already") from exc
    text = _PYPROJECT.format(
        version=version("entente"),
        server=SERVER_APP,
        client=CLIENT_APP,
        proposal=proposal_text(proposal),
        timeout_s=float(timeout_s),
    )
    (folder / "pyproject.toml").write_text(text)
