"""What the documents say is so."""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from chroma_gpu import cli, config, errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_readme_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    first, alias, more, steps, job = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), scope)  # the last line is the query
    result = scope["packages"].query(query_texts=["plot charts"], n_results=1, where={"year": {"$gte": 2020}})
    assert result["ids"] == [["plotly"]]
    assert alias.startswith("import chroma_gpu.as_chromadb ")  # tests/test_alias.py runs it
    exec(compile(more, "README.md", "exec"), scope)
    (rows,) = scope["found"].rows()
    assert [row["document"] for row in rows] == ["How to plot charts", "Attention is all you need"]
    assert scope["draft"].configuration_json["embedding_function"]["name"] == "hashing"
    exec(compile(steps, "README.md", "exec"), scope)
    assert scope["papers"].search(scope["Search"]().rank(scope["words"]))["ids"] == [["2"]]
    asked = scope["papers"].query(query_texts=["charts"], where_document={"$regex": "(?i)plot|draw"}, transforms=scope["steps"])
    assert asked["ids"] == [["1"]]
    exec(compile(job, "README.md", "exec"), scope)
    assert scope["report"].rows_out == 1_000
    assert scope["client"].get_collection("packages-5k").count() == 1_000
    scope["client"].close()


def test_every_command_is_in_the_readme():
    (commands,) = [each.choices for each in cli._parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert {"embed", "bulk-query"} <= commands.keys()
    for command in commands:
        assert f"chroma-gpu {command}" in README, command


def test_the_readme_shows_the_two_commands_of_a_fresh_machine():
    assert re.search(r"^make demo\b", README, re.MULTILINE)
    assert re.search(r"^make test\b", README, re.MULTILINE)


def test_every_module_of_the_package_is_in_the_tree():
    tree = ARCHITECTURE.split("```")[1]
    package = ROOT / "chroma_gpu"
    for path in package.iterdir():
        if path.name not in ("__init__.py", "__pycache__", "py.typed"):
            assert re.search(rf"^  {path.name}\b", tree, re.MULTILINE), path.name
    for module in (package / "engine").glob("*.py"):
        if module.stem != "__init__":
            assert module.stem in tree, f"engine/{module.name}"


def test_every_error_is_in_the_tree_of_errors():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    for name in classes:
        assert name in errors.__doc__, name


def test_every_setting_says_what_it_does():
    body = next(
        node for node in ast.parse(Path(config.__file__).read_text()).body if getattr(node, "name", "") == "Settings"
    ).body
    documented = {
        node.target.id
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    assert documented == {each.name for each in fields(config.Settings)}


def test_differences_name_tests_that_are_there():
    table = (ROOT / "docs" / "differences-from-chroma.md").read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+)", table):
        assert f"def {name}(" in sources, name


@pytest.mark.parametrize("path", ["README.md", "docs/architecture.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / path).read_text()):
        assert (ROOT / path).parent.joinpath(target).exists(), target
