"""Honest edits of the shipped train.py: ideas a researcher would try, none of which may raise an alarm.

Each is a list of (old, new): every `old` occurs exactly once in train/train.py. All of them train.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train" / "train.py"
Edits = list[tuple[str, str]]

_ATTEND = "        return self.out(attend(q, k, v.to(q.dtype), self.window).reshape(B, T, C))"
_STEP = "        optimizer.step(multiplier, progress)\n"
_MLP = "        return self.down(F.relu(self.up(x)).square())"
_UP = "        self.up = nn.Linear(dim, MLP_RATIO * dim, bias=False)\n"
_BLOCK = (
    "        x = x + self.attention(norm(x), value_embedding, cos, sin)\n"
    "        return x + self.mlp(norm(x))\n"
)
_LOSS = "        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))\n"
_EMBEDDED = "        x = first = norm(self.embed(idx))\n"
_SCALES = "        self.residual_scale = nn.Parameter(torch.ones(depth))\n"
_FINISH = "    prepare.finish(model, budget, depth=DEPTH, flops_per_token=model.flops_per_token())\n"
_SOFTCAP = "        logits = LOGIT_SOFTCAP * torch.tanh(logits / LOGIT_SOFTCAP)\n"
_WARMDOWN = "    return left + (1.0 - left) * FINAL_LR_FRAC\n"
_OPTIMIZER = "    optimizer = MuonAdamW(model, compiled=cuda)\n"
_BATCHES = "    batches = prepare.batches(DEVICE_BATCH_SIZE, SEQUENCE_LEN, device)\n"
_ACCUMULATE = "    accumulate = max(1, TOTAL_BATCH_SIZE // (DEVICE_BATCH_SIZE * SEQUENCE_LEN))\n"


def _optimizer(make: str) -> Edits:
    """Return edits that take one of torch's optimizers instead."""
    return [
        (_OPTIMIZER, f"    optimizer = {make}\n    rates = [g['lr'] for g in optimizer.param_groups]\n"),
        (
            _STEP,
            "        for group, rate in zip(optimizer.param_groups, rates, strict=True):\n"
            "            group['lr'] = rate * multiplier\n"
            "        optimizer.step()\n",
        ),
    ]


EDITS: Mapping[str, Edits] = {
    "deeper": [("    DEPTH = 2  # layers", "    DEPTH = 4  # layers")],
    "shallower": [("    DEPTH = 2  # layers", "    DEPTH = 1  # layers")],
    "wider": [("    ASPECT_RATIO = 32  # model", "    ASPECT_RATIO = 48  # model")],
    "narrower": [("    ASPECT_RATIO = 32  # model", "    ASPECT_RATIO = 16  # model")],
    "larger heads": [("    HEAD_DIM = 32\n", "    HEAD_DIM = 64\n")],
    "all windows long": [('WINDOW_PATTERN = "SSSL"', 'WINDOW_PATTERN = "L"')],
    "alternating windows": [('WINDOW_PATTERN = "SSSL"', 'WINDOW_PATTERN = "SL"')],
    "wider mlp": [("MLP_RATIO = 4 ", "MLP_RATIO = 6 ")],
    "other rope base": [("ROPE_BASE = 10000.0", "ROPE_BASE = 1000.0")],
    "no softcap": [(_SOFTCAP, "")],
    "other softcap": [("LOGIT_SOFTCAP = 15.0", "LOGIT_SOFTCAP = 30.0")],
    "larger batch": [("    TOTAL_BATCH_SIZE = 2**10 ", "    TOTAL_BATCH_SIZE = 2**12 ")],
    "warm-up": [("WARMUP_RATIO = 0.0", "WARMUP_RATIO = 0.1")],
    "cosine schedule": [(_WARMDOWN, "    return 0.5 - 0.5 * math.cos(math.pi * left)\n")],
    "gelu": [("F.relu(self.up(x)).square()", "F.gelu(self.up(x))")],
    "silu": [("F.relu(self.up(x)).square()", "F.silu(self.up(x))")],
    "swiglu": [
        (_UP, _UP + "        self.gate = nn.Linear(dim, MLP_RATIO * dim, bias=False)\n"),
        (_MLP, "        return self.down(F.silu(self.gate(x)) * self.up(x))"),
    ],
    "gradient clipping": [
        (_STEP, "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n" + _STEP),
    ],
    "weight tying": [
        (
            "        self.initialize()\n",
            "        self.initialize()\n        self.head.weight = self.embed.weight\n",
        ),
        ("norm(self.embed(idx))", "norm(self.embed(idx) * 30.0)"),
        ("                nn.init.normal_(p)\n", "                nn.init.normal_(p, std=0.02)\n"),
    ],
    "sgd with momentum": _optimizer("torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)"),
    "adamw": _optimizer("torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))"),
    "label smoothing": [(_LOSS, _LOSS.replace("reshape(-1))", "reshape(-1), label_smoothing=0.02)"))],
    "z-loss": [
        (
            _LOSS,
            "        spread = 1e-4 * logits.logsumexp(-1).square().mean()\n"
            "        return spread + F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))\n",
        )
    ],
    "dropout": [
        (_SCALES, _SCALES + "        self.drop = nn.Dropout(0.05)\n"),
        (_EMBEDDED, "        x = first = norm(self.drop(self.embed(idx)))\n"),
    ],
    "stochastic depth": [
        (
            _BLOCK,
            "        kept = (torch.rand((), device=x.device) > 0.1).float() if self.training else 1.0\n"
            "        x = x + kept * self.attention(norm(x), value_embedding, cos, sin)\n"
            "        return x + kept * self.mlp(norm(x))\n",
        )
    ],
    "token shift": [
        (
            _EMBEDDED,
            "        e = self.embed(idx)\n"
            "        e = e + 0.3 * F.pad(e[:, :-1], (0, 0, 1, 0))\n"
            "        x = first = norm(e)\n",
        )
    ],
    "hashed bigrams": [
        (_SCALES, _SCALES + "        self.pairs = nn.Embedding(4096, dim)\n"),
        (
            _EMBEDDED,
            "        before = F.pad(idx[:, :-1], (1, 0))\n"
            "        x = first = norm(self.embed(idx) + self.pairs((before * 1031 + idx) % 4096))\n",
        ),
    ],
    "learned positions": [
        (_SCALES, _SCALES + "        self.places = nn.Embedding(SEQUENCE_LEN, dim)\n"),
        (
            _EMBEDDED,
            "        places = torch.arange(idx.size(1), device=idx.device)\n"
            "        x = first = norm(self.embed(idx) + self.places(places))\n",
        ),
        ("q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))", "q, k = norm(q), norm(k)"),
    ],
    "parallel attention and mlp": [
        (
            _BLOCK,
            "        n = norm(x)\n        return x + self.attention(n, value_embedding, cos, sin) + self.mlp(n)\n",
        )
    ],
    "two mlps mixed": [
        (
            "        self.mlp = MLP(dim)\n",
            "        self.mlp, self.other = MLP(dim), MLP(dim)\n        self.mix = nn.Linear(dim, 1)\n",
        ),
        (
            _BLOCK,
            "        x = x + self.attention(norm(x), value_embedding, cos, sin)\n"
            "        n = norm(x)\n"
            "        share = torch.sigmoid(self.mix(n))\n"
            "        return x + share * self.mlp(n) + (1 - share) * self.other(n)\n",
        ),
        (
            '            if name.startswith("blocks"):\n',
            '            if name.startswith("blocks") and p.ndim == 2:\n',
        ),
    ],
    "attention output gate": [
        (
            _ATTEND,
            "        y = attend(q, k, v.to(q.dtype), self.window).reshape(B, T, C)\n        return self.out(y * torch.sigmoid(x))",
        ),
    ],
    "no value embeddings": [
        ("[i % 2 == (depth - 1) % 2 for i in range(depth)]", "[False] * depth"),
    ],
    "average of the last weights": [
        ("    smooth = 0.0\n", "    smooth, average = 0.0, None\n"),
        (
            "        model.zero_grad(set_to_none=True)\n",
            "        model.zero_grad(set_to_none=True)\n"
            "        if progress > 0.7:\n"
            "            now = {name: p.detach().clone() for name, p in model.named_parameters()}\n"
            "            average = now if average is None else {n: 0.9 * average[n] + 0.1 * now[n] for n in now}\n",
        ),
        (
            _FINISH,
            "    if average is not None:\n        model.load_state_dict(average, strict=False)\n" + _FINISH,
        ),
    ],
    "shorter training rows": [
        (_BATCHES, "    batches = prepare.batches(2 * DEVICE_BATCH_SIZE, SEQUENCE_LEN // 2, device)\n"),
    ],
    "half batches, accumulated": [
        (_BATCHES, "    batches = prepare.batches(DEVICE_BATCH_SIZE // 2, SEQUENCE_LEN, device)\n"),
        (_ACCUMULATE, _ACCUMULATE.replace("// (DEVICE_BATCH_SIZE", "// (DEVICE_BATCH_SIZE // 2")),
    ],
    "mask of fixed size": [
        (
            "    q, k, v = (x.transpose(1, 2) for x in (q, k, v))\n    if window >= T:\n",
            "    q, k, v = (x.transpose(1, 2) for x in (q, k, v))\n"
            "    if T == SEQUENCE_LEN:\n"
            "        past = torch.ones(SEQUENCE_LEN, SEQUENCE_LEN, dtype=torch.bool).tril().triu(1 - window)\n"
            "        return F.scaled_dot_product_attention(q, k, v, attn_mask=past).transpose(1, 2)\n"
            "    if window >= T:\n",
        )
    ],
    "embeddings scaled": [(_EMBEDDED, "        x = first = 1.5 * norm(self.embed(idx))\n")],
    "layer norm with weights": [
        (_SCALES, _SCALES + "        self.final = nn.LayerNorm(dim)\n"),
        (
            "        logits = self.head(norm(x)).float()\n",
            "        logits = self.head(self.final(x)).float()\n",
        ),
    ],
    "weight decay on embeddings": [
        (
            "    weight.sub_(lr * mean / scale)\n",
            "    weight.mul_(1 - 1e-4)\n    weight.sub_(lr * mean / scale)\n",
        )
    ],
}


def edited(name: str, text: str | None = None) -> str:
    """Return train.py with an edit applied; ValueError where it no longer fits."""
    text = TRAIN.read_text() if text is None else text
    for old, new in EDITS[name]:
        if text.count(old) != 1:
            raise ValueError(f"{name}: {old!r} occurs {text.count(old)} times")
        text = text.replace(old, new)
    return text
