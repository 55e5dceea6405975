import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.layers.cbam import BlockAttention
from models.layers.columns import Columns, columns_of, fitted


def noise(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_columns_outside_are_cleared_and_without_widths_there_are_none():
    x = torch.ones(2, 1, 1, 4)
    assert columns_of(torch.tensor([1, 4]), 4).clear(x)[:, 0, 0].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert columns_of(None, 4).clear(x) is x and columns_of(None, 4).halved() == Columns()


def test_half_as_many_columns_are_inside_at_half_the_width():
    assert columns_of(torch.tensor([2, 6, 8]), 8).halved().inside.sum(dim=1).tolist() == [1, 3, 4]


def test_padding_takes_no_part_in_mean_and_maximum():
    x = noise(2, 3, 4, 6) - 5  # a zero of the padding would be the maximum
    columns = columns_of(torch.tensor([2, 6]), 6)
    for pooled, of in ((columns.mean(columns.clear(x)), torch.mean), (columns.max(columns.clear(x)), torch.amax)):
        assert_close(pooled[:1], of(x[:1, :, :, :2], dim=(2, 3), keepdim=True))
        assert_close(pooled[1:], of(x[1:], dim=(2, 3), keepdim=True))


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (5, 9), (7, 12)])
def test_images_are_filled_up_by_their_own_last_pixels(size):
    image = noise(2, 3, *size)
    filled, columns = fitted(image, None, 4)
    assert columns == Columns()
    assert_close(filled, F.pad(image, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate"), rtol=0, atol=0)


@pytest.mark.parametrize("width", [1, 4, 6, 9])
def test_a_padded_image_is_filled_up_as_it_would_be_alone(width):
    image = noise(1, 2, 5, 11)
    alone, _ = fitted(image[:, :, :, :width], None, 4)
    padded, columns = fitted(image, torch.tensor([width]), 4)
    inside = 12 if columns.inside is None else int(columns.inside.sum())  # none where nothing is padded
    assert padded.shape == (1, 2, 8, 12) and inside == alone.shape[3]
    assert torch.equal(padded[:, :, :, : alone.shape[3]], alone) and not padded[:, :, :, alone.shape[3] :].any()


def test_block_attention_is_its_formula():
    torch.manual_seed(0)
    layer, x = BlockAttention(16).double(), noise(2, 16, 9, 11).double()
    weigh = torch.nn.Sequential(layer.squeeze, torch.nn.SiLU(), layer.excite)
    channels = x * (weigh(F.adaptive_avg_pool2d(x, 1)) + weigh(F.adaptive_max_pool2d(x, 1))).sigmoid()
    where = torch.stack([channels.mean(1), channels.amax(1)], dim=1)
    assert_close(layer(x, Columns()), channels * layer.where(where).sigmoid())
    assert layer.where.kernel_size == (7, 7) and BlockAttention(64).squeeze.out_channels == 8


def test_block_attention_does_not_see_padding():
    torch.manual_seed(0)
    layer, x = BlockAttention(8), noise(1, 8, 6, 10) - 3
    columns = columns_of(torch.tensor([6]), 10)
    assert_close(layer(columns.clear(x), columns)[..., :6], layer(x[..., :6], Columns()))


def test_where_no_image_is_padded_nothing_is_cleared_and_nothing_changes():
    image, widths = noise(2, 3, 5, 10), torch.tensor([10, 10])
    assert columns_of(widths, 10).inside is None and columns_of(widths - torch.tensor([0, 1]), 10).inside is not None
    padded, columns = fitted(image, widths, 4)
    assert columns.inside is None and torch.equal(padded, fitted(image, None, 4)[0])
