"""The grader: the score from logits, and what an audit finds; its models answer in this process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

Load = Callable[..., ModuleType]
Forward = Callable[[torch.Tensor], torch.Tensor]


class Model(torch.nn.Module):
    """A model whose logits depend on the last token through a table, and on more if it is told so."""

    def __init__(self, logits: torch.Tensor, change: Callable[..., torch.Tensor] | None = None) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)
        self.change = change

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        if targets is not None:
            return torch.zeros(())
        logits = self.logits[idx]
        return logits if self.change is None else self.change(idx, logits.clone())


class Answers:
    """What a model's process would answer."""

    num_params = None

    def __init__(self, serve: ModuleType, model: torch.nn.Module) -> None:
        self._serve, self._model = serve, model
        self.asked: set[tuple[str, tuple[int, ...]]] = set()
        self.ended = False

    def end(self, beside: Answers) -> None:
        assert not beside.asked, "no edited code runs in the auditor while what has seen the rows is alive"
        self.ended = True

    def ask(self, want: str, tokens: np.ndarray, at: np.ndarray | None, _deadline: float) -> np.ndarray:
        self.asked.add((want, tokens.shape))
        return self._serve.answer(self._model, want, tokens, tokens[:0, 0] if at is None else at, "cpu")


class Grading:
    """The grader and the rows, prepared."""

    def __init__(self, fresh: Load) -> None:
        self.evaluate, self.serve = fresh("evaluate"), fresh("serve")
        self.evaluate = fresh("evaluate")
        import prepare

        self.prepare = prepare
        self.held = self.evaluate.hold()

    def answers(self, model: torch.nn.Module) -> Answers:
        return Answers(self.serve, model)

    def score(self, model: torch.nn.Module, rows: np.ndarray, *, reduced: bool = False) -> float:
        nats = self.evaluate.claimed(self.answers(model), rows, "cpu", math.inf, reduced=reduced)
        return self.evaluate.bits_per_byte(nats, rows, self.held.lengths)

    def run(self, make: Callable[[], torch.nn.Module]) -> dict[str, Any]:
        """Evaluate a model, audited by another process's copy of it."""
        return self.evaluate.evaluate(self.held, self.answers(make()), self.answers(make()), "cpu", 100.0)


@pytest.fixture
def grading(fresh: Load) -> Grading:
    return Grading(fresh)


@pytest.fixture
def table() -> torch.Tensor:
    torch.manual_seed(6)
    return torch.randn(1024, 1024)


@pytest.mark.parametrize("reduced", [False, True])
def test_a_model_that_knows_nothing_scores_the_entropy_of_the_vocabulary(
    grading: Grading, *, reduced: bool
) -> None:
    rows = grading.held.scored[:16]
    found = grading.score(Model(torch.zeros(1024, 1024)), rows, reduced=reduced)
    lengths, targets = grading.held.lengths, rows[:, 1:]
    counted = lengths[targets] > 0
    assert found == pytest.approx(counted.sum() * 10 / lengths[targets].sum(), rel=1e-6)


@pytest.mark.parametrize("reduced", [False, True])
def test_the_score_is_bits_of_the_true_targets_per_byte(
    grading: Grading, table: torch.Tensor, *, reduced: bool
) -> None:
    """Computed again in double precision, special tokens left out of both sums."""
    rows = grading.held.scored[:40]
    found = grading.score(Model(table), rows, reduced=reduced)
    tokens = torch.from_numpy(rows.astype(np.int64))
    inputs, targets = tokens[:, :-1].flatten(), tokens[:, 1:].flatten()
    nats = functional.cross_entropy(table.double()[inputs], targets, reduction="none")
    weights = torch.from_numpy(grading.held.lengths)[targets]
    wanted = nats[weights > 0].sum() / math.log(2) / weights.sum()
    assert found == pytest.approx(float(wanted), rel=1e-6)


def test_a_loss_the_model_returns_is_never_asked_for(grading: Grading) -> None:
    assert grading.score(Model(torch.zeros(1024, 1024)), grading.held.scored[:4]) > 3


@pytest.mark.slow
def test_an_honest_model_passes_its_audit(grading: Grading, table: torch.Tensor) -> None:
    found = grading.run(lambda: Model(table))
    assert found["audit"]["positions"] >= 900
    assert found["audit"]["worst_excess"] <= 1e-4
    assert found["hidden_bpb"] == pytest.approx(found["val_bpb"], rel=0.05)


def peek(share: float) -> Callable[..., torch.Tensor]:
    """Return what raises the next token's logit, at a share of the positions."""

    def change(idx: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        following = torch.roll(idx, -1, 1)
        chosen = (idx * 2654435761 + torch.arange(idx.size(1))) % 10_000 < 10_000 * share
        chosen[:, -1] = False
        bonus = torch.where(chosen, 8.0, 0.0)[..., None]
        return logits.scatter_add(2, following[..., None], bonus)

    return change


def look_at_other_rows(idx: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Predict what follows the same token in the next row of the batch."""
    return logits.scatter_add(2, torch.roll(idx, (-1, -1), (0, 1))[..., None], torch.full_like(logits, 0.5))


def adaptive() -> Callable[..., torch.Tensor]:
    """Return what counts tokens over all rows it is shown, and predicts by these counts."""
    counts = torch.ones(1024)

    def change(idx: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        counts.add_(torch.bincount(idx.flatten(), minlength=1024))
        return logits + (counts / counts.sum()).log()

    return change


@pytest.mark.slow
@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(
    "change",
    [lambda: peek(1.0), lambda: peek(0.02), lambda: look_at_other_rows, adaptive],
    ids=["peek everywhere", "peek at 2 %", "other rows", "adapts"],
)
def test_what_draws_on_the_future_or_on_other_rows_is_found(
    grading: Grading,
    table: torch.Tensor,
    change: Callable[[], Callable[..., torch.Tensor]],
    *,
    reduced: bool,
) -> None:
    rows = grading.held.scored
    honest = grading.score(Model(table), rows)
    nats = grading.evaluate.claimed(
        grading.answers(Model(table, change())), rows, "cpu", math.inf, reduced=reduced
    )
    assert grading.evaluate.bits_per_byte(nats, rows, grading.held.lengths) != pytest.approx(honest, abs=1e-4)
    with pytest.raises(grading.evaluate.EvaluationError, match="draw on what is to be predicted") as found:
        grading.evaluate.audit(grading.answers(Model(table, change())), rows, nats, "cpu", 1, math.inf)
    assert found.value.problem == "audit"


@pytest.mark.slow
def test_claims_that_are_made_up_are_found(grading: Grading, table: torch.Tensor) -> None:
    """Where the model's process reduces its logits itself, it could say anything."""
    rows = grading.held.scored
    honest = grading.evaluate.claimed(grading.answers(Model(table)), rows, "cpu", math.inf, reduced=True)
    for made_up in (honest * 0.5, honest - 0.01, np.zeros_like(honest)):
        with pytest.raises(grading.evaluate.EvaluationError):
            grading.evaluate.audit(grading.answers(Model(table)), rows, made_up, "cpu", 1, math.inf)


@pytest.mark.slow
@pytest.mark.parametrize("better", [4e-4, -4e-4])
def test_what_claims_are_better_by_is_added_and_nothing_is_taken_off(
    grading: Grading, table: torch.Tensor, better: float
) -> None:
    """Claims within what is tolerated as rounding win nothing; an auditor that does better wins nothing."""
    rows = grading.held.scored
    nats = grading.evaluate.claimed(grading.answers(Model(table)), rows, "cpu", math.inf, reduced=True)
    claims = nats - better
    found = grading.evaluate.audit(grading.answers(Model(table)), rows, claims, "cpu", 1, math.inf)
    lengths = grading.held.lengths
    score = grading.evaluate.bits_per_byte(claims, rows, lengths, found)
    worse = nats if better > 0 else claims
    assert score == pytest.approx(grading.evaluate.bits_per_byte(worse, rows, lengths), rel=1e-6)


@pytest.mark.slow
def test_all_that_is_asked_has_one_shape(grading: Grading, table: torch.Tensor) -> None:
    """So that kernels and numbers are the same for an honest model, also where a batch is not full."""
    held = grading.held
    odd = type(held)(held.scored[:251], held.hidden[:50], held.lengths)
    model, auditor = grading.answers(Model(table)), grading.answers(Model(table))
    found = grading.evaluate.evaluate(odd, model, auditor, "cpu", 100.0)
    assert model.ended
    assert model.asked == {("logits", (32, 128))}
    assert auditor.asked == {("at", (32, 128))}
    assert found["audit"]["corrected"] == 0
    alone = grading.score(Model(table), odd.scored)
    assert found["val_bpb"] == pytest.approx(alone, rel=1e-9)
    assert found["hidden_bpb"] == pytest.approx(grading.score(Model(table), odd.hidden), rel=1e-9)


def test_an_audit_never_shows_what_is_still_to_be_predicted(grading: Grading) -> None:
    """By when a row's position is asked for, no later token of that row was shown."""
    rows = np.arange(260 * 129).reshape(260, 129)  # every token is another
    fillers = -np.ones((3, 129), dtype=int)
    shown: set[int] = set()
    seen = 0
    for chosen, at, ids in grading.evaluate.audits(rows, fillers, np.random.default_rng(3), 900):
        targets = rows[chosen, at + 1]
        shown |= set(ids[ids >= 0].tolist())
        assert not shown & set(targets.tolist())
        for row, position, tokens in zip(chosen, at, ids, strict=True):
            assert (tokens[: position + 1] == rows[row, : position + 1]).all()
            assert (tokens[position + 1 :] == -1).all()
        seen += len(chosen)
    assert seen >= 900


def test_every_position_of_a_row_can_be_audited(grading: Grading) -> None:
    rows = np.zeros((256, 129), dtype=int)
    batches = itertools.chain.from_iterable(
        grading.evaluate.audits(rows, rows, np.random.default_rng(seed), 900) for seed in range(8)
    )
    assert {int(position) for _, at, _ in batches for position in at} == set(range(128))
