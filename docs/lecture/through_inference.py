# %% [markdown]
# # Gradients through inference
#
# The likelihood of a CRF contains log Z, a sum over all label sets. Whether automatic differentiation gives its gradient
# depends on how that sum is computed: exactly, by iterating a variational method, or by sampling.
#
# ```math
# \frac{\partial \log Z}{\partial u_i} = P(y_i = 1)
# \frac{\partial \log Z}{\partial w_{ij}} = P(y_i = 1, y_j = 1)
# -\frac{\partial}{\partial w_{ij}} \log p(y) = E[y_i y_j] - y_i y_j
# ```

# %%
import itertools
import math

import matplotlib.pyplot as plt
import torch

from experiments.lecture.through_inference import (
    common_random_numbers,
    difference_of_features,
    make_potentials,
    sampling_slopes,
    unrolled_gives_the_gradient_of_what_is_run,
)
from mlcrf.crf import Potentials
from mlcrf.inference import Exact

# %% [markdown]
# ## Exact inference: the derivatives of log Z are expectations
#
# Six labels, all pairs coupled. One backward pass through `Exact` beside expectations by enumeration in plain Python.

# %%
made = make_potentials()
unary, pairwise = made.unary.clone().requires_grad_(), made.pairwise.clone().requires_grad_()
log_z = Exact()(Potentials(unary, made.edges, pairwise)).log_partition.sum()
of_unary, of_pairwise = torch.autograd.grad(log_z, (unary, pairwise))

sets = list(itertools.product((0, 1), repeat=6))
pairs = made.edges.tolist()
weights = [
    math.exp(
        sum(u * on for u, on in zip(made.unary[0].tolist(), y, strict=True))
        + sum(w * y[i] * y[j] for (i, j), w in zip(pairs, made.pairwise.tolist(), strict=True))
    )
    for y in sets
]
z = math.fsum(weights)
present = [math.fsum(p for p, y in zip(weights, sets, strict=True) if y[i]) / z for i in range(6)]
together = [
    math.fsum(p for p, y in zip(weights, sets, strict=True) if y[i] and y[j]) / z for i, j in pairs
]
torch.testing.assert_close(of_unary[0].tolist(), present)
torch.testing.assert_close(of_pairwise.tolist(), together)

y = torch.tensor([[1, 0, 1, 1, 0, 0]])
potentials = Potentials(unary, made.edges, pairwise)
loss = (Exact()(potentials).log_partition - potentials.log_score(y)).sum()  # -log p(y)
(of_loss,) = torch.autograd.grad(loss, pairwise)
seen = y[0, made.edges].prod(1)  # y_i y_j
torch.testing.assert_close(of_loss, torch.tensor(together, dtype=torch.float64) - seen)

# %% Derivatives of log Z over expectations by enumeration: all on the diagonal
figure, ax = plt.subplots(figsize=(3.6, 3.6), layout="constrained")
ax.plot([0, 1], [0, 1], color="0.8")
ax.scatter(present, of_unary[0], label="one label", color="teal")
ax.scatter(together, of_pairwise, label="two labels", color="darkorange", marker="s", s=20)
ax.set(xlabel="expectation, by enumeration", ylabel="derivative of log Z")
ax.legend()

# %% [markdown]
# ## Unrolled mean field: the gradient of what is run
#
# After any number of sweeps, automatic differentiation gives the gradient of the loss of *these* marginals: "train the
# inference you will use at test time". It is not the gradient of the likelihood; the last column is the cosine between
# the two.

# %%
for row in unrolled_gives_the_gradient_of_what_is_run():
    assert row["difference_error"] < 1e-8  # from central differences
    print(f"{row['sweeps']:>3} sweeps: cosine {row['cosine_with_likelihood']:.3f}")

# %% [markdown]
# ## Sampling: no gradient
#
# A sample is 0 or 1. With the random numbers held, a small change of a log-odds changes no sample: the derivative of a
# sampled mean is 0 almost everywhere, whatever the exact one is.

# %%
for row in sampling_slopes():
    assert not row["samples_carry_a_gradient"]
    if row["step"] < 0.01:
        assert row["slope_of_samples"] == 0
    print(f"step {row['step']:<6g} {row['slope_of_samples']:.3f}, exact {row['exact_slope']:.3f}")

# %% [markdown]
# ## Common random numbers
#
# Finite differences of a sampled mean work once the step is large. The same random numbers on both sides make their
# variance far smaller, the more so the smaller the step.

# %%
rows = common_random_numbers(repeats=60)
for row in rows:
    assert row["common_variance"] < row["independent_variance"] / 3

# %% Variance of the difference over its step, for common and for independent random numbers
figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
steps = [row["step"] for row in rows]
for name in ("independent", "common"):
    ax.loglog(steps, [row[f"{name}_variance"] for row in rows], "o-", label=f"{name} numbers")
ax.set(xlabel="step", ylabel="variance of the difference")
ax.legend()

# %% [markdown]
# ## What works: a difference of features
#
# The likelihood's gradient is an expectation minus what was observed, and an expectation can be sampled: the error
# falls as one over the root of the number of chains. That is what contrastive divergence follows
# ([learning](../inference.md#learning-mlcrf-train---objective)).

# %%
rows = difference_of_features([100, 1000, 10000])
assert rows[0]["rms_error"] > rows[1]["rms_error"] > rows[2]["rms_error"]
assert rows[2]["rms_error"] < 0.01

# %% Error of the sampled gradient over the number of chains, beside a line that falls as one over the root
figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
chains = [row["chains"] for row in rows]
ax.loglog(chains, [row["rms_error"] for row in rows], "o-", label="sampled gradient")
ax.loglog(chains, [0.3 / one**0.5 for one in chains], ":", label="0.3 / root")
ax.set(xlabel="chains", ylabel="error (rms)")
ax.legend()
