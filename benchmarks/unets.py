"""How fast is the course's U-Net beside two well-known ones, at the same number of operations a picture?

Three U-Nets for pictures of 28 x 28, three levels of 1, 2 and 2 times the width, attention at 7 x 7: ours, diffusers'
UNet2DModel and denoising-diffusion-pytorch's Unet. Widths are chosen so that a forward pass of a picture takes about
the same number of floating-point operations, and the rates are compared per operation, too. Each figure is the fastest
of several runs, taken in turn. The peers are installed into a folder of their own (_build/peers), for this alone.

    python benchmarks/unets.py
"""

import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import trange

from course_utils.models import UNet
from course_utils.runs import forward_flop

PEERS = Path(__file__).parents[1] / "_build" / "peers"
NEEDED = ["denoising-diffusion-pytorch>=2.2,<3", "ema-pytorch", "einops", "accelerate", "pytorch-fid"]
BATCH, RUNS = 32, 7


def install_peers():
    """--no-deps: what they share with the course, torch before all, stays as it is."""
    if not (PEERS / "denoising_diffusion_pytorch").exists():
        print("Installing the peers, once ...", flush=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", PEERS, *NEEDED], check=True
        )
    sys.path.append(str(PEERS))


def ours(width):
    return UNet(1, width=width, multipliers=(1, 2, 2), n_blocks=2, attention=2)


def diffusers(width):
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, block_out_channels=(width, 2 * width, 2 * width),
        layers_per_block=2, norm_num_groups=8, attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Called(net, lambda x, t: net(x, t).sample)


def denoising_diffusion_pytorch(width):
    from denoising_diffusion_pytorch import Unet

    return Unet(width, channels=1, dim_mults=(1, 2, 2), flash_attn=True, full_attn=(False, False, True))


class Called(torch.nn.Module):
    """A network behind another way to call it."""

    def __init__(self, net, call):
        super().__init__()
        self.net, self.forward = net, call


def operations(net):
    return forward_flop(net, torch.zeros(1, 1, 28, 28), torch.full((1,), 0.5))


def of_size(make, flop):
    """The network whose operations come nearest to `flop`."""
    return min((make(width) for width in range(16, 81, 8)), key=lambda net: abs(operations(net) - flop))


def seconds(net, backward):
    x, t = torch.randn(BATCH, 1, 28, 28), torch.rand(BATCH)
    started = time.perf_counter()
    with torch.set_grad_enabled(backward):
        out = net(x, t)
        if backward:
            out.square().mean().backward()
    return time.perf_counter() - started


def main():
    install_peers()
    reference = ours(32)
    flop = operations(reference)
    nets = {"course": reference, "diffusers": of_size(diffusers, flop)}
    nets["denoising-diffusion-pytorch"] = of_size(denoising_diffusion_pytorch, flop)
    fastest = {}
    for _ in trange(RUNS, desc="runs", leave=False):
        for name, net in nets.items():
            for backward in (False, True):
                spent = seconds(net.train(backward), backward)
                fastest[name, backward] = min(spent, fastest.get((name, backward), spent))
    print(f"\nbatches of {BATCH}, float32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| U-Net | parameters | GFLOP a picture | forward, pictures/s | forward and backward | GFLOP/s | GFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for name, net in nets.items():
        gflop = operations(net) / 1e9
        rates = [BATCH / fastest[name, backward] for backward in (False, True)]
        parameters = sum(p.numel() for p in net.parameters())
        print(
            f"| {name} | {parameters:,} | {gflop:.3f} | {rates[0]:.0f} | {rates[1]:.0f} "
            f"| {rates[0] * gflop:.0f} | {3 * rates[1] * gflop:.0f} |"
        )


if __name__ == "__main__":
    main()
