import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.testing import assert_close

from models.layers.norm import RankBatchNorm2d

SPLITS = ((0, 3), (3, 4))  # three images for one rank, one for the other


def images():
    torch.manual_seed(0)
    return 5 + torch.randn(2, 4, 3, 2, 6)  # two steps


def two_steps(norm, batches):
    """Outputs, gradients and buffers of ``norm`` after two steps on a loss without symmetry."""
    images, outputs = [batch.clone().requires_grad_() for batch in batches], []
    for image in images:
        outputs.append(norm(image))
        (outputs[-1].sin() * image.detach()).sum().backward()
    return {
        "outputs": torch.stack(outputs).detach(),
        "inputs": torch.stack([image.grad for image in images]),
        "parameters": torch.stack([p.grad for p in norm.parameters()]),
        "buffers": [b.clone() for b in norm.buffers()],
    }


def norms():
    for momentum in (0.1, None):
        torch.manual_seed(1)
        norm = RankBatchNorm2d(3, momentum=momentum)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        yield norm


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = images()[:, slice(*SPLITS[rank])]
    results = [two_steps(norm, mine) for norm in norms()]
    low = next(norms())(mine[0].bfloat16())
    still = next(norms()).eval()
    results.append({"low": low.detach(), "still": still(mine[0]).detach(), "count": still.num_batches_tracked})
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_with_uneven_batches_train_like_one(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for norm, one, other in zip(norms(), first, second, strict=False):
        whole = two_steps(norm, images())
        for name in ("outputs", "inputs"):
            assert_close(torch.cat([one[name], other[name]], dim=1), whole[name], rtol=1e-4, atol=1e-5)
        assert_close(one["parameters"] + other["parameters"], whole["parameters"], rtol=1e-4, atol=1e-4)
        assert_close(one["buffers"], whole["buffers"])
        assert all(torch.equal(a, b) for a, b in zip(one["buffers"], other["buffers"], strict=True))
    plain = next(norms())
    expected = plain(images()[0]).detach()
    assert first[-1]["low"].dtype == torch.bfloat16
    assert_close(torch.cat([first[-1]["low"], second[-1]["low"]]).float(), expected, rtol=0.05, atol=0.05)
    assert_close(first[-1]["still"], next(norms()).eval()(images()[0, :3]))
    assert first[-1]["count"] == 0


def test_alone_it_is_batch_norm_bit_for_bit():
    ours, theirs = next(norms()), nn.BatchNorm2d(3)
    theirs.load_state_dict(ours.state_dict())
    for one, other in zip(two_steps(ours, images()).values(), two_steps(theirs, images()).values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
