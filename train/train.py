"""The one file agents edit: a GPT, its optimizer, its training loop. cuda, mps or cpu.

Run by the harness, which picks the seed and the budget, stops the run from outside and has another
process compute val_bpb from the weights left here. What is printed is for people only.

Two things must stay true: `build_model()` returns the model that `weights.pt` fits, and
`model(idx)` returns next-token logits. Everything else is fair game.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prepare
from prepare import PROFILE, SEQUENCE_LEN, VOCAB_SIZE

# ---------------------------------------------------------------------------
# Hyperparameters (plain constants; `--agent sweep` searches the numbers of this section)
# ---------------------------------------------------------------------------

# size: what fits the machine
if PROFILE == "cpu":
    DEPTH = 2  # layers
    ASPECT_RATIO = 32  # model width per layer
    HEAD_DIM = 32
    TOTAL_BATCH_SIZE = 2**10  # tokens per optimizer step
    DEVICE_BATCH_SIZE = 8  # rows per forward pass
else:
    DEPTH = 8
    ASPECT_RATIO = 64
    HEAD_DIM = 128
    TOTAL_BATCH_SIZE = 2**19
    DEVICE_BATCH_SIZE = 128

# model
WINDOW_PATTERN = "SSSL"  # L: the whole context; S: half of it; repeated over the layers, the last is L
MLP_RATIO = 4  # hidden width of the MLP per model width
LOGIT_SOFTCAP = 15.0
ROPE_BASE = 10000.0

# optimizer: Muon for the matrices, AdamW for the rest
MATRIX_LR = 0.04
MUON_MOMENTUM = 0.95
MUON_BETA2 = 0.95  # of the per-row second moment
NEWTON_SCHULZ_STEPS = 5
WEIGHT_DECAY = 0.2  # of the matrices, fades out with the budget
EMBEDDING_LR = 0.6
UNEMBEDDING_LR = 0.004
SCALAR_LR = 0.5
ADAM_BETA1 = 0.8
ADAM_BETA2 = 0.95

# schedule, in shares of the budget
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.5
FINAL_LR_FRAC = 0.0

# ---------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    """Return x scaled to unit root-mean-square over its last dimension; nothing is learned."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(
    x: Tensor,  # (B, T, H, D)
    cos: Tensor,  # (1, T, 1, D/2)
    sin: Tensor,  # (1, T, 1, D/2)
) -> Tensor:  # (B, T, H, D)
    """Return x with rotary position embedding."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def attend(
    q: Tensor,  # (B, T, H, D)
    k: Tensor,  # (B, T, H, D)
    v: Tensor,  # (B, T, H, D)
    window: int,  # how many tokens a position sees, itself included
) -> Tensor:  # (B, T, H, D)
    """Return causal attention over a sliding window."""
    B, T, H, D = q.shape
    if window < T and q.is_cuda:
        # flash attention knows windows only through its variable-length entry
        from torch.nn.attention.varlen import varlen_attn

        ends = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
        flat = (B * T, H, D)
        y = varlen_attn(
            q.reshape(flat), k.reshape(flat), v.reshape(flat), ends, ends, T, T, window_size=(window - 1, 0)
        )
        assert isinstance(y, Tensor)
        return y.view(B, T, H, D)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if window >= T:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        age = torch.arange(T, device=q.device)[:, None] - torch.arange(T, device=q.device)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(age >= 0) & (age < window))
    return y.transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with rotary positions, normalised queries and keys, value embeddings."""

    gate_channels = 32

    def __init__(self, dim: int, heads: int, window: int, *, has_value_embedding: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(self.gate_channels, heads, bias=False) if has_value_embedding else None

    def forward(
        self,
        x: Tensor,  # (B, T, C)
        value_embedding: Tensor | None,  # (B, T, C)
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:  # (B, T, C)
        B, T, C = x.shape
        q, k, v = (w(x).view(B, T, self.heads, -1) for w in (self.query, self.key, self.value))
        if self.gate is not None and value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate_channels]))  # (B, T, H)
            v = v + gate.unsqueeze(-1) * value_embedding.view(B, T, self.heads, -1)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        return self.out(attend(q, k, v.to(q.dtype), self.window).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers with a squared ReLU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, MLP_RATIO * dim, bias=False)
        self.down = nn.Linear(MLP_RATIO * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention, then MLP, each on the normalised stream and added to it."""

    def __init__(self, dim: int, heads: int, window: int, *, has_value_embedding: bool) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, window, has_value_embedding=has_value_embedding)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(norm(x), value_embedding, cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """A decoder-only transformer. Every layer sees the embedding again, every second its values."""

    cos: Tensor
    sin: Tensor

    def __init__(self, depth: int, dim: int, heads: int) -> None:
        super().__init__()
        self.dim = dim
        kinds = [WINDOW_PATTERN[i % len(WINDOW_PATTERN)] for i in range(depth - 1)] + ["L"]
        self.windows = [SEQUENCE_LEN if kind == "L" else SEQUENCE_LEN // 2 for kind in kinds]
        embeds_values = [i % 2 == (depth - 1) % 2 for i in range(depth)]
        self.embed = nn.Embedding(VOCAB_SIZE, dim)
        self.value_embeds = nn.ModuleDict(
            {str(i): nn.Embedding(VOCAB_SIZE, dim) for i in range(depth) if embeds_values[i]}
        )
        self.blocks = nn.ModuleList(
            Block(dim, heads, self.windows[i], has_value_embedding=embeds_values[i]) for i in range(depth)
        )
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)
        self.residual_scale = nn.Parameter(torch.ones(depth))
        self.embedding_scale = nn.Parameter(torch.full((depth,), 0.1))
        cos, sin = rotary_table(SEQUENCE_LEN, dim // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw the initial weights; what each block adds starts at zero."""
        bound = math.sqrt(3 / self.dim)  # uniform with standard deviation dim**-0.5
        for name, p in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "gate.weight")):
                nn.init.zeros_(p)
            elif name.startswith(("blocks", "value_embeds")):
                nn.init.uniform_(p, -bound, bound)
            elif name == "embed.weight":
                nn.init.normal_(p)
            elif name == "head.weight":
                nn.init.normal_(p, std=0.001)

    def forward(
        self,
        idx: Tensor,  # (B, T) int64 token ids
        targets: Tensor | None = None,  # (B, T) int64 token ids
    ) -> Tensor:
        """Return logits (B, T, VOCAB_SIZE) float32, or the mean loss in nats when given targets."""
        cos, sin = self.cos[:, : idx.size(1)], self.sin[:, : idx.size(1)]
        x = first = norm(self.embed(idx))
        for i, block in enumerate(self.blocks):
            x = self.residual_scale[i] * x + self.embedding_scale[i] * first
            values = self.value_embeds[str(i)](idx) if str(i) in self.value_embeds else None
            x = block(x, values, cos, sin)
        logits = self.head(norm(x)).float()
        logits = LOGIT_SOFTCAP * torch.tanh(logits / LOGIT_SOFTCAP)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    def flops_per_token(self) -> float:
        """Return training FLOPs per token: 6 per matrix weight, 12 per attended channel.

        The count of Chowdhery et al. 2022 (PaLM), appendix B; embeddings are look-ups.
        """
        matrices = sum(
            p.numel() for name, p in self.named_parameters() if name.startswith(("blocks", "head"))
        )
        return 6.0 * matrices + 12.0 * self.dim * sum(self.windows)


def rotary_table(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotation angles, each (1, length, 1, head_dim / 2)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length), frequencies)[None, :, None, :]
    return angles.cos(), angles.sin()


def build_model() -> GPT:
    """Return the model, freshly initialised, on the current default device."""
    width = DEPTH * ASPECT_RATIO
    heads = max(1, math.ceil(width / HEAD_DIM))
    return GPT(DEPTH, heads * HEAD_DIM, heads)


# ---------------------------------------------------------------------------
# Optimizer
# ---------------------------------------------------------------------------


def orthogonalize(g: Tensor) -> Tensor:  # (N, rows, cols) -> (N, rows, cols)
    """Return each matrix with its singular values pushed to about 1, by Newton-Schulz iteration.

    Quintic coefficients of Jordan et al. 2024 (Muon): steepest slope at zero, not convergence.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() if g.is_cuda else g
    tall = x.size(1) > x.size(2)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)


def muon_update(
    weights: Tensor,  # (N, rows, cols), changed in place; so are both moments
    grads: Tensor,  # (N, rows, cols)
    momentum: Tensor,  # (N, rows, cols)
    second: Tensor,  # (N, rows, 1) or (N, 1, cols): the longer side keeps its own scale
    lr: Tensor,  # (), as are the next two
    beta: Tensor,
    decay: Tensor,
) -> None:
    """Take a Muon step with Nesterov momentum, per-row normalisation and cautious weight decay."""
    momentum.lerp_(grads, 1 - beta)
    update = orthogonalize(grads.lerp(momentum, beta))
    axis = 2 if second.size(2) == 1 else 1
    power = update.square().mean(dim=axis, keepdim=True)
    second.lerp_(power, 1 - MUON_BETA2)
    scaled = update * second.clamp_min(1e-10).rsqrt()
    update = scaled * (
        update.norm(dim=(1, 2), keepdim=True) / scaled.norm(dim=(1, 2), keepdim=True).clamp_min(1e-10)
    )
    lr = lr * max(1.0, weights.size(1) / weights.size(2)) ** 0.5
    agree = (update * weights) >= 0  # decay only where the step points the same way
    weights.sub_(lr * update + lr * decay * weights * agree)


def adamw_update(
    weight: Tensor,  # any shape, changed in place; so are both moments
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    lr: Tensor,  # ()
    step: Tensor,  # (), counts from 1
    beta1: float,
    beta2: float,
) -> None:
    """Take an Adam step (Kingma and Ba 2015) without weight decay."""
    first.lerp_(grad, 1 - beta1)
    second.lerp_(grad.square(), 1 - beta2)
    mean = first / (1 - beta1**step)
    scale = (second / (1 - beta2**step)).sqrt_().add_(1e-10)
    weight.sub_(lr * mean / scale)


class MuonAdamW:
    """Muon for the blocks' matrices, stacked by shape; AdamW for embeddings, head and scalars."""

    def __init__(self, model: GPT, *, compiled: bool) -> None:
        wrap = torch.compile(dynamic=False, fullgraph=True) if compiled else lambda f: f
        self._muon, self._adamw = wrap(muon_update), wrap(adamw_update)
        self.steps = 0
        self.stacks: list[dict] = []  # matrices of one shape
        self.singles: list[dict] = []
        scale = (model.dim / 768) ** -0.5  # learning rates were tuned at width 768
        matrices: dict[torch.Size, list[nn.Parameter]] = {}
        for name, p in model.named_parameters():
            if name.startswith("blocks"):
                matrices.setdefault(p.shape, []).append(p)
                continue
            lr, betas = EMBEDDING_LR * scale, (ADAM_BETA1, ADAM_BETA2)
            if name.startswith("head"):
                lr = UNEMBEDDING_LR * scale
            elif name == "residual_scale":
                lr = SCALAR_LR * 0.01
            elif name == "embedding_scale":
                lr, betas = SCALAR_LR, (0.96, 0.95)
            self.singles.append(
                {"p": p, "lr": lr, "betas": betas, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
            )
        for shape, params in matrices.items():
            rows, cols = shape
            small = (len(params), rows, 1) if rows >= cols else (len(params), 1, cols)
            p = params[0]
            self.stacks.append(
                {"ps": params, "m": p.new_zeros(len(params), rows, cols), "v": p.new_zeros(small)}
            )

    @torch.no_grad()
    def step(self, multiplier: float, progress: float) -> None:
        """Update every parameter from its gradient, learning rates times `multiplier`."""
        self.steps += 1
        warm = min(1.0, self.steps / 300)
        beta = 0.85 + (MUON_MOMENTUM - 0.85) * warm
        device = self.singles[0]["p"].device

        def scalar(value: float) -> Tensor:  # as a tensor: a float would be compiled in
            return torch.tensor(value, device=device)

        for s in self.stacks:
            weights = torch.stack(s["ps"])
            grads = torch.stack([p.grad for p in s["ps"]])
            decay = scalar(WEIGHT_DECAY * (1 - progress))
            self._muon(weights, grads, s["m"], s["v"], scalar(MATRIX_LR * multiplier), scalar(beta), decay)
            torch._foreach_copy_(s["ps"], list(weights.unbind(0)))
        for s in self.singles:
            lr, count = scalar(s["lr"] * multiplier), scalar(float(self.steps))
            self._adamw(s["p"], s["p"].grad, s["m"], s["v"], lr, count, *s["betas"])


def lr_multiplier(progress: float) -> float:
    """Return the learning-rate factor at a share of the budget: warm up, hold, warm down."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1.0 - WARMDOWN_RATIO:
        return 1.0
    left = (1.0 - progress) / WARMDOWN_RATIO
    return left + (1.0 - left) * FINAL_LR_FRAC


# ---------------------------------------------------------------------------
# Training loop
# ---------------------------------------------------------------------------


def main() -> None:
    """Train until the budget is used and leave the weights."""
    device = prepare.device_type()
    cuda = device == "cuda"
    torch.set_float32_matmul_precision("high")
    with torch.device(device):
        model = build_model()
    optimizer = MuonAdamW(model, compiled=cuda)
    forward = torch.compile(model, dynamic=False) if cuda else model
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=cuda)

    batches = prepare.batches(DEVICE_BATCH_SIZE, SEQUENCE_LEN, device)
    accumulate = max(1, TOTAL_BATCH_SIZE // (DEVICE_BATCH_SIZE * SEQUENCE_LEN))
    budget = prepare.Budget(device)
    x, y, epoch = next(batches)
    smooth = 0.0
    while budget.progress < 1.0:
        before = time.perf_counter()
        progress = budget.progress
        for _ in range(accumulate):
            with autocast:
                loss = forward(x, y)
            (loss / accumulate).backward()
            x, y, epoch = next(batches)  # fetched while the device works
        multiplier = lr_multiplier(progress)
        optimizer.step(multiplier, progress)
        model.zero_grad(set_to_none=True)
        value = loss.item()  # synchronises
        if not value < 100:  # also NaN
            print("\nFAIL")
            raise SystemExit(1)
        budget.step()
        smooth = 0.9 * smooth + 0.1 * value
        shown = smooth / (1 - 0.9**budget.steps)
        seconds = time.perf_counter() - before
        rate = accumulate * y.numel() / seconds
        left = max(0.0, budget.seconds - budget.used_seconds)
        print(
            f"\rstep {budget.steps - 1:05d} ({100 * progress:.1f}%) | loss: {shown:.6f}"
            f" | lrm: {multiplier:.2f} | dt: {1000 * seconds:.0f}ms | tok/sec: {rate:,.0f}"
            f" | epoch: {epoch} | remaining: {left:.0f}s    ",
            end="",
            flush=True,
        )
    print()
    prepare.finish(model, budget, depth=DEPTH, flops_per_token=model.flops_per_token())


if __name__ == "__main__":
    main()
