"""What the fused forms are made of against float64 loops: plain operations here, Triton's kernels in test_kernels.py.

That file runs this one again in a process of its own under TRITON_INTERPRET=1, where the same calls reach the kernels.
"""

import os

import pytest
import torch
from torch import Tensor

from llava_teamlora.kernels import fits, usable
from llava_teamlora.tuners.routed.fused_linear import Sizes, Weights, fused_linear
from llava_teamlora.tuners.routed.gradients import mix_routed, mix_routed_backward
from llava_teamlora.tuners.routed.packed import expand
from llava_teamlora.tuners.routed.swiglu import swiglu, swiglu_backward

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Plain operations round what passes between them, too; kernels once, but the interpreter cuts bfloat16 off.
ERRORS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
ROUNDINGS = 2 if INTERPRETED else 3
SCALE = 2 / 3

# Tokens, experts, rank of one expert, whether A is shared, whether there is M.
SHAPES = [
    pytest.param(1, 1, 1, False, False, id="smallest"),
    pytest.param(0, 4, 2, False, True, id="no tokens"),
    pytest.param(33, 4, 8, False, True, id="powers of two"),
    pytest.param(7, 3, 5, False, True, id="odd"),
    pytest.param(7, 3, 5, True, True, id="odd, shared A"),
    pytest.param(5, 16, 3, False, False, id="16 experts"),
    pytest.param(20, 16, 2, True, True, id="16 experts, shared A"),
    pytest.param(2, 2, 100, False, True, id="rank 100"),
]


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers; rows lie further apart than they are long, as in a view of stacked columns."""
    wide = torch.randn(*shape[:-1], shape[-1] + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return wide.to(dtype)[..., 1 : shape[-1] + 1]


def close(actual: Tensor | None, expected: Tensor | None, dtype: torch.dtype) -> None:
    """Within the rounding of `dtype`, of the largest number."""
    if expected is None:
        assert actual is None
        return
    assert actual is not None and actual.shape == expected.shape
    if expected.numel():
        error = (actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
        assert error <= ERRORS[dtype] * ROUNDINGS


def loop(z: Tensor, logits: Tensor, interaction: Tensor | None, r: int, scale: float) -> Tensor:
    """Equations 11 to 13, token by token and expert by expert."""
    rows = []
    for token in range(z.shape[0]):
        phi = logits[token].exp() / logits[token].exp().sum()
        omega = phi if interaction is None else torch.stack([(row * phi).sum() for row in interaction])
        shared = z.shape[1] == r
        segments = [z[token] if shared else z[token, i * r : (i + 1) * r] for i in range(len(phi))]
        rows.append(torch.cat([scale * omega[i] * segment for i, segment in enumerate(segments)]))
    return torch.stack(rows) if rows else z.new_zeros(0, logits.shape[1] * r)


def test_the_form_under_test() -> None:
    assert usable(torch.ones(1)) is INTERPRETED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "k", "r", "shared", "mixes"), SHAPES)
def test_mix_routed(n: int, k: int, r: int, shared: bool, mixes: bool, dtype: torch.dtype) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    z, dh = (draw(n, width, dtype=dtype, seed=width) for width in (r if shared else k * r, k * r))
    logits = draw(n, k, dtype=wide, seed=2)
    m = draw(k, k, dtype=wide, seed=3) if mixes else None
    dlogits = draw(n, k, dtype=wide, seed=4) if n % 2 else None
    assert fits(k, r)

    inputs = [t.double().requires_grad_() for t in (z, logits, *(() if m is None else (m,)))]
    expected = loop(inputs[0], inputs[1], inputs[2] if mixes else None, r, SCALE)
    objective = (expected * dh.double()).sum()
    if dlogits is not None:
        objective = objective + (inputs[1] * dlogits.double()).sum()
    gradients = torch.autograd.grad(objective, inputs) if n else [torch.zeros_like(t) for t in inputs]

    close(mix_routed(z, logits, m, r, SCALE), expected.detach(), dtype)
    dz, of_logits, h, dm = mix_routed_backward(dh, z, logits, m, dlogits, r, SCALE)
    close(h, expected.detach(), dtype)
    close(dz, gradients[0], dtype)
    close(of_logits, gradients[1], dtype)
    close(dm, gradients[2] if mixes else None, wide)
    assert all(t.dtype == dtype for t in (dz, of_logits, h))


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    h = mix_routed(torch.ones(2, 3), logits, None, 1, 1.0)
    assert torch.equal(h[0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(h[1], torch.full((3,), 1 / 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(0, 3), (1, 1), (3, 7), (2, 1024), (2, 1100)])
def test_swiglu(n: int, d: int, dtype: torch.dtype) -> None:
    gate, up, dh = (draw(n, d, dtype=dtype, seed=seed) for seed in range(3))
    kept = gate.clone(), up.clone()
    wide = [t.double().requires_grad_() for t in (gate, up)]
    expected = wide[0] / (1 + (-wide[0]).exp()) * wide[1]
    gradients = torch.autograd.grad(expected, wide, dh.double())

    close(swiglu(gate, up), expected.detach(), dtype)
    dgate, dup, h = swiglu_backward(dh, gate, up)
    close(h, expected.detach(), dtype)
    close(dgate, gradients[0], dtype)
    close(dup, gradients[1], dtype)
    assert dup.data_ptr() == dh.data_ptr()
    assert torch.equal(gate, kept[0]) and torch.equal(up, kept[1])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's; 1 / (1 + inf) is the 0 meant
def test_swiglu_far_from_zero() -> None:
    gate = torch.tensor([[1e4, -1e4]])
    assert torch.equal(swiglu(gate, torch.ones(1, 2)), torch.tensor([[1e4, 0.0]]))
    dgate, _, _ = swiglu_backward(torch.ones(1, 2), gate, torch.ones(1, 2))
    assert torch.equal(dgate, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("n", "k", "r", "shared", "mixes"), [shape for shape in SHAPES if shape.id != "no tokens"])
def test_expand(n: int, k: int, r: int, shared: bool, mixes: bool, groups: int, dtype: torch.dtype) -> None:
    wide, d_out = torch.promote_types(dtype, torch.float32), 37
    n = min(n, 5)
    y, z, logits = (
        draw(n, groups, width, dtype=dtype, seed=seed).transpose(0, 1)
        for seed, width in enumerate((d_out, r if shared else k * r, k))
    )
    b = draw(groups, k * r, d_out, dtype=dtype, seed=3).contiguous()
    m = draw(groups, k, k, dtype=wide, seed=4) if mixes else None
    expected = [
        y[g].double()
        + loop(z[g].double(), logits[g].double(), None if m is None else m[g].double(), r, 1.0) @ b[g].double()
        for g in range(groups)
    ]
    close(expand(y, z, logits, b, None if m is None else m.mT.contiguous(), r), torch.stack(expected), dtype)


def test_expand_stands_in_a_compiled_graph() -> None:
    y, z, logits = (draw(1, 2, width, dtype=torch.float32, seed=seed) for seed, width in enumerate((5, 6, 3)))
    b, m = (draw(1, *shape, dtype=torch.float32, seed=3).contiguous() for shape in ((6, 5), (3, 3)))

    def step(y: Tensor) -> Tensor:
        return expand(y * 2, z, logits, b, m, 2) + 1

    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(y), step(y))
    if INTERPRETED:
        torch.library.opcheck(torch.ops.llava_teamlora.expand.default, (y, z, logits, b, m, 2))


@pytest.mark.parametrize("shared", [False, True])
def test_a_fused_linear_of_them(shared: bool) -> None:
    n, k, r, d_in, d_out = 9, 3, 2, 6, 4
    shapes = ((n, d_in), (d_out, d_in), (r if shared else k * r, d_in), (d_out, k * r), (k, d_in), (k, k))
    x, weight, a, b, router, m = (draw(*shape, dtype=torch.float64, seed=i) for i, shape in enumerate(shapes))
    trained = [t.clone().requires_grad_() for t in (x, a, b, router, m)]
    x, a, b, router, m = trained
    sizes = Sizes(r, SCALE, 0.0, torch.float64, k, a.shape[0])
    y, logits = fused_linear(x, weight, None, Weights(a, b, router, m), sizes)
    expected = x @ weight.T + loop(x @ a.T, x @ router.T, m, r, SCALE) @ b.T
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(logits, x @ router.T)
    dy, dlogits = draw(n, d_out, dtype=torch.float64, seed=8), draw(n, k, dtype=torch.float64, seed=9)
    got = torch.autograd.grad((y * dy).sum() + (logits * dlogits).sum(), trained)
    meant = torch.autograd.grad((expected * dy).sum() + ((x @ router.T) * dlogits).sum(), trained)
    for one, other in zip(got, meant, strict=True):
        torch.testing.assert_close(one, other)
