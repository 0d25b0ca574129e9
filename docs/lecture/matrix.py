# %% [markdown]
# # The learned matrix
#
# Multi-label classification with a fully connected CRF: one number for each pair of labels says how much more likely
# they are together than the image alone would have it. The lecture shows the matrix that Chen, Schwing, Yuille and
# Urtasun (2015) learned on photos of Flickr; the model `mirflickr24`, which comes with mlcrf, has its own.
#
# ```math
# p(y \mid x) = \frac{1}{Z(x)} \exp\left( \sum_i\, u_i(x)\, y_i + \sum_{i<j}\, w_{ij}\, y_i y_j \right)
# w_{ij} = \mathrm{logit}\, P(y_i = 1 \mid y_j = 1, \mathrm{others}) - \mathrm{logit}\, P(y_i = 1 \mid y_j = 0, \mathrm{others})
# ```

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from mlcrf import MultiLabelCRF, load_run
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact
from mlcrf.reports.correlations import load_matrix, rank_agreements
from mlcrf.reports.label_order import cluster_order
from mlcrf.synthetic.planted import every_state, make_planted_crf

run = load_run(Path("mirflickr24"))
names = list(run.labels)
edges, pairwise = run.crf.edges, run.crf.pairwise.detach().double()
crf = Potentials(torch.zeros(1, len(names), dtype=torch.float64), edges, pairwise)
matrix = crf.pairwise_matrix().numpy()
lecture = load_matrix(Path("data/lecture_correlation_24.csv"), run.labels)

# %% Two heat maps of 24 labels by 24: couplings of mirflickr24, and the matrix of the lecture, in one order of labels
order = cluster_order(matrix)
figure, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
for ax, values, title in zip(axes, (matrix, lecture), ("mirflickr24", "the lecture"), strict=True):
    limit = np.nanquantile(np.abs(values), 0.98)
    ax.imshow(values[np.ix_(order, order)], cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set(title=title, xticks=range(24), yticks=range(24))
    ax.set_xticklabels([names[i] for i in order], rotation=90, fontsize=8)
    ax.set_yticklabels([names[i] for i in order], fontsize=8)

# %% [markdown]
# The two come from different parametrisations (the lecture's from a table over agreement and disagreement), so they are
# compared by rank. They agree on the pairs that matter most. On the others less: the network of `mirflickr24` was trained
# on the photos, so that its unaries say much of what a coupling says above features of another network.

# %%
for one in rank_agreements(matrix, lecture):
    print(f"{one.over}: rank correlation {one.correlation:.3f} over {one.pairs} pairs")
    assert one.correlation > (0.7 if one.pairs < 100 else 0.2)

# %% [markdown]
# ## What a coupling means
#
# The second formula above, by enumeration of all sets of four labels: whatever the other labels are, *male* and
# *people* move each other's log-odds by the same number, their coupling.

# %%
few = [names.index(name) for name in ("people", "male", "sky", "clouds")]
among = full_edges(4)
w = torch.from_numpy(matrix[np.ix_(few, few)])
small = Potentials(torch.randn(1, 4, dtype=torch.float64), among, w[among[:, 0], among[:, 1]])
states = torch.from_numpy(every_state(4)).long()
p = (
    small.log_score(states[:, None])[:, 0].softmax(0).reshape(2, 2, 2, 2)
)  # [clouds, sky, male, people]
logit = (p[..., 1] / p[..., 0]).log()  # of people, given [clouds, sky, male]
torch.testing.assert_close(logit[..., 1] - logit[..., 0], w[0, 1].expand(2, 2))
print(f"people and male: {w[0, 1]:.2f}")

# %% [markdown]
# ## What follows once a label is known
#
# No image, only the couplings, and unaries that give every label the same log-odds of -4: what one known label does
# to the others. `Exact` clamps it and sums over the 2^23 sets that are left.

# %% Probabilities of all labels: nothing known, and then with one label known
plain = Potentials(torch.full((1, 24), -4.0), edges, pairwise.float())
known = torch.full((1, 24), -1)
known[0, names.index("sea")] = 1
before, after = (Exact()(plain, known=what).marginals[0] for what in (None, known))
figure, ax = plt.subplots(figsize=(10, 3), layout="constrained")
ax.bar(range(24), before[order], width=0.4, color="0.7", label="nothing known")
ax.bar(np.arange(24) + 0.4, after[order], width=0.4, color="teal", label="sea is known")
ax.set_xticks(range(24), [names[i] for i in order], rotation=90, fontsize=8)
ax.set(ylabel="probability")
ax.legend()

# %% [markdown]
# ## Couplings that are known are found again
#
# Where the likelihood is greatest its gradient is zero, so the model's expectations are the data's:
#
# ```math
# E[y_i] = \frac{1}{N} \sum_n\, y_{ni}
# E[y_i y_j] = \frac{1}{N} \sum_n\, y_{ni}\, y_{nj}
# ```
#
# 20,000 label sets drawn from the CRF behind `mlcrf demo`, and the layer fitted to them with biases alone:

# %%
planted = make_planted_crf(coupling_strength=0.5)
y = torch.from_numpy(planted.sample(20_000, np.random.default_rng(0))).double()
sets, counts = y.unique(dim=0, return_counts=True)  # a set that was drawn often is computed once
share = counts / len(y)
layer, bias = MultiLabelCRF(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
parameters = [layer.pairwise, bias.requires_grad_()]
optimiser = torch.optim.LBFGS(
    parameters, max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
)


def closure():
    optimiser.zero_grad()
    nll = -(share * layer.log_prob(bias.expand(len(sets), -1), sets)).sum()
    nll.backward()
    return nll


optimiser.step(closure)
with torch.no_grad():
    fitted = Exact(pairwise_marginals=True)(layer.potentials(bias[None]))
torch.testing.assert_close(fitted.marginals[0], y.mean(0), atol=1e-4, rtol=0)
together = (y[:, layer.edges[:, 0]] * y[:, layer.edges[:, 1]]).mean(0)
torch.testing.assert_close(fitted.pairwise_marginals[0], together, atol=1e-4, rtol=0)
true = torch.from_numpy(planted.pairwise_matrix)[layer.edges[:, 0], layer.edges[:, 1]]
learned = layer.pairwise.detach()
agreement = float(torch.corrcoef(torch.stack([true, learned]))[0, 1])
assert agreement > 0.97
print(f"correlation of true and learned couplings: {agreement:.3f}")

# %% Learned couplings over true ones, near the diagonal
figure, ax = plt.subplots(figsize=(3.6, 3.6), layout="constrained")
ax.plot([-2.5, 2.5], [-2.5, 2.5], color="0.8")
ax.scatter(true, learned, color="teal", s=20)
ax.set(xlabel="true coupling", ylabel="learned coupling")
