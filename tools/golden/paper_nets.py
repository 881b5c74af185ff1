"""The nets named dy_* in PyTorch, written from the paper and from torchvision's blocks, not from the Rust code.

A block has one predictor, `_coefficient_fn`, which sees the input of the block's first dynamic convolution and feeds
all of them in the order in which they stand: pooling -> FC [-> ReLU -> FC] -> sigmoid, K = 6. Fused kernels are
made image by image, so that no batch is folded into groups anywhere.
"""
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual as InvertedResidualV2
from torchvision.models.mobilenetv3 import InvertedResidual as InvertedResidualV3
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

K = 6


class BlockPredictor(nn.Module):
    def __init__(self, channels, convs, squeeze):
        super().__init__()
        self.convs, count = convs, sum(K * conv.c_out for conv in convs)
        if squeeze:
            self.fc1, self.fc2 = nn.Linear(channels, channels // squeeze), nn.Linear(channels // squeeze, count)
        else:
            self.fc = nn.Linear(channels, count)

    def feed(self, x):
        pooled = x.mean((2, 3))
        scores = self.fc(pooled) if hasattr(self, "fc") else self.fc2(F.relu(self.fc1(pooled)))
        for conv, own in zip(self.convs, torch.split(scores, [K * conv.c_out for conv in self.convs], 1)):
            conv.coefs = torch.sigmoid(own).view(len(x), K, conv.c_out)


class FedConv(nn.Module):
    """A dynamic convolution that a BlockPredictor gives its coefficients, [n, K, c_out]."""

    def __init__(self, conv):
        super().__init__()
        self.c_out = conv.out_channels
        self.options = dict(stride=conv.stride, padding=conv.padding, groups=conv.groups)
        self.weight = nn.Parameter(torch.zeros(K, *conv.weight.shape))

    def forward(self, x):
        fused = torch.einsum("nko,koihw->noihw", self.coefs, self.weight)
        return torch.cat([F.conv2d(image[None], kernel, **self.options) for image, kernel in zip(x, fused)])


def make_block(block, part, squeeze=None):
    """Makes the convolutions of `part`, the whole block or one branch, dynamic; but for squeeze-and-excitation."""
    convs = []

    def replace(module):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                convs.append((child.in_channels, FedConv(child)))
                setattr(module, name, convs[-1][1])
            elif type(child).__name__ != "SqueezeExcitation":
                replace(child)

    replace(part)
    predictor = BlockPredictor(convs[0][0], [conv for _, conv in convs], squeeze)
    # Through the dictionary: a module attribute of the block, unseen by the walk above.
    block.add_module("_coefficient_fn", predictor)
    part.register_forward_pre_hook(lambda _, inputs: predictor.feed(inputs[0]))
    return block


def make_all(net, kind, squeeze=None):
    for block in [module for module in net.modules() if isinstance(module, kind)]:
        make_block(block, block, squeeze)
    return net


def resnet(block, counts, stem, planes, classes):
    """torchvision's ResNet with other channels."""
    net = ResNet(block, counts, num_classes=classes)
    net.conv1, net.bn1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
    net.inplanes = stem
    for stage, (count, width) in enumerate(zip(counts, planes)):
        setattr(net, f"layer{stage + 1}", net._make_layer(block, width, count, 1 if stage == 0 else 2))
    net.fc = nn.Linear(planes[-1] * block.expansion, classes)
    return net


def dy_resnet(block, counts, classes):
    return make_all(resnet(block, counts, 64, [32, 64, 128, 256], classes), block, squeeze=4)


class MobileBlock(nn.Module):
    """1x1 -> 3x3 in groups of 6 channels -> 1x1, no expansion."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        part = lambda i, k, **kw: nn.Sequential(
            nn.Conv2d(i, c_out, k, padding=k // 2, bias=False, **kw), nn.BatchNorm2d(c_out), nn.ReLU6())
        self.conv = nn.Sequential(
            part(c_in, 1), part(c_out, 3, stride=stride, groups=c_out // 6),
            nn.Conv2d(c_out, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def dy_mobile(classes):
    net = torchvision.models.mobilenet_v2(num_classes=classes)
    c_in, last = 32, len(net.features) - 1
    for index in range(1, last):
        old = net.features[index]
        block = MobileBlock(c_in, -(-old.out_channels // 6) * 6, old.stride)
        # MobileNetV2's one block without expansion stays static.
        net.features[index] = make_block(block, block) if index > 1 else block
        c_in = -(-old.out_channels // 6) * 6
    net.features[last][0] = nn.Conv2d(c_in, 1280, 1, bias=False)
    return net


def shuffle(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Channels 3:1; the right quarter, rounded to even, through 1x1 -> 3x3 in groups of 2 -> 1x1."""

    def __init__(self, channels):
        super().__init__()
        self.down, up = channels // 8 * 2, -(-channels // 8) * 2
        norm, relu = nn.BatchNorm2d, nn.ReLU
        self.branch2 = nn.Sequential(
            nn.Conv2d(self.down, up, 1, bias=False), norm(up), relu(),
            nn.Conv2d(up, up, 3, padding=1, groups=up // 2, bias=False), norm(up),
            nn.Conv2d(up, self.down, 1, bias=False), norm(self.down), relu())

    def forward(self, x):
        left, right = x[:, :-self.down], x[:, -self.down:]
        return shuffle(torch.cat([left, self.branch2(right)], 1), 4)


def dy_shuffle(name, classes):
    net = getattr(torchvision.models, name)(num_classes=classes)
    for stage in (net.stage2, net.stage3, net.stage4):
        channels = stage[0].branch2[5].out_channels * 2
        make_block(stage[0], stage[0].branch2)
        for index in range(1, len(stage)):
            unit = ShuffleUnit(channels)
            stage[index] = make_block(unit, unit.branch2)
    return net


PAPER_NETS = {
    "dy_resnet18": lambda classes: dy_resnet(BasicBlock, [2, 2, 2, 2], classes),
    "dy_resnet50": lambda classes: dy_resnet(Bottleneck, [3, 4, 6, 3], classes),
    "dy_mobile": dy_mobile,
    "dy_shuffle_x1_0": lambda classes: dy_shuffle("shufflenet_v2_x1_0", classes),
    "dy_shuffle_x1_5": lambda classes: dy_shuffle("shufflenet_v2_x1_5", classes),
    "dy_mobilenet_v2": lambda classes: make_all(
        torchvision.models.mobilenet_v2(num_classes=classes), InvertedResidualV2),
    "dy_mobilenet_v3_small": lambda classes: make_all(
        torchvision.models.mobilenet_v3_small(num_classes=classes), InvertedResidualV3),
    "dy_mobilenet_v3_large": lambda classes: make_all(
        torchvision.models.mobilenet_v3_large(num_classes=classes), InvertedResidualV3),
}
