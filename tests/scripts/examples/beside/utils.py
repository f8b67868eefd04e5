import random

import numpy as np
import torch


def seed_everything():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def make_model():
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
