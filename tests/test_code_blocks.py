"""The Python of the documents runs: each document's blocks in order, on tiny models and scans in place of a reader's.

What a reader has and a document does not make (a model, a case, a batch of slices) is in `READER`: a new block that
needs more fails here until it is given.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from dicom_files import write_series
from diffusers import DDPMPipeline, DDPMScheduler
from synthetic_head import SPACING, turn, turned_head
from test_docs import PYTHON_DOCUMENTS, blocks, name_of
from test_structure import REPOSITORY
from tiny_models import tiny_classifier, tiny_unet
from tiny_scans import tiny_volumes, write_case

from difffuse_hf import LesionClassifier, ResNetAutoencoder

SMALLER = {'"demo"': '"user/name"', "workers=8": "workers=1"}  # a word of a document: what the test says instead
READER = {  # objects that blocks use and that no block makes
    "docs/classifiers.md": lambda: {
        "autoencoder": ResNetAutoencoder(in_channels=1, channels=(4, 4, 4)).eval(),
        "scans": torch.rand(1, 2, 1, 19, 17),
    },
    "docs/detection.md": lambda: {"image": torch.rand(1, 4, 32, 32)},
    "pipelines/README.md": lambda: {"image": torch.rand(1, 2, 16, 16), "mask": torch.ones(1, 1, 16, 16)},
}


@pytest.fixture
def place(tmp_path, model, monkeypatch):
    """A reader's folder, which is the working directory: a case, a model, trained networks, a disk of DICOM."""
    monkeypatch.chdir(tmp_path)
    two_slices = {name: volume[..., 4:6] for name, volume in tiny_volumes().items()}
    write_case(Path("path/to/BraTS2021_00001"), two_slices, reference=False)
    Path("user").mkdir()
    Path("user/name").symlink_to(model)
    tiny_classifier(LesionClassifier).save_pretrained("out/classifier")
    tiny_unet().save_pretrained("out/diffusion/unet")
    DDPMPipeline(tiny_unet(), DDPMScheduler(clip_sample=False)).save_pretrained("user/healthy-slices")
    Path("pipelines").symlink_to(REPOSITORY / "pipelines")
    for number in range(3):  # of cases that `difffuse detect` has finished
        folder = Path(f"results/case{number}")
        folder.mkdir(parents=True)
        summary = {"case": folder.name, "lesion_ml": 10.0 + number, "reference_ml": 9.0}
        (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path


@pytest.mark.parametrize("document", PYTHON_DOCUMENTS, ids=name_of)
def test_the_python_of_a_document_runs(document, place):
    code = "\n".join(block for language, block in blocks(document) if language == "python")
    if '"/data/dicom' in code:
        pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")
        write_series(place / "data/dicom/patient", turned_head(turn("y", 4))[0].hounsfield, SPACING)
    if "app.viewer" in code:
        pytest.importorskip("ipyniivue", reason="needs the extra `app`")
    for word, instead in {**SMALLER, '"/data/': f'"{place}/data/'}.items():
        code = code.replace(word, instead)
    names: dict = READER.get(name_of(document), dict)()
    exec(compile(code, name_of(document), "exec"), names)
    made = set(re.findall(r"^(\w+) = ", code, flags=re.MULTILINE))
    assert made <= set(names) and all(names[name] is not None for name in made)
