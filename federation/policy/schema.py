"""JSON Schema of every policy file, made from the models, so that an editor completes words and underlines mistakes.

``python -m federation.policy.schema policies/schema`` writes one file for each kind of policy file. The first line of a
policy file names its schema (``# yaml-language-server: $schema=schema/rules.json``). A schema knows the shape and the
closed vocabularies, each word with its meaning; what only all files together show, `entente policy lint` says.
"""

import json
import sys
from pathlib import Path
from typing import Any

from federation.policy.documents import DOCUMENTS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """File name of a schema (``rules.json``) to the schema."""
    found = {}
    for name, model in DOCUMENTS.items():
        schema = model.model_json_schema(mode="validation")
        found[f"{Path(name).stem}.json"] = {"$schema": DIALECT, **schema, "title": name}
    return found


def schema_texts() -> dict[str, str]:
    """The same as the texts of the published files."""
    return {
        name: json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }


def write_schemas(folder: Path) -> list[Path]:
    """Writes the published files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in schema_texts().items():
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    for written in write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "policies/schema")):
        sys.stdout.write(f"{written}\n")
