"""The house rules of CONTRIBUTING.md as ceilings: they may fall, and nothing may rise above them."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "difffuse_hf"
# In the direction of the data flow, from the files on a disk to the command line; an import only ever goes back.
ROOMS = [
    "io",
    "preprocessing",
    "phantoms",
    "data",
    "models",
    "schedulers",
    "saliency",
    "pipelines",
    "training",
    "evaluation",
    "detection",
    "reporting",
    "app",
    "cli",
]
MOST_ROOT_MODULES = 3
MOST_CODE_LINES = 80  # of a function, without its docstring, comments and blank lines
MOST_DUPLICATES = 15  # pairs of places that share this many lines or more:
DUPLICATE_LINES = 6
DUPLICATE_FOLDERS = ("src", "examples", "datasets_scripts", "benchmarks", "pipelines", "tests")


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file; a package's own name stands for its `__init__`."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports anywhere, also inside functions and for type checkers."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "difffuse_hf"]
            found |= {one.removeprefix("difffuse_hf").lstrip(".") for one in names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            elif (node.module or "").split(".")[0] == "difffuse_hf":
                base = node.module.removeprefix("difffuse_hf").lstrip(".")
            else:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in known else base)
    return found - {name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """The import graph; the package's own `__init__`, which names everything for the reader of it, is left out."""
    known = modules()
    return {name: imports_of(name, file, known) for name, file in known.items() if name}


def test_the_root_holds_few_modules():
    assert len([file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]) <= MOST_ROOT_MODULES


def test_every_room_is_known():
    rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_no_circle_of_imports(graph):
    finished, on_the_way = set(), []

    def visit(name):
        assert name not in on_the_way, " -> ".join([*on_the_way[on_the_way.index(name) :], name])
        if name in finished or name not in graph:
            return
        on_the_way.append(name)
        for target in sorted(graph[name]):
            visit(target)
        finished.add(on_the_way.pop())

    for name in graph:
        visit(name)


def test_imports_go_against_the_data_flow_only(graph):
    """No module knows a room that comes after its own."""
    place = {room: number for number, room in enumerate(ROOMS)}
    upwards = [
        f"{name} -> {target}"
        for name, targets in graph.items()
        for target in targets
        if place.get(target.split(".")[0], -1) > place.get(name.split(".")[0], -1) and name.split(".")[0] in place
    ]
    assert upwards == []


def test_no_module_goes_through_the_packages_own_index(graph):
    """`difffuse_hf.X` inside the package would be a circle that only shows when it runs; the version is a word."""
    known, through_the_root = modules(), []
    for name in graph:
        above = name.count(".") + 1 + (known[name].name == "__init__.py")  # dots that lead to the root
        for node in ast.walk(ast.parse(known[name].read_text(encoding="utf-8"))):
            named = {alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
            absolute = isinstance(node, ast.Import) and "difffuse_hf" in named
            relative = isinstance(node, ast.ImportFrom) and node.level == above and not node.module
            if absolute or (relative and named - {"__version__"} - known.keys()):
                through_the_root.append(name)
    assert through_the_root == []


def functions(folder: Path):
    for file in sorted(folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield file, node


def code_lines(file: Path) -> set[int]:
    """Numbers of the lines that hold code: no blank line, no comment, no text that stands alone (docstrings)."""
    text = file.read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.parametrize("folder", ["src", "examples", "datasets_scripts", "benchmarks", "pipelines"])
def test_no_function_is_long(folder):
    code, long = {}, []
    for file, node in functions(REPOSITORY / folder):
        if file not in code:
            code[file] = code_lines(file)
        length = sum(node.lineno <= line <= (node.end_lineno or 0) for line in code[file])
        if length > MOST_CODE_LINES:
            long.append(f"{file.relative_to(REPOSITORY)}: {node.name} has {length} lines of code")
    assert long == []


def comparable_lines(file: Path) -> list[str]:
    """What is compared: code without imports, punctuation that stands alone, and white space."""
    text = file.read_text(encoding="utf-8")
    lines, code = text.splitlines(), code_lines(file)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = [" ".join(lines[number - 1].split("  # ")[0].split()) for number in sorted(code)]
    return [line for line in kept if re.search(r"\w", line)]


def test_few_places_repeat_each_other():
    places = defaultdict(set)  # a run of lines -> where it starts: (file, number)
    for folder in DUPLICATE_FOLDERS:
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            lines = comparable_lines(file)
            for start in range(len(lines) - DUPLICATE_LINES + 1):
                places[tuple(lines[start : start + DUPLICATE_LINES])].add((file, start))
    pairs = defaultdict(set)
    for starts in places.values():
        for (first, i), (second, j) in combinations(sorted(starts), 2):
            pairs[first.relative_to(REPOSITORY), second.relative_to(REPOSITORY)].add(j - i)
    assert len(pairs) <= MOST_DUPLICATES, "\n".join(f"{a} ~ {b}" for a, b in sorted(pairs))


def documents():
    return sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("pipelines/*.md")])


@pytest.mark.parametrize("document", documents(), ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_links_of_the_documents_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (document.parent / path) if path else document
        if not target.exists():
            broken.append(link)
        elif anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ +(.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            if anchor not in slugs:
                broken.append(link)
    assert broken == []


def test_the_walks_and_the_index_of_equations_name_what_is_there():
    """`folder/file.py: name, Class.method` in docs/architecture.md; a file without its folder is looked for."""
    text = " ".join((REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    missing = []
    for path, names in re.findall(r"`([\w/]+\.py)(?:: ([\w., ]+?)(?:\([^`]*\))?)?`", text):
        files = [root / path for root in (PACKAGE, REPOSITORY) if (root / path).exists()] or [*PACKAGE.rglob(path)]
        code = "\n".join(file.read_text(encoding="utf-8") for file in files)
        wanted = [name.split(".")[-1] for name in names.split(", ") if name]
        missing += [path] if not files else []
        missing += [
            f"{path}: {name}" for name in wanted if not re.search(rf"^\s*((def|class) )?{name}\b( =|\(|:)", code, re.M)
        ]
    assert missing == []


def test_no_merge_was_left_half_done():
    """Markers of a conflict, which are no error of syntax in a docstring or a document."""
    folders = ("src", "examples", "datasets_scripts", "benchmarks", "pipelines", "tests", "docs")
    files = [file for folder in folders for kind in ("py", "md") for file in (REPOSITORY / folder).rglob(f"*.{kind}")]
    marked = [
        str(file.relative_to(REPOSITORY))
        for file in [*files, *REPOSITORY.glob("*.md")]
        if re.search(r"^(<{7}|>{7}) ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert marked == []


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
