"""The public face of the package: names seen by people, editors and type checkers; a scan in four lines."""

import ast
import importlib
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from test_structure import PACKAGE, REPOSITORY
from tiny_scans import tiny_volumes, write_case

import difffuse_hf
from difffuse_hf.errors import InputError, InstallationError

SOURCE = ast.parse(Path(difffuse_hf.__file__).read_text(encoding="utf-8"))


def test_editors_see_every_public_name_in_the_module_that_it_comes_from():
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == difffuse_hf._MODULE_OF
    assert difffuse_hf.__all__ == ["__version__", *difffuse_hf._MODULE_OF] == list(dict.fromkeys(difffuse_hf.__all__))
    assert sorted(difffuse_hf.__all__) == dir(difffuse_hf)
    assert (files("difffuse_hf") / "py.typed").is_file()


def test_every_public_name_can_be_imported():
    for name in difffuse_hf.__all__:
        assert getattr(difffuse_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        difffuse_hf.Nothing  # noqa: B018


def test_from_a_scan_to_an_array_in_four_lines(model, tmp_path):
    folder = str(write_case(tmp_path / "BraTS2021_00001", reference=False))

    from difffuse_hf import detect_volume, load_pipeline, read_case

    pipeline = load_pipeline(model)
    case = read_case(folder, pipeline.processor.modalities)
    result = detect_volume(pipeline, case, noise_level=10, num_inference_steps=2)

    assert result.anomaly.shape == tiny_volumes()["t1"].shape and result.anomaly.dtype == np.float32


@pytest.mark.parametrize("wrapped", [False, True], ids=["by timm", "by transformers"])
def test_torch_and_torchvision_that_do_not_match_are_told_with_the_remedy(wrapped, monkeypatch):
    def import_module(*names):
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            if wrapped:
                raise ModuleNotFoundError("Could not import module 'X'.") from error
            raise

    monkeypatch.delitem(vars(difffuse_hf), "LesionClassifier", raising=False)
    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(InstallationError, match="pip install .*constraints.txt torch torchvision") as told:
        difffuse_hf.LesionClassifier  # noqa: B018
    assert "\n" not in str(told.value) and isinstance(told.value, InputError)


def test_other_failures_of_an_import_are_left_as_they_are(monkeypatch):
    def import_module(*names):
        raise ModuleNotFoundError("No module named 'timm'")

    monkeypatch.delitem(vars(difffuse_hf), "LesionClassifier", raising=False)
    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="timm"):
        difffuse_hf.LesionClassifier  # noqa: B018


def test_the_wheel_holds_every_file_of_the_package():
    """What is no Python file is packed only where a pattern of setup.py finds it."""
    (patterns,) = [
        ast.literal_eval(node.value)["difffuse_hf"]
        for node in ast.walk(ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "package_data"
    ]
    packed = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    files = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert files and files - packed == set()


def test_the_dockerfile_copies_what_is_there_and_installs_extras_that_exist():
    text, setup = ((REPOSITORY / name).read_text(encoding="utf-8") for name in ("Dockerfile", "setup.py"))
    (copied,) = re.findall(r"^COPY (setup\.py .*) \./$", text, flags=re.MULTILINE)
    assert all((REPOSITORY / name).exists() for name in copied.split())
    (extras,) = re.findall(r'^ARG EXTRAS="(.*)"$', text, flags=re.MULTILINE)
    assert all(f'"{name}": [' in setup for name in extras.split(","))
