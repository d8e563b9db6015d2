"""The published schemas say what the models say, and the shipped files name and fit them."""

import json

import pytest

from federation.policy.schema import schema_texts, write_schemas
from federation.policy.yaml_text import read_yaml
from tests.kits.policy import FOLDER, files

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema judges the schemas")


def test_the_published_files_are_fresh(tmp_path):
    published = {path.name: path.read_text() for path in (FOLDER / "schema").iterdir()}
    assert published == schema_texts(), "run python -m federation.policy.schema policies/schema"
    assert {path.name: path.read_text() for path in write_schemas(tmp_path)} == published


@pytest.mark.parametrize("name", sorted(files()))
def test_a_shipped_file_names_its_schema_and_fits_it(name):
    text = files()[name]
    stem = name.removesuffix(".yaml")
    assert text.startswith(f"# yaml-language-server: $schema=schema/{stem}.json\n")
    schema = json.loads(schema_texts()[f"{stem}.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(read_yaml(text.encode()).data, schema)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("rules", "effect: permit", "effect: allow"),
        ("rules", "eu-gdpr:A6-1-a, cn", "eu-gdpr:A6-1-z, cn"),
        ("agreement", "mechanism: eu-gdpr:A46-2-c", "mechanism: handshake"),
        ("purposes", "jrt_class: C2", "jrt_class: C4"),
        ("localization", "people_below: 100000", "peple_below: 100000"),
    ],
)
def test_an_editor_underlines_a_mistake(name, old, new):
    data = read_yaml(files(**{name: (old, new)})[f"{name}.yaml"].encode()).data
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(schema_texts()[f"{name}.json"]))


def test_a_word_comes_with_its_meaning():
    text = schema_texts()["localization.json"]
    assert "standard contract filed with the CAC" in text
    assert '"const": "standard_contract"' in text
