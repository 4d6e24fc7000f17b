"""Losses that need no partition function: contrastive divergence for energies, score matching for scores.

A *score* is a function x (B, ...) -> (B, ...), an *energy* one x (B, ...) -> (B,). Every score-matching loss is an
unbiased estimate of the Fisher divergence J = E |score - grad log p|^2 / 2 less a number that no parameter changes
(denoising: p is the noisy data's, and `weighted` makes it sigma^2 J). All raise ValueError for a score whose shape is
not that of x.
Sources: Hinton 2002, Tieleman 2008, Du & Mordatch 2019 (contrastive divergence); Hyvarinen 2005 (implicit), Vincent
2011 (denoising), Song et al. 2020, "Sliced score matching".
"""

import torch

from course_utils.checks import check_shapes
from course_utils.energy import energies, score_of
from course_utils.langevin import langevin, mala

GAP_MAX = 1e4  # nats between data and samples: a chain that follows its score closes a gap long before


def contrastive_divergence(energy, x_data, x_model, l2=0.0):
    """E(data) - E(model samples), means over the batches, whose gradient is that of -log p(data): a scalar.

    x_data (B, ...), x_model (M, ...), of which no gradient flows back into the sampler. `l2` times the mean squared
    energies keeps these near 0 (Du & Mordatch 2019, section 3.3). The value itself says nothing of how good the model
    is: for samples of the model's own it hovers around 0. Raises FloatingPointError where the two are GAP_MAX apart.
    """
    e_data, e_model = energies(energy, x_data), energies(energy, x_model.detach())
    gap = e_data.mean() - e_model.mean()
    if not gap.detach().abs() <= GAP_MAX:
        raise FloatingPointError(
            f"the energies of data ({e_data.mean():.3g}) and samples ({e_model.mean():.3g}) ran apart: lower lr, take "
            "more Langevin steps (or smaller ones), or raise l2"
        )
    return gap + l2 * (e_data.square().mean() + e_model.square().mean()) if l2 else gap


class ReplayBuffer:
    """Where persistent chains rest between two training steps (Tieleman 2008; restarts as in Du & Mordatch 2019).

    `start(n)` gives n fresh states (n, ...); `size` chains begin there, and of those drawn each starts anew with
    probability `restart`: the more steps a fresh chain needs to arrive, the smaller (Du & Mordatch: 0.05). Raises
    ValueError for size < 1 or restart outside [0, 1].
    """

    def __init__(self, start, size=256, restart=0.005, generator=None):
        if size < 1 or not 0 <= restart <= 1:
            raise ValueError(f"size = {size} is at least 1 and restart = {restart} a probability")
        self.start, self.restart, self.generator = start, restart, generator
        self.x = start(size)  # (size, ...)

    def draw(self, n):
        """The indices (n,) of n chains, no chain twice, and their states (n, ...), some of them fresh."""
        if not 1 <= n <= len(self.x):
            raise ValueError(f"{n} chains asked for, but the buffer holds {len(self.x)}")
        index = torch.randperm(len(self.x), generator=self.generator)[:n]
        x, fresh = self.x[index], torch.rand(n, generator=self.generator) < self.restart
        if fresh.any():
            x[fresh] = self.start(int(fresh.sum()))
        return index, x

    def put(self, index, x):
        """Store where the chains have got to."""
        self.x[index] = x.detach()


def persistent_loss(buffer, step, n_steps, l2=0.0, temperature=1.0, metropolis=False):
    """A loss for `fit`: chains from the buffer walk n_steps on the energy as it is now, then contrastive divergence.

    fit(EnergyNet(), persistent_loss(ReplayBuffer(start), 0.01, 20), batches(x, 256), 1000) trains. With `metropolis`
    the chains are those of `mala`, at temperature 1: an energy that became too steep for the step then refuses
    proposals, where plain Langevin overshoots and training comes apart.
    """
    if metropolis and temperature != 1:
        raise ValueError(f"temperature = {temperature}; Metropolis-adjusted chains walk at temperature 1")

    def loss_fn(energy, x_data):
        index, x = buffer.draw(len(x_data))
        if metropolis:
            *_, (x, _) = mala(energy, x, step, n_steps)
        else:
            *_, x = langevin(score_of(energy), x, step, n_steps, temperature)
        buffer.put(index, x)
        return contrastive_divergence(energy, x_data, x, l2)

    return loss_fn


# ---- score matching


def divergence(field, x, directions=None):
    """field(x) (B, ...) and its divergence (B,): the trace of its Jacobian, by one backward pass a coordinate.

    With `directions` (K, B, ...) the mean of v^T J v over them: for independent v of mean 0 and covariance I an
    unbiased estimate (Hutchinson 1990) of K passes. Both keep their graphs where gradients are on. Raises ValueError
    where the field cannot be differentiated, and for directions of another shape.
    """
    if directions is not None and directions.shape[1:] != x.shape:
        wanted = ", ".join(str(n) for n in x.shape)
        raise ValueError(f"directions have shape {tuple(directions.shape)}; give (K, {wanted}), v[None] for one each")
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        f = field(x)
        check_shapes(x=x, field=f)
        if not f.requires_grad:
            raise ValueError("the field has no gradient: was it computed under no_grad, or detached?")
        scale = 1 if directions is None else len(directions)  # a sum over axes, a mean over random directions
        if directions is None:
            axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
            directions = axes.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
        trace = 0
        for v in directions:
            (row,) = torch.autograd.grad(f, x, v, create_graph=keep, retain_graph=True, materialize_grads=True)
            trace = trace + (row * v).flatten(1).sum(1) / scale
    return (f, trace) if keep else (f.detach(), trace.detach())


def explicit_score_matching(score, x, exact_score):
    """The Fisher divergence itself, E |score - exact_score|^2 / 2, where the exact score is known: a scalar."""
    s, exact = score(x), exact_score(x)
    check_shapes(score=s, x=x)
    check_shapes(exact_score=exact, x=x)
    return half_square(s - exact).mean()


def implicit_score_matching(score, x):
    """E[div score + |score|^2 / 2] (Hyvarinen 2005): J - E |grad log p|^2 / 2, by integration by parts."""
    s, trace = divergence(score, x)
    return (trace + half_square(s)).mean()


def sliced_score_matching(score, x, directions=None, variance_reduced=True):
    """E[v^T (grad score) v + |score|^2 / 2] over random v (Song et al. 2020): the implicit loss in expectation.

    `directions` (K, B, ...) have mean 0 and covariance I; unless given, one for each sample is drawn, of signs +-1.
    Without `variance_reduced` the second term is (v^T score)^2 / 2, as in the paper's first form.
    """
    if directions is None:
        directions = torch.randint(0, 2, (1, *x.shape), device=x.device).to(x) * 2 - 1
    s, trace = divergence(score, x, directions)
    if variance_reduced:
        return (trace + half_square(s)).mean()
    return (trace + ((directions * s).flatten(2).sum(2) ** 2).mean(0) / 2).mean()


def denoising_score_matching(score, x0, sigma, noise=None, weighted=False):
    """E |score(x0 + sigma z) + z / sigma|^2 / 2 (Vincent 2011): the divergence J to the score of data with noise added,
    up to a constant; `weighted` by sigma^2, which makes all noise levels count alike (Song & Ermon 2019, eq. 6).

    x0 (B, ...); sigma above 0, a number or (B,); noise z (B, ...), drawn unless given. Raises ValueError for others.
    """
    noise = torch.randn_like(x0) if noise is None else noise
    check_shapes(x0=x0, noise=noise)
    sigma = torch.as_tensor(sigma, dtype=x0.dtype, device=x0.device)
    if sigma.shape not in ((), (len(x0),)) or not (sigma > 0).all():
        raise ValueError(f"sigma is above 0, one number or one for each of the {len(x0)} samples")
    sigma = sigma.reshape(sigma.shape + (1,) * (x0.ndim - 1) if sigma.ndim else ())
    s = score(x0 + sigma * noise)
    check_shapes(score=s, x0=x0)
    error = sigma * s + noise
    return half_square(error if weighted else error / sigma).mean()


def half_square(x):
    """|x|^2 / 2 of each sample: (B, ...) -> (B,)."""
    return x.square().flatten(1).sum(1) / 2
