"""A full-batch fit with L-BFGS and a closure."""

import sys

import torch

torch.manual_seed(0)
x = torch.linspace(-1, 1, 32).unsqueeze(1)
y = torch.sin(3 * x)
model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")


def closure():
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loss


for _ in range(4):
    optimizer.step(closure)
torch.save(model.state_dict(), sys.argv[-1].removeprefix("--save="))
