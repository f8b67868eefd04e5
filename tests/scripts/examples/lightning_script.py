"""A Lightning module, with accumulation and clipping."""

import sys
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def train(callbacks=()):
    seed_everything(7, verbose=False)
    model = Lit()
    loader = DataLoader(TensorDataset(torch.randn(64, 5), torch.randint(3, (64,))), batch_size=8, shuffle=True)
    trainer = Trainer(
        max_epochs=2,
        accumulate_grad_batches=2,
        gradient_clip_val=0.1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=list(callbacks),
    )
    trainer.fit(model, loader)
    return model


if __name__ == "__main__":
    torch.save(train().state_dict(), sys.argv[-1].removeprefix("--save="))
