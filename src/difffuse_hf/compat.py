"""Let torchvision import beside a PyTorch it was not built for.

A CPU build of PyTorch beside a CUDA build of torchvision fails at `import torchvision` with "operator
torchvision::nms does not exist", and takes timm, transformers' models and `accelerate launch` down with it.
None of them needs that operator here, so it is declared (without an implementation) and the import tried again.
Where torchvision imports by itself nothing is changed, and nothing heavy is imported before somebody asks for it.
"""

import importlib.machinery
import sys

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_declared = []  # torch.library.Library objects: the operators live as long as these do


def _declare_operators():
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


class _RetryingLoader:
    """torchvision's own loader, tried once more after the missing operators are declared."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        try:
            self.loader.exec_module(module)
        except RuntimeError as error:
            if _MISSING_OPERATOR not in str(error) or _declared:
                raise
            _declare_operators()
            self.loader.exec_module(module)


class _TorchvisionFinder:
    """Finds torchvision as Python would, and hands it the retrying loader."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RetryingLoader(spec.loader)
        return spec


def make_torchvision_importable():
    """Install the import hook, once per process; called by `import difffuse_hf`."""
    if "torchvision" not in sys.modules and _TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TorchvisionFinder)
