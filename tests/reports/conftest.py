"""Small runs, really recorded, that all tests of the report look at, and the report as a browser would find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
import torch

import trajectory_tools as tt
from trajectory_tools.experiments.recording import Experiment
from trajectory_tools.problems import make_problem
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import Run, find_runs, open_run

VOID = {"meta", "br", "hr", "img", "input", "link"}


@dataclass
class Page(HTMLParser):
    """Elements with their attributes, ids, links, the text, and whether every tag was closed in order."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert not page.stack
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if attrs.get("id")]

    def downloads(self, suffix: str) -> dict[str, str]:
        """Name without suffix → content of the files that the page offers."""
        return {
            (attrs["download"] or "").removesuffix(suffix): unquote((attrs["href"] or "").partition(",")[2])
            for attrs in self.all("a")
            if (attrs.get("download") or "").endswith(suffix)
        }

    def frame(self, name: str) -> pd.DataFrame:
        return pd.read_csv(StringIO(self.downloads(".csv")[name]))


STEPS = 12
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
OPTIMIZERS = {
    "SGD": ("sgd", {"lr": 0.5}),
    "momentum": ("sgd", {"lr": 0.1, "momentum": 0.9}),
    "Adam": ("adam", {"lr": 0.01}),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three optimizers with two seeds each, on digits with leaky ReLU."""
    folder = tmp_path_factory.mktemp("runs")
    problem = make_problem("digits-mlp", activation="leaky_relu")
    for label, (optimizer, options) in OPTIMIZERS.items():
        for seed in range(2):
            Experiment(problem, optimizer, options).record(
                folder / f"{label}-{seed}", seed=seed, steps=STEPS, label=label
            )
    return folder


@pytest.fixture(scope="session")
def runs(folder: Path) -> list[Run]:
    """The same, opened."""
    return find_runs([folder])


@pytest.fixture(scope="session")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their report, in a folder that was not there."""
    out = tmp_path_factory.mktemp("report") / "new" / "report.html"
    return tt.write_report(folder, out, title="Three optimizers", now=NOW, command="traj report runs")


@pytest.fixture
def read() -> Callable[[Path], Page]:
    """Parses a report."""
    return Page.read


@pytest.fixture
def record() -> Callable[..., Run]:
    """Records a loop of one's own: ``record(path, steps, loss=, grad=, **options of the Recorder)``."""
    return record_loop


def record_loop(path: Path, steps: int = 3, *, loss: float | None = None, grad: float | None = None, **options) -> Run:
    """A tiny loop of one's own."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(path, model, optimizer, **options) as recorder:
        for _ in range(steps):
            optimizer.zero_grad()
            value = model(torch.ones(4, 3)).square().mean()
            value.backward()
            if grad is not None:
                model.bias.grad[0] = grad
            optimizer.step()
            recorder.log(loss=value if loss is None else loss)
    return open_run(path)
