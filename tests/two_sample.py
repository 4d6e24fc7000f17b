"""Are two sets of samples from one distribution? The bound comes from the samples, not from a recorded run."""

import torch


def energy_test(x, y, permutations=400, seed=0):
    """The energy distance of x (N, D) and y (M, D) as a multiple of the largest of `permutations` relabelled ones.

    If both come from one distribution all labellings are alike, so the ratio exceeds 1 with probability
    1 / (permutations + 1).
    """
    pooled = torch.cat([x, y]).double()
    distance = torch.cdist(pooled, pooled)
    weight = torch.cat([torch.full((len(x),), 1 / len(x)), torch.full((len(y),), -1 / len(y))]).double()
    generator = torch.Generator().manual_seed(seed)
    labellings = [weight] + [weight[torch.randperm(len(weight), generator=generator)] for _ in range(permutations)]
    w = torch.stack(labellings, 1)  # (N + M, permutations + 1)
    energy = -(w * (distance @ w)).sum(0)  # 2 E|X - Y| - E|X - X'| - E|Y - Y'| of each labelling
    return (energy[0] / energy[1:].max()).item()
