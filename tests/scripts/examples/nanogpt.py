"""The shape of nanoGPT's train.py: everything at module level, accumulation, clipping, mixed precision, lr by hand."""

import math
import sys
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional

save = next(word.removeprefix("--save=") for word in sys.argv if word.startswith("--save="))
dtype, gradient_accumulation_steps, max_iters, block_size, vocab = "float16", 3, 6, 8, 11
torch.manual_seed(1337)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x):
        q, k, v = self.c_attn(self.ln_1(x)).split(x.shape[-1], dim=2)
        x = x + self.c_proj(functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(block_size, width)
        self.h = nn.ModuleList([Block(width), Block(width)])
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        return functional.cross_entropy(self.lm_head(x).flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        decay = [p for p in self.parameters() if p.dim() >= 2]
        nodecay = [p for p in self.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": nodecay, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=False)


def get_batch():
    text = torch.randint(vocab, (4, block_size + 1))
    return text[:, :-1], text[:, 1:]


model = GPT()
optimizer = model.configure_optimizers()
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # so that the first steps overflow in float16
ctx = torch.autocast("cpu", dtype=torch.float16) if dtype == "float16" else nullcontext()
x, y = get_batch()
for iter_num in range(max_iters):
    lr = 1e-3 * 0.5 * (1 + math.cos(math.pi * iter_num / max_iters))
    for group in optimizer.param_groups:
        group["lr"] = lr
    for _ in range(gradient_accumulation_steps):
        with ctx:
            loss = model(x, y) / gradient_accumulation_steps
        x, y = get_batch()
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update(scaler.get_scale() / 2**14 if iter_num < 2 else None)
    optimizer.zero_grad(set_to_none=True)
torch.save(model.state_dict(), save)
