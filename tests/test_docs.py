"""What the documents tell a reader to type: Python that compiles and imports, commands with options that exist."""

import argparse
import ast
import contextlib
import importlib
import json
import re
import runpy
import shlex
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from test_structure import REPOSITORY, documents

import difffuse_hf
from difffuse_hf.cli.main import app

SCRIPT_FOLDERS = ("examples", "datasets_scripts", "benchmarks", "tests")
COMMAND = re.compile(r"\s*(\w+=\S+ )*(difffuse|python|accelerate|torchrun|[\w/]+\.py)\b")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
OTHERS = {"--help", "--index-url"}  # of every command, and of pip
GROUP: Any = typer.main.get_command(app)
PYTHON_DOCUMENTS = [file for file in documents() if "```python" in file.read_text(encoding="utf-8")]


def name_of(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


def blocks(document: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks; what is printed by a program has no language either."""
    text = document.read_text(encoding="utf-8")
    return [(language, textwrap.dedent(block)) for _, language, block in FENCE.findall(text)]


def command_lines(document: Path) -> list[list[str]]:
    """The words of each line that starts a program of this package, in blocks and in inline code."""
    shell = [block for language, block in blocks(document) if language in ("", "bash", "sh", "console")]
    lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    parts = [part for line in lines if COMMAND.match(line) for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts if "--" in part]


def script_of(word: str) -> Path | None:
    """The file that a word names, with its folder or without."""
    if not word.endswith(".py"):
        return None
    places = [REPOSITORY / word, *(REPOSITORY / folder / word for folder in SCRIPT_FOLDERS)]
    return next((place for place in places if place.exists()), None)


def options_of_command(name: str) -> list[set[str]]:
    """The spellings of each option of `difffuse NAME`."""
    return [{*one.opts, *one.secondary_opts} for one in GROUP.commands[name].params if one.opts[0].startswith("-")]


@cache
def options_of_script(script: Path) -> set[str]:
    """Those that its parser knows; the script ends at its --help, before it has done anything."""
    if script.name.startswith("prepare_"):  # `difffuse prepare`, with underscores as well
        options = set().union(*options_of_command("prepare"))
        return options | {option[:2] + option[2:].replace("-", "_") for option in options}
    seen = []
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr("sys.argv", [str(script), "--help"])
        patch.syspath_prepend(script.parent)
        patch.setattr(argparse.ArgumentParser, "print_help", lambda parser: seen.append(parser))
        runpy.run_path(str(script), run_name="__main__")
    return set(seen[0]._option_string_actions)


def unknown_words(words: list[str]) -> list[str]:
    """Commands and long options of a command line that do not exist."""
    for number, word in enumerate(words):
        script, rest = script_of(word), words[number + 1 :]
        if script is not None:
            known = options_of_script(script)
        elif word in ("difffuse", "difffuse_hf.cli"):
            name = rest[0] if rest else ""
            if name.startswith("-"):
                known = {"--help", *(option for one in GROUP.params for option in one.opts)}
            elif name not in GROUP.commands:
                return [name]
            else:
                known = {"--help"}.union(*options_of_command(name))
        else:
            continue
        return [one for one in rest if one.startswith("--") and one.partition("=")[0] not in known]
    return [word for word in words if word.endswith(".py")]  # a script that is not there


@pytest.mark.parametrize("document", PYTHON_DOCUMENTS, ids=name_of)
def test_python_of_the_documents_compiles_and_its_imports_exist(document):
    missing = []
    for language, block in blocks(document):
        if language != "python":
            continue
        compile(block, name_of(document), "exec")
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "difffuse_hf":
                module = importlib.import_module(node.module or "")
                missing += [f"{node.module}.{one.name}" for one in node.names if not hasattr(module, one.name)]
    assert missing == []


def test_the_charts_of_the_pages_show_the_numbers_of_their_tables():
    """A chart keeps what was drawn as its description; `python docs/figures.py` draws it anew."""
    charts = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))["CHARTS"]
    for name, numbers in charts.items():
        drawn = json.loads(Image.open(REPOSITORY / "docs" / name).info["Description"])
        assert drawn == json.loads(json.dumps(numbers())) and len(drawn) > 3, name


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_command_lines_of_the_documents_name_options_that_exist(document):
    unknown = {shlex.join(words): unknown_words(words) for words in command_lines(document)}
    assert {line: words for line, words in unknown.items() if words} == {}


def test_options_that_the_documents_mention_exist_somewhere():
    """`--option` without its command: some command or script of this package has it."""
    scripts = [file for folder in ("examples", "datasets_scripts") for file in (REPOSITORY / folder).glob("*.py")]
    known = set().union(*(options_of_script(script) for script in scripts))
    known |= {option for name in GROUP.commands for options in options_of_command(name) for option in options}
    unknown = []
    for document in documents():
        if document.name == "CHANGELOG.md":  # names what was taken away
            continue
        text = FENCE.sub("", document.read_text(encoding="utf-8"))
        mentioned = set(re.findall(r"`(--[\w-]+)", text)) - known - OTHERS
        unknown += [f"{name_of(document)}: {option}" for option in sorted(mentioned)]
    assert unknown == []


def test_most_command_lines_are_looked_at():
    """The reader of them is not blind: it finds the lines that the README shows, and a wrong word in one."""
    assert ["difffuse", "demo", "--output", "out/demo"] in command_lines(REPOSITORY / "README.md")
    assert unknown_words(shlex.split("accelerate launch examples/train_diffusion.py --dataset a --nois b")) == [
        "--nois"
    ]
    assert unknown_words(shlex.split("difffuse detect a --modell demo")) == ["--modell"]
    assert unknown_words(shlex.split("difffuse detekt a --model demo")) == ["detekt"]
    assert unknown_words(shlex.split("python examples/train_everything.py --cpu")) == ["examples/train_everything.py"]


@pytest.mark.parametrize(
    "page, command", [("detection", "detect"), ("web-page", "app"), ("preprocessing", "preprocess")]
)
def test_the_table_of_options_has_those_of_the_command_and_no_others(page, command):
    text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`--.*?) \|", text.split("\n## Options\n")[1].split("\n## ")[0], flags=re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"--[\w-]+", row)}
    options = options_of_command(command)
    assert named <= set().union(*options)
    assert [sorted(option) for option in options if not option & named] == []


def test_the_reference_has_every_public_name():
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: difffuse_hf\.(\w+)$", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(set(difffuse_hf.__all__) - {"__version__"})


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_tests_that_the_documents_name_exist(document):
    """`test_file.py` and `test_file.py::test_name`."""
    missing = []
    for file, name in re.findall(r"\b(test_\w+\.py)(?:::(\w+))?", document.read_text(encoding="utf-8")):
        path = REPOSITORY / "tests" / file
        if not path.exists() or (name and not re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.M)):
            missing.append(f"{file}::{name}")
    assert missing == []
