"""Batch norm over several processes: the statistics of the whole batch, as one process would compute them.

`torch.nn.SyncBatchNorm` takes tensors on a GPU only, so processes on CPUs have a module of ours. Either one stands in
for the model's batch norm during training and shares its weights and statistics; state dicts cannot tell them apart.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, part: torch.Tensor) -> torch.Tensor:
        whole = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return _SumOverProcesses.apply(*grad_outputs)


class ProcessBatchNorm(_BatchNorm):
    """Batch norm of inputs (B, C, ...) whose mean and variance are taken over the batches of all processes.

        y = w·(x − μ) / √(σ² + ε) + b,   μ = (1/P) Σ_p mean_p x,   σ² = (1/P) Σ_p mean_p (x − μ)²

    The gradient goes through both sums, and so to the inputs of every process. The running statistics are those of
    one process with all the batches. In eval mode, and without a process group, it is the `ordinary` module.

    Args:
        ordinary (`nn.BatchNorm1d`, `2d`, `3d` or timm's `BatchNormAct2d`): the module whose weights and statistics
            are used and kept up to date. All processes must give it batches of the same size.
    """

    def __init__(self, ordinary: _BatchNorm):
        super().__init__(
            ordinary.num_features, ordinary.eps, ordinary.momentum, ordinary.affine, ordinary.track_running_stats
        )
        for name, child in ordinary.named_children():  # drop and act of timm's BatchNormAct2d
            self.add_module(name, child)
        _share(self, ordinary)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world == 1 or not self.training:
            return _ordinary(self).train(self.training)(input)
        values = input if input.dtype == torch.float64 else input.float()
        over = [axis for axis in range(values.ndim) if axis != 1]
        each = (1, -1, *[1] * (values.ndim - 2))  # [1,C,1,1]
        mean = _SumOverProcesses.apply(values.mean(over)) / world
        centred = values - mean.view(each)
        variance = _SumOverProcesses.apply(centred.square().mean(over)) / world
        seen, means, variances = self.num_batches_tracked, self.running_mean, self.running_var
        if seen is not None and means is not None and variances is not None:  # none with track_running_stats=False
            with torch.no_grad():
                seen.add_(1)
                rate = 1 / seen.item() if self.momentum is None else self.momentum
                count = world * values.numel() / values.shape[1]
                means.lerp_(mean.to(means), rate)
                variances.lerp_(variance.to(variances) * (count / (count - 1)), rate)
        values = centred * (variance + self.eps).rsqrt().view(each)
        if self.weight is not None:
            values = values * self.weight.view(each)
        if self.bias is not None:
            values = values + self.bias.view(each)
        values = values.to(input.dtype)
        for child in self.children():
            values = child(values)
        return values


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Let every batch norm of `model` see the batches of all processes; changes `model` in place and returns it.

    Modules on a GPU become `torch.nn.SyncBatchNorm`, others `ProcessBatchNorm`. Parameters, buffers and the names in
    the state dict stay what they were; `restore_batch_norm` puts the model's own modules back.
    """
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    def replace(module):
        if not isinstance(module, _BatchNorm) or isinstance(module, (nn.SyncBatchNorm, ProcessBatchNorm)):
            return module
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d):
            raise ValueError(
                f"{type(module).__name__} has no counterpart that works over several processes; "
                "build the network with `nn.BatchNorm2d`, or train it on one process."
            )
        tensors = [*module.parameters(), *module.buffers()]
        if tensors and tensors[0].device.type == "cuda":
            return _share(convert_sync_batchnorm(module), module)
        return ProcessBatchNorm(module)

    return _exchange(model, replace)


def restore_batch_norm(model: nn.Module) -> nn.Module:
    """Undo `synchronise_batch_norm`: the model's own modules again, with the weights and statistics of now."""

    def replace(module):
        return _ordinary(module).train(module.training) if "ordinary" in vars(module) else module

    return _exchange(model, replace)


def _share(module: nn.Module, ordinary: nn.Module) -> nn.Module:
    """Give `module` the very parameters and buffers of `ordinary`, also after either is moved to another device."""
    module._parameters, module._buffers = ordinary._parameters, ordinary._buffers
    vars(module)["ordinary"] = ordinary  # past `nn.Module.__setattr__`: it is no child with weights of its own
    return module.train(ordinary.training)


def _ordinary(module: nn.Module) -> nn.Module:
    """The model's own module, for which `module` stands in."""
    return vars(module)["ordinary"]


def _exchange(model: nn.Module, replace) -> nn.Module:
    """`model` with `replace(module)` in place of each of its modules; one that occurs twice is replaced once."""
    replaced = {module: replace(module) for module in model.modules()}
    for parent in list(replaced):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = replaced[child]
    return replaced[model]
