"""Compile each kernel for GPUs that are not there, with the very arguments its caller gives it.

A kernel is kept from running; what it was called with says its signature. Needs triton, no GPU.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llava_teamlora.kernels import decode, routing, swiglu

CAPABILITIES = (80, 90)
POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}


def compile_as_called(kernel: Any, call: Callable[[], object]) -> None:
    """Compile `kernel` as `call` launches it."""
    launches: list[dict[str, Any]] = []

    def record(*args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launches.append(dict(zip(kernel.arg_names, args, strict=False)) | kwargs)

    kernel.run = record
    call()
    (given,) = launches
    assert set(given) == set(kernel.arg_names)
    signature = {p.name: _type(given[p.name], p.is_constexpr) for p in kernel.params}
    constants = {name: given[name] for name, kind in signature.items() if kind == "constexpr"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    for capability in CAPABILITIES:
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def _type(value: Any, is_constant: bool) -> str:
    if is_constant or value is None:
        return "constexpr"
    return POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"


def main() -> None:
    """Compile all."""
    n, k, r, d = 20, 3, 5, 48
    x, logits, m = torch.ones(n, d).bfloat16(), torch.ones(n, k), torch.ones(k, k)
    compile_as_called(swiglu._forward, lambda: swiglu.swiglu(x, x))
    compile_as_called(swiglu._backward, lambda: swiglu.swiglu_backward(x, x, x))
    h = x[:, : k * r]
    for z, interaction, dlogits in ((h, m, logits), (x[:, :r], None, None)):
        compile_as_called(routing._forward, lambda z=z, m=interaction: routing.mix_routed(z, logits, m, r, 0.5))
        compile_as_called(
            routing._backward,
            lambda z=z, m=interaction, more=dlogits: routing.mix_routed_backward(h, z, logits, m, more, r, 0.5),
        )
        y, s, b = x[None, :2], z[None, :2], torch.ones(1, k * r, d).bfloat16()
        compile_as_called(
            decode._kernel,
            lambda y=y, s=s, b=b, m=interaction: decode.expand(y, s, x[None, :2, :k], b, m, r),
        )


if __name__ == "__main__":
    main()
