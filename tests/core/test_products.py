"""Products of tokens with weights: oneDNN's are torch's, and are left to torch wherever they would not do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anovl.core import products
from anovl.core.products import linear


class Quick(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = [None, nn.GELU(), nn.GELU(approximate="tanh"), Quick()]


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN was called; skips where there is none."""
    onednn = products._onednn()
    if onednn is None:
        pytest.skip("no oneDNN in this torch, or another processor")
    count = []

    def counted(*arguments):
        count.append(1)
        return onednn(*arguments)

    monkeypatch.setattr(products, "_onednn", lambda: counted)
    return count


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 24), (2, 50, 24), (1, 3, 40, 24)])
def test_equals_torch(calls, activation, bias, shape):
    x, weight, offset = drawn(*shape), drawn(3 * 40, 24)[40:], drawn(80) if bias else None
    expected = F.linear(x, weight, offset)
    expected = expected if activation is None else activation(expected)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, offset, activation=activation), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            linear(x.transpose(-1, -2).contiguous().mT, weight, offset), F.linear(x, weight, offset), atol=1e-5, rtol=0
        )
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("left", "right"),
    [((70, 24), (24, 30)), ((2, 70, 24), (24, 30)), ((3, 64, 24), (3, 24, 30)), ((1, 64, 24), (1, 24, 30))],
)
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_matrices(calls, left, right, turned):
    a, b = drawn(*left), drawn(*right)
    if turned:  # the same matrices, transposed in memory
        a, b = a.mT.contiguous().mT, b.mT.contiguous().mT
    with torch.inference_mode():
        torch.testing.assert_close(products.matmul(a, b), a @ b, atol=1e-5, rtol=0)
    assert len(calls) == (right[0] if len(right) == 3 else 1)
    assert torch.equal(products.matmul(a[..., :3, :], b), a[..., :3, :] @ b)


@pytest.mark.filterwarnings("ignore:TF32")  # torch's, of its own flags
def test_few_rows_other_types_and_gradients_are_left_to_torch(calls):
    x, weight = drawn(80, 24), nn.Parameter(drawn(16, 24))
    assert linear(x, weight).requires_grad
    with torch.inference_mode():
        linear(x[:63], weight)
        assert linear(x.double(), weight.double()).dtype == torch.float64
        assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            linear(x, weight)
    assert not calls
    with torch.no_grad():
        linear(x, weight)
    assert calls


def test_a_traced_graph_holds_torchs_operator(calls):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(24, 16)

        def forward(self, x):
            return linear(x, self.inner.weight, self.inner.bias, activation=ACTIVATIONS[1])

    with torch.no_grad():
        program = torch.export.export(Layer(), (drawn(80, 24),))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.linear.default" in names
    assert not calls


def test_an_operator_of_another_shape_is_not_used(monkeypatch):
    class Other:
        def _linear_pointwise(self, x):
            return x

    monkeypatch.setattr(torch.ops, "mkldnn", Other())
    products._onednn.cache_clear()
    try:
        assert products._onednn() is None
        with torch.inference_mode():
            x, weight = drawn(80, 24), drawn(16, 24)
            assert torch.equal(linear(x, weight), F.linear(x, weight))
    finally:
        products._onednn.cache_clear()
