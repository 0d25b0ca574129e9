"""Diagnostics of chains: split R-hat, effective sample size, standard errors."""

import torch
from torch import Tensor

_AT_ONCE = 2**20  # largest number of draws compared at once, so that they stay in the cache


def split_r_hat(samples: Tensor) -> Tensor:
    """Return the split R-hat of each label: states (T, chains, N, L) -> float64 (N, L).

        R^2 = (n - 1) / n + between / within            over half chains of n draws each

    Near 1 when the halves of all chains agree; 1 where nothing varies, infinite where chains
    are stuck in different states, or of fewer than four draws.

    Source: Gelman et al., Bayesian Data Analysis (2013), section 11.4.
    """
    halves = _halves(samples)
    if len(halves) < 2:
        return samples.new_full(samples.shape[2:], torch.inf, dtype=torch.float64)
    within, between = _variances(halves)
    ratio = (len(halves) - 1) / len(halves) + between / within
    return torch.where(between == 0, torch.ones_like(ratio), ratio).sqrt()


def effective_sample_size(samples: Tensor) -> Tensor:
    """Return the number of independent draws that are worth as much, float64 (N, L).

        m n / (1 + 2 sum_t rho_t),   rho_t = 1 - V_t / (2 var),   V_t = mean (y_s - y_{s-t})^2

    over m half chains of n draws, with var the variance of all of them. The sum ends before the
    first pair of lags 2 t, 2 t + 1 whose correlations add up to less than 0 (Geyer 1992); the size
    is at most the number of draws. Chains stuck in different states count for about one draw each.
    A label that never varies has the number of draws: labels too rare to be drawn are not detected.
    0 for fewer than four draws.

    Args:
        samples: 0 or 1, uint8 (T, chains, N, L).

    Cost: O(T chains N L) for each lag that a label needs.

    Source: Gelman et al., Bayesian Data Analysis (2013), section 11.5.
    """
    halves = _halves(samples).flatten(2)
    length, chains = halves.shape[:2]
    if length < 2:
        return samples.new_zeros(samples.shape[2:], dtype=torch.float64)
    within, between = _variances(halves)
    variance = (length - 1) / length * within + between
    draws = halves.flatten(0, 1).T.reshape(-1, length, chains)
    at_once = max(1, _AT_ONCE // (length * chains))
    parts = zip(torch.split(draws, at_once), torch.split(variance, at_once), strict=True)
    return torch.cat([_size(*part) for part in parts]).reshape(samples.shape[2:])


def log_mean_error(log_values: Tensor) -> Tensor:
    """Return the standard error of the log of a mean over draws: (T, chains, N) -> float64 (N,).

        error^2 = var(m_c) / (chains mean(m_c)^2) + 1 / (T chains)^2

    with m_c the mean of exp(log_values) of a chain. The second term is for what is so rare that no
    draw showed it. The first is at most 1, where one chain makes up the whole mean; infinite for a
    single chain.
    """
    length, chains = log_values.shape[:2]
    if chains < 2:
        return log_values.new_full(log_values.shape[2:], torch.inf, dtype=torch.float64)
    log_means = log_values.double().logsumexp(0)
    means = (log_means - log_means.amax(0)).exp()
    variance = (means - means.mean(0)).square().sum(0) / (chains - 1)
    return (variance / (chains * means.mean(0).square()) + (length * chains) ** -2).sqrt()


def _size(draws: Tensor, variance: Tensor) -> Tensor:
    """Return the effective sample size of draws (P, n, m) with variance (P,)."""
    length, chains = draws.shape[1:]
    if _on_cpu(draws):
        from mlcrf.inference.gibbs.sample_kernels import effective_sizes

        sizes = torch.empty_like(variance)
        flat = draws.flatten(1).contiguous()
        effective_sizes(flat.numpy(), variance.numpy(), chains, sizes.numpy())
        return sizes
    size = torch.full_like(variance, length * chains)
    left = variance.nonzero()[:, 0]  # labels whose sum continues
    total = -torch.ones_like(variance[left])
    for lag in range(0, length - 1, 2):
        some = draws[left]
        pair = 2 - (_apart(some, lag) + _apart(some, lag + 1)) / (2 * variance[left])
        on = pair >= 0
        total += 2 * pair.clamp_min(0)
        size[left] = length * chains / total.clamp_min(1)
        left, total = left[on], total[on]
        if not len(left):
            break
    return size


def _halves(samples: Tensor) -> Tensor:
    """Split chains in first and second halves: (T, S, ...) -> (T // 2, 2 S, ...)."""
    half = len(samples) // 2
    return torch.cat([samples[:half], samples[half : 2 * half]], 1)


def _variances(chains: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean variance within chains (n, m, ...), and the variance of their means."""
    length = len(chains)
    means = chains.sum(0, dtype=torch.int32).double() / length
    within = (means - means.square()).mean(0) * length / (length - 1)
    return within, (means - means.mean(0)).square().sum(0) / (means.shape[0] - 1)


def _apart(draws: Tensor, lag: int) -> Tensor:
    """Return the share of draws that differ from the draw `lag` sweeps later: (P, n, m) -> (P,)."""
    apart = draws[:, lag:] ^ draws[:, : draws.shape[1] - lag]
    return apart.flatten(1).float().mean(1).double()


def _on_cpu(draws: Tensor) -> bool:
    return draws.device.type == "cpu"
