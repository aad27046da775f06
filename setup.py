from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "train": [
        "datasets>=5.0",
        "tensorboard>=2.15",
        "captum>=0.8",
        "krippendorff>=0.8",
        "scikit-learn>=1.4",
        "torchmetrics>=1.4",
        "pandas>=2.0",
        "pyarrow>=14",
    ],
    "preprocess": [
        "pydicom>=3.0",
        "SimpleITK>=2.3",
        "scikit-learn>=1.4",
        "dask[distributed]>=2024.1",
        "pandas>=2.0",
        "pyarrow>=14",
        "pillow>=10.1",
    ],
    "app": [
        "gradio>=6.0",
        "ipyniivue>=2.4",  # NiiVue, which the page and notebooks show volumes with
    ],
    "dicom": ["pydicom>=3.0", "highdicom>=0.23"],
    "docs": [
        "mkdocs-material>=9.7",
        "mkdocstrings[python]>=1.0",
        "ruff>=0.6",  # lays out the signatures
    ],
    "dev": [
        "highdicom>=0.23",
        "hypothesis>=6.100",
        "psutil>=5.9",
        "pytest>=9.0",  # faulthandler_exit_on_timeout
        "pytest-cov>=5.0",
        "pytest-randomly>=3.15",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "pyright[nodejs]>=1.1.400",
        "pre-commit>=3.7",
    ],
}

setup(
    name="difffuse_hf",
    version="0.1.0",
    description="Weakly supervised lesion detection in brain CT and MRI: classifiers, ACAT, Dif-fuse",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"difffuse_hf": ["assets/**/*", "reporting/*.jinja", "app/*.js", "app/*.css", "py.typed"]},
    install_requires=[
        "torch>=2.6",
        "torchvision",  # named for pip, so that it picks a pair that fits; used by timm only
        "timm>=1.0.15",
        "diffusers>=0.41",
        "transformers>=5.20",
        "accelerate>=1.10",
        "huggingface_hub>=1.33",
        "safetensors>=0.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-image>=0.23",
        "nibabel>=5.2",
        "nilearn>=0.11",  # ships the ICBM152 tissue maps, the anatomy of the built-in phantoms
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "typer>=0.16",
        "rich>=13.0",
        "filelock>=3.10",
        "wrapt>=1.16",  # tells the package when transformers' Auto classes are imported
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["difffuse=difffuse_hf.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
