"""``entente policy export`` and ``schema`` write what the library makes."""

import json

from typer.testing import CliRunner

from federation.cli.policy import app
from federation.policy.cedar import export_cedar
from federation.policy.schema import schema_texts
from tests.kits.policy import FOLDER, shipped


def test_export_writes_policies_and_schema(tmp_path):
    result = CliRunner().invoke(app, ["export", str(FOLDER), "--cedar", "--out", str(tmp_path / "cedar"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["version"] == shipped().version
    texts = tuple((tmp_path / "cedar" / name).read_text() for name in ("policy.cedar", "policy.cedarschema"))
    assert texts == export_cedar(shipped())


def test_export_needs_a_form_and_a_policy(tmp_path):
    assert CliRunner().invoke(app, ["export", str(FOLDER), "--out", str(tmp_path / "a")]).exit_code != 0
    assert CliRunner().invoke(app, ["export", str(tmp_path), "--cedar", "--out", str(tmp_path / "b")]).exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_schema_writes_all_of_them(tmp_path):
    result = CliRunner().invoke(app, ["schema", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == schema_texts()


def test_lint_is_check():
    results = [CliRunner().invoke(app, [name, str(FOLDER), "--json"]) for name in ("lint", "check")]
    assert results[0].stdout == results[1].stdout
    assert results[0].exit_code == results[1].exit_code == 0
