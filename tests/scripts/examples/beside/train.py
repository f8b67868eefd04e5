"""A script beside modules of its own, whose names others have too."""

import argparse
from pathlib import Path

import cli
import data
import torch
import utils

parser = argparse.ArgumentParser()
parser.add_argument("--save")
args = parser.parse_args()
assert [Path(m.__file__).parent for m in (cli, data, utils)] == [Path(__file__).parent] * 3
utils.seed_everything()
model = utils.make_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for x, y in data.batches(6):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
torch.save(model.state_dict(), args.save)
print(cli.NAME, "done")
