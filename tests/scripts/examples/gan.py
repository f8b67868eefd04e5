"""A GAN: two networks, two optimizers, made before the first step."""

import sys

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()
for _ in range(5):
    real, fake = torch.randn(16, 2) + 2, generator(torch.randn(16, 4))
    discriminator.zero_grad()
    criterion(discriminator(real), torch.ones(16, 1)).backward()
    criterion(discriminator(fake.detach()), torch.zeros(16, 1)).backward()
    optimizer_d.step()
    generator.zero_grad()
    criterion(discriminator(fake), torch.ones(16, 1)).backward()
    optimizer_g.step()
torch.save([generator.state_dict(), discriminator.state_dict()], sys.argv[-1].removeprefix("--save="))
