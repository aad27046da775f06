from . import auto  # noqa: F401  `import difffuse_hf.models` makes transformers' Auto classes know the classifiers
