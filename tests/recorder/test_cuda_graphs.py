"""Steps that are captured into a CUDA graph, whose replays call no hook."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trajectory_tools.errors import TrajectoryError
from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.step_call import refuse_graph_capture

SENTENCE = "captured into a CUDA graph, whose replays call no hook, so none of its steps can be recorded; capture only"


def on(device):
    """A tensor that says it is there; no such device is needed."""
    with FakeTensorMode():
        return torch.empty(3, device=device)


def test_only_a_step_on_a_gpu_that_is_being_captured_is_refused():
    with pytest.raises(TrajectoryError, match=SENTENCE):
        refuse_graph_capture([on("cpu"), on("cuda")], capturing=lambda: True)
    refuse_graph_capture([on("cuda")], capturing=lambda: False)


def test_where_nothing_is_on_a_gpu_cuda_is_not_asked():
    def capturing():
        raise AssertionError("it would begin to use CUDA")

    refuse_graph_capture([on("cpu"), on("meta")], capturing=capturing)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="skipped: no GPU")
@pytest.mark.cuda
def test_a_captured_step_is_refused_once_and_the_graph_trains_on(tmp_path):
    model = nn.Linear(3, 2).cuda()
    optimizer = torch.optim.Adam(model.parameters(), capturable=True)
    x = torch.ones(4, 3, device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=False)
        model(x).square().sum().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    recorder = Recorder(tmp_path / "run", model, optimizer).attach()
    with pytest.warns(RuntimeWarning, match=SENTENCE), torch.cuda.graph(graph):
        step()
    before = model.weight.detach().clone()
    graph.replay()
    assert not torch.equal(before, model.weight)
    with pytest.raises(TrajectoryError, match=SENTENCE):
        recorder.close()
