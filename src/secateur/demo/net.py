"""The demo's network: three residual stages over 8 x 8 images of digits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 48, 80)


class Block(nn.Module):
    """Two convolutions with batch norm, and a shortcut around them."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(inside, out, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inside, h, w]` to `[n, out, h / stride, w / stride]`."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """A residual network of 7 convolutions in the main path; images `[n, 1, 8, 8]` to `[n, 10]`.

    Example:
        >>> import torch
        >>> DigitNet()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.stem = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.stage1 = Block(first, first, 1)
        self.stage2 = Block(first, second, 2)
        self.stage3 = Block(second, third, 2)
        self.head = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten digits."""
        x = F.relu(self.norm(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(x.mean((2, 3)))
