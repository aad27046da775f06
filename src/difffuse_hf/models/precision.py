"""In which precision a network computes fastest: the U-Net takes nearly all of the time, and bears the lower one."""

import torch


def fastest_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def to_fastest(network: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The network in `dtype`, laid out for convolutions; the network itself, not a copy."""
    # torch's own `to`: that of diffusers warns about modules to be kept in float32, of which these networks have none
    return torch.nn.Module.to(network, dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
