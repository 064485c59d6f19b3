"""The model, its optimizer and the evaluator, by values and by properties."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from training import TRAIN

Load = Callable[..., ModuleType]


def test_the_cpu_model_has_the_published_size(fresh: Load) -> None:
    model = fresh("train").build_model()
    assert sum(p.numel() for p in model.parameters()) == 294_980


def test_the_gpu_model_has_upstreams_size(fresh: Load) -> None:
    with torch.device("meta"):
        model = fresh("train", profile="gpu").build_model()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(50.3e6, rel=0.002)


def test_no_position_sees_the_future(fresh: Load) -> None:
    train = fresh("train")
    torch.manual_seed(0)
    model = train.build_model()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1)
    idx = torch.randint(0, 1024, (2, 128))
    changed = idx.clone()
    changed[:, 70:] = torch.randint(0, 1024, (2, 58))
    before, after = model(idx), model(changed)
    assert torch.equal(before[:, :70], after[:, :70])
    assert not torch.allclose(before[:, 70:], after[:, 70:])


@pytest.mark.parametrize("window", [1, 5, 16, 40])
def test_a_window_sees_that_many_tokens(fresh: Load, window: int) -> None:
    """Attention over a window equals softmax attention written out by hand."""
    train = fresh("train")
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 16, 3, 8, dtype=torch.float64) for _ in range(3))
    found = train.attend(q, k, v, window)
    for t in range(16):
        first = max(0, t - window + 1)
        scores = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, first : t + 1]) / math.sqrt(8)
        wanted = torch.einsum("bhs,bshd->bhd", scores.softmax(-1), v[:, first : t + 1])
        assert torch.allclose(found[:, t], wanted)


def test_rotation_keeps_lengths_and_depends_on_distance_only(fresh: Load) -> None:
    train = fresh("train")
    cos, sin = train.rotary_table(64, 32)
    torch.manual_seed(2)
    q, k = torch.randn(32).expand(1, 64, 1, 32), torch.randn(32).expand(1, 64, 1, 32)
    a, b = train.rotate(q, cos, sin)[0, :, 0], train.rotate(k, cos, sin)[0, :, 0]
    assert torch.allclose(a.norm(dim=-1), q[0, :, 0].norm(dim=-1), atol=1e-5)
    products = a @ b.T
    assert torch.allclose(products.diagonal(5), products.diagonal(5)[0].expand(59), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_orthogonalizing_brings_singular_values_near_one(fresh: Load, shape: tuple[int, ...]) -> None:
    train = fresh("train")
    torch.manual_seed(3)
    found = torch.linalg.svdvals(train.orthogonalize(torch.randn(shape)))
    assert found.max() < 1.3
    assert found.median() > 0.6


def test_the_schedule_warms_up_holds_and_warms_down(fresh: Load) -> None:
    train = fresh("train")
    assert [train.lr_multiplier(x) for x in (0.0, 0.25, 0.5)] == [1.0, 1.0, 1.0]
    assert train.lr_multiplier(0.75) == pytest.approx(0.5)
    assert train.lr_multiplier(1.0) == 0.0
    train.WARMUP_RATIO, train.FINAL_LR_FRAC = 0.2, 0.1
    assert train.lr_multiplier(0.1) == pytest.approx(0.5)
    assert train.lr_multiplier(1.0) == pytest.approx(0.1)


def test_an_adam_step_is_adams(fresh: Load) -> None:
    train = fresh("train")
    torch.manual_seed(4)
    ours, theirs = torch.randn(5), None
    theirs = torch.nn.Parameter(ours.clone())
    reference = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-10)
    first, second = torch.zeros(5), torch.zeros(5)
    for step in range(1, 6):
        grad = torch.randn(5)
        theirs.grad = grad.clone()
        reference.step()
        train.adamw_update(ours, grad, first, second, torch.tensor(0.1), torch.tensor(float(step)), 0.8, 0.95)
    assert torch.allclose(ours, theirs.detach(), atol=1e-5)


@pytest.mark.slow
def test_training_lowers_the_loss(fresh: Load) -> None:
    train, torch_seed = fresh("train"), torch.manual_seed(5)
    assert torch_seed is not None
    import prepare

    model = train.build_model()
    optimizer = train.MuonAdamW(model, compiled=False)
    losses = []
    for x, y, _ in prepare.batches(8, 128):
        loss = model(x, y)
        loss.backward()
        optimizer.step(1.0, 0.0)
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if len(losses) == 12:
            break
    assert losses[0] == pytest.approx(math.log(1024), abs=0.01), "an untrained model knows nothing"
    assert losses[-1] < losses[0] - 0.5


def test_the_gpu_path_runs_on_a_cpu_at_toy_size(
    fresh: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU profile's branch, its long rows and its large vocabulary, with a small model."""
    source = (TRAIN / "train.py").read_text()
    for before, after in (
        ("DEPTH = 8", "DEPTH = 3"),
        ("ASPECT_RATIO = 64", "ASPECT_RATIO = 16"),
        ("HEAD_DIM = 128", "HEAD_DIM = 16"),
    ):
        assert source.count(before) == 1
        source = source.replace(before, after)
    (tmp_path / "train.py").write_text(source)
    monkeypatch.setenv("AUTORESEARCH_WEIGHTS", str(tmp_path / "weights.pt"))
    monkeypatch.setenv("AUTORESEARCH_FACTS", str(tmp_path / "facts.json"))
    fresh("prepare", profile="gpu", DEVICE="cpu", PREFLIGHT="1")
    runpy.run_path(str(tmp_path / "train.py"), run_name="__main__")
    import serve

    serve.check_model(str(tmp_path / "train.py"), str(tmp_path / "weights.pt"))


# ---------------------------------------------------------------------------
# What the model is asked
# ---------------------------------------------------------------------------


class Table(torch.nn.Module):
    """A model whose logits depend on the last token through a table."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        return self.logits[idx]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "defines no build_model"),
        ("def build_model():\n    return 3\n", "returned int, not a torch module"),
        ("import torch\ndef build_model():\n    return torch.nn.Linear(3, 3)\n", "do not fit build_model"),
    ],
)
def test_what_cannot_be_scored_is_said(fresh: Load, tmp_path: Path, source: str, message: str) -> None:
    serve = fresh("serve")
    (tmp_path / "train.py").write_text(source)
    torch.save({"logits": torch.zeros(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(serve.BadModelError, match=message):
        serve.check_model(str(tmp_path / "train.py"), str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(1024, 7), "not logits of shape"),
        (torch.full((1024, 1024), float("nan")), "NaN or infinite"),
    ],
)
def test_logits_must_be_finite_and_over_the_vocabulary(
    fresh: Load, logits: torch.Tensor, message: str
) -> None:
    serve = fresh("serve")
    with pytest.raises(serve.BadModelError, match=message):
        serve.logits_for(Table(logits), torch.zeros((1, 8), dtype=torch.int64), "cpu")


def test_weights_that_carry_a_payload_are_not_unpickled(fresh: Load, tmp_path: Path) -> None:
    serve = fresh("serve")
    (tmp_path / "train.py").write_text("import torch\ndef build_model():\n    return torch.nn.Linear(3, 3)\n")

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"weight": Payload()}, tmp_path / "w.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        serve.check_model(str(tmp_path / "train.py"), str(tmp_path / "w.pt"))
    assert not (tmp_path / "executed").exists()
