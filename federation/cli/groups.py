"""The groups of commands by name; the module of a group is imported when one of its commands is run.

A group's module brings libraries that take longer to import than most commands to run. The list of commands needs one
line of each group, so that line stands here as well; a test holds it to what the group says of itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, get_args, get_type_hints

from typer import Typer
from typer.core import TyperArgument, TyperGroup
from typer.main import get_group
from typer.models import ArgumentInfo

if TYPE_CHECKING:
    from click import Command, Context


class Group(NamedTuple):
    """Where a group's ``app`` is, and what the list of commands says of it."""

    module: str
    help: str


GROUPS = {
    "partner": Group("federation.cli.partner", "A partner institution's agent, beside its own data."),
    "overlap": Group("federation.cli.overlap", "How many customers partners share: build an index, ask its tables."),
    "train": Group("federation.cli.train", "Joint models under differential privacy."),
    "model": Group("federation.cli.models", "Versions of models: which is in use, and how they compare."),
    "offers": Group("federation.cli.offers", "Offers between partners."),
    "consent": Group("federation.cli.consent", "Consents of a partner's own customers."),
    "policy": Group("federation.cli.policy", "The rules that compliance edits, and how they come into force."),
    "budget": Group("federation.cli.budget", "The privacy budget of the alliance."),
    "audit": Group("federation.cli.audit", "The append-only audit log."),
}


def load_group(name: str) -> TyperGroup:
    """The group with its commands. Raises KeyError for a name that is not in ``GROUPS``."""
    app: Typer = import_module(GROUPS[name].module).app
    return get_group(app)


def add_groups(app: Typer) -> None:
    """Lists every group under an app made with ``cls=LazyRoot``, without its commands."""
    for name, group in GROUPS.items():
        app.add_typer(Typer(help=group.help), name=name)


def reflow(command: "Command") -> None:
    """Joins the lines of each paragraph of a command's help, and of a group's commands.

    They end where the source's lines do; typer keeps that but for the first paragraph, and a terminal of 80 columns
    breaks each of them once more.
    """
    command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    for part in getattr(command, "commands", {}).values():
        reflow(part)


def explain_arguments(command: "Command") -> None:
    """Gives arguments their help, and those of a group's commands: click 8.5 loses it under typer before 0.21.

    Flower asks for such a typer.
    """
    hints = get_type_hints(command.callback, include_extras=True) if command.callback else {}
    for param in command.params:
        for info in get_args(hints.get(param.name or "")):
            if isinstance(info, ArgumentInfo) and isinstance(param, TyperArgument):
                param.help = info.help
    for part in getattr(command, "commands", {}).values():
        explain_arguments(part)


class LazyRoot(TyperGroup):
    """The root: lists groups by what is known of them here, and loads the one that the arguments name."""

    def resolve_command(self, ctx: "Context", args: list[str]) -> "tuple[str | None, Command | None, list[str]]":
        """As click does it; a listed group gives way to the real one."""
        self.suggest_commands = False  # click has its own advice about a misspelt command; typer's would follow it
        name, command, rest = super().resolve_command(ctx, args)
        found = load_group(name) if name in GROUPS else command
        if found is not None:
            reflow(found)
            explain_arguments(found)
        if isinstance(found, TyperGroup):
            found.suggest_commands = False
        return name, found, rest
