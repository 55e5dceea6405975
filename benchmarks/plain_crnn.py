"""The CRNN as a plain script writes it: what our training step is measured against.

The same network as :mod:`models.recognizers.crnn` on images that fill their batch: ``nn.BatchNorm2d``, ReLU before
pooling, one bidirectional ``nn.LSTM`` a layer, tensors laid out as Torch makes them, Adam, and a look at the loss after
every step. :func:`with_weights_of` gives it our network's weights, so that both start alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.recognizers.crnn import CRNN, BothWays


class PlainCRNN(nn.Module):
    """Seven convolutions, two bidirectional LSTMs. Reads every column of a batch, padding too."""

    def __init__(self, classes: int, *, channels: int = 1, width: float = 1.0, hidden: int = 256) -> None:
        super().__init__()
        a, b, c, d = (round(paper * width) for paper in (64, 128, 256, 512))
        tall = {"kernel_size": 2, "stride": (2, 1), "padding": (0, 1)}
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, a, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2),
            nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2),
            nn.Conv2d(b, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(True),
            nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(**tall),  # type: ignore[arg-type]
            nn.Conv2d(c, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d), nn.ReLU(True),
            nn.Conv2d(d, d, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(**tall),  # type: ignore[arg-type]
            nn.Conv2d(d, d, 2, 1, 0, bias=False), nn.BatchNorm2d(d), nn.ReLU(True),
        )  # fmt: skip
        self.first = nn.LSTM(d, hidden, bidirectional=True, batch_first=True)
        self.between = nn.Linear(2 * hidden, hidden)
        self.second = nn.LSTM(hidden, hidden, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, 32, W)`` in, logits ``(B, W // 4 + 1, K)`` out."""
        columns = self.cnn(image).squeeze(2).transpose(1, 2)  # (B, T, D)
        return self.head(self.second(self.between(self.first(columns)[0]))[0])


def with_weights_of(crnn: CRNN) -> PlainCRNN:
    """A plain network that computes what ``crnn`` does on images without padding."""
    head = crnn.rnn.head
    features, hidden = crnn.rnn.first.forwards.input_size, crnn.rnn.first.forwards.hidden_size
    channels = crnn.cnn.blocks[0].conv.in_channels  # type: ignore[union-attr]
    plain = PlainCRNN(head.out_features, channels=channels, width=features / 512, hidden=hidden)  # type: ignore[arg-type]
    theirs = [layer for layer in plain.cnn if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    ours = [layer for layer in crnn.cnn.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    for new, old in zip(theirs, ours, strict=True):
        new.load_state_dict(old.state_dict())
    for name in ("first", "second"):
        _copy_lstm(getattr(plain, name), getattr(crnn.rnn, name))
    plain.between.load_state_dict(crnn.rnn.between.state_dict())
    plain.head.load_state_dict(head.state_dict())
    return plain


@torch.no_grad()
def _copy_lstm(lstm: nn.LSTM, ways: BothWays) -> None:
    for suffix, half in (("", ways.forwards), ("_reverse", ways.backwards)):
        for name, value in half.named_parameters():
            getattr(lstm, name + suffix).copy_(value)


class PlainRecipe:
    """The training step of a plain script."""

    def __init__(self, network: PlainCRNN, *, lr: float, clip_norm: float) -> None:
        self.network, self.clip_norm = network.train(), clip_norm
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)

    def step(self, image: Tensor, tokens: Tensor, lengths: Tensor) -> float:
        """One update on ``(B, C, 32, W)`` images; the loss, in nats per character."""
        log_probs = self.network(image).log_softmax(2).transpose(0, 1)  # (T, B, K)
        frames = torch.full((len(image),), len(log_probs))
        loss = F.ctc_loss(log_probs, tokens, frames, lengths, zero_infinity=True)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.item()
