import pytest
import torch
from torch.testing import assert_close

from models.decoding import greedy
from models.recognizers.crnn import CRNNConfig
from models.remap import remap
from models.text import Alphabet

SOURCE, TARGET = Alphabet(symbols="abcd"), Alphabet(symbols="xdcby")


def head(classes=5, width=3):
    torch.manual_seed(0)
    return {"head.weight": torch.randn(classes, width), "head.bias": torch.randn(classes)}


def test_rows_move_with_their_symbol_and_the_blank_stays():
    before, after = head(), remap(head(), head="head", source=SOURCE, target=TARGET).state
    for name in before:
        assert_close(after[name][[0, 2, 3, 4]], before[name][[0, 4, 3, 2]])
        assert_close(after[name][1], before[name][2:].mean(dim=0))
        assert after[name].shape[0] == TARGET.classes


def test_every_symbol_is_reported_once():
    found = remap(head(), head="head", source=SOURCE, target=TARGET)
    assert (found.kept, found.new, found.lost) == ("dcb", "xy", "a")


def test_the_same_alphabet_changes_nothing():
    found = remap(head(), head="head", source=SOURCE, target=SOURCE)
    assert_close(found.state, head())
    assert (found.kept, found.new, found.lost) == ("abcd", "", "")


def test_the_given_state_is_left_alone():
    state = head()
    found = remap(state, head="head", source=SOURCE, target=TARGET)
    found.state["head.weight"].zero_()
    assert_close(state, head())


def test_readings_in_kept_symbols_stay_what_they_were():
    torch.manual_seed(1)
    target = Alphabet(symbols="xd" + "cbay")
    source_net = CRNNConfig(classes=SOURCE.classes, width=1 / 16, hidden=8).build().eval()
    torch.nn.init.normal_(source_net.rnn.head.weight, std=3)
    state = remap(source_net.state_dict(), head="rnn.head", source=SOURCE, target=target).state
    target_net = CRNNConfig(classes=target.classes, width=1 / 16, hidden=8).build().eval()
    target_net.load_state_dict(state, strict=True)
    image, widths = torch.rand(8, 1, 32, 64), torch.full((8,), 64)
    before, after = source_net(image, widths), target_net(image, widths)
    texts = [SOURCE.decode(label) for label in greedy(before.logits, before.frames)]
    assert texts == [target.decode(label) for label in greedy(after.logits, after.frames)]
    assert any(texts)


def test_alphabets_with_nothing_in_common_are_refused():
    with pytest.raises(ValueError, match="knows none"):
        remap(head(), head="head", source=SOURCE, target=Alphabet(symbols="xyz"))


def test_a_layer_that_is_not_the_source_alphabets_is_refused():
    with pytest.raises(ValueError, match=r"head.weight is \(6, 3\); the source alphabet needs 5 rows"):
        remap(head(classes=6), head="head", source=SOURCE, target=TARGET)
    with pytest.raises(ValueError, match=r"rnn.weight is nothing"):
        remap(head(), head="rnn", source=SOURCE, target=TARGET)
