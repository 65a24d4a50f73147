"""Score matching: fitting an unnormalised density to samples without its normalisation."""

from torch import Tensor

from invbench.priors.potentials import Potential


def score_matching(z: Tensor, filters: Tensor, weights: Tensor, potential: Potential) -> Tensor:
    """The objective of score matching for log p(z) = -sum_k a_k rho(w_k . z) + const.

        J = E[ laplacian log p + 1/2 |grad log p|^2 ]
          = -sum_k a_k |w_k|^2 E[rho''(s_k)] + 1/2 E |sum_k a_k rho'(s_k) w_k|^2,      s_k = w_k . z

    Up to a constant of the data, J is half the expected squared distance of the gradients of log p and of
    the log density of the data. The second term takes one product more with the filters and no K x K matrix;
    filters may have any norm.

    Args:
        z: samples, `(G, b, d)`: G separate sets.
        filters: w, `(G, K, d)`.
        weights: a, `(G, K)`.
        potential: rho.

    Returns:
        The sum of J over the sets, a scalar.

    References:
        Hyvarinen, Estimation of non-normalized statistical models by score matching, JMLR 2005, eq. 4 and
        section 3.2 (there with unit-norm filters, whose factor |w|^2 is absent).
    """
    slope, bend = potential.derivatives(z @ filters.mT)
    scaled = weights * filters.square().sum(-1)
    laplacian = -(bend.mean(1) * scaled).sum()
    score = (slope * weights[:, None]) @ filters
    squares: Tensor = score.square().sum(-1).mean(1)
    return laplacian + squares.sum() / 2
