"""What the pages of the site do not hold themselves: the commands, and files that lie outside docs/.

A link that leaves docs/ would break the strict build. The few files that the pages link to become pages themselves, so
the same links work in a clone and on the site, without an address of the repository.
"""

import re
import subprocess
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {  # file in the repository -> page of the site
    "src/difffuse_hf/assets/demo/README.md": "demo-model.md",
    "src/difffuse_hf/assets/flair/README.md": "flair-model.md",
    "src/difffuse_hf/assets/ct/README.md": "ct-model.md",
    "pipelines/README.md": "custom-pipeline.md",
}
COMMANDS = "<!-- the commands, by docs/hooks.py -->"  # in cli.md


def on_files(files, config):
    for path, page in OUTSIDE.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # of a model card: for the Hub
        files.append(File.generated(config, page, content=text.replace("](../docs/", "](")))
    return files


def on_page_markdown(markdown, page, config, files):
    for path, name in OUTSIDE.items():
        markdown = markdown.replace(f"](../{path}", f"]({name}")
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def on_page_content(html, page, config, files):
    """Types of arguments without the marks of their Markdown, which the reference takes for code."""
    if page.file.src_uri != "api.md":
        return html
    return re.sub(r"<code>[^<]*`[^<]*</code>", lambda code: re.sub(r"[`*]", "", code[0]), html)


def commands() -> str:
    """Every command with its arguments and options, in the words of its `--help`: Typer's own Markdown."""
    call = [sys.executable, "-m", "typer", "difffuse_hf.cli.main", "utils", "docs", "--name", "difffuse"]
    text = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)
