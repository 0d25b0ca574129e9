# %% [markdown]
# # Three strategies for structured prediction
#
# A network turns *x* into a representation *z*. From there the lecture names three ways on:
#
# 1. exact or approximate inference on *p(y | z)*, and backpropagation of its marginals;
# 2. a fixed number of variational steps, and backpropagation through them;
# 3. every label on its own: no inference.
#
# Label sets are drawn from a CRF that is known (`mlcrf.synthetic`), and evidence for each label of its own, weak for
# some. So the best answer is known too: that of the CRF that made the data.
#
# ```math
# \mathrm{1:\ } \log Z(x) - s(x, y)
# \mathrm{2:\ } -\sum_i\, \log q_i^{(m)}(y_i)
# \mathrm{3:\ } -\sum_i\, \log \sigma(\pm u_i)
# q_i = \sigma\left( u_i + \sum_j\, w_{ij}\, q_j \right) \qquad \mathrm{where\ mean\ field\ ends}
# ```

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mlcrf import MultiLabelCRF
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact, MeanField
from mlcrf.objectives import (
    exact_likelihood_loss,
    independent_loss,
    unrolled_mean_field_loss,
)
from mlcrf.synthetic.planted import make_planted_crf

planted = make_planted_crf()
y = torch.from_numpy(planted.sample(4000, np.random.default_rng(0))).long()
draw = torch.Generator().manual_seed(0)
hard = torch.tensor([name in planted.hard for name in planted.labels])
strength = torch.where(hard, 0.7, 2.5)  # x_i = N(strength y_i, 1)
x = strength * y + torch.randn(y.shape, generator=draw)
x_train, x_test, y_train, y_test = x[:2000], x[2000:], y[:2000], y[2000:]
L = y.shape[1]

# %% [markdown]
# ## The same unaries, trained in three ways
#
# A linear layer gives the unaries. What differs is the loss; couplings are learned in the first two.

# %%
edges = full_edges(L)
unrolled = MeanField(max_sweeps=10, parallel=True)
objectives = {
    "1 exact likelihood": exact_likelihood_loss,
    "2 unrolled mean field": lambda potentials, y: unrolled_mean_field_loss(
        potentials, y, method=unrolled
    ),
    "3 independent": independent_loss,
}


def train(objective):
    torch.manual_seed(0)
    network, pairwise = nn.Linear(L, L), nn.Parameter(torch.zeros(len(edges)))
    parameters = [*network.parameters(), pairwise]
    optimiser = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = objective(Potentials(network(x_train), edges, pairwise), y_train)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return Potentials(network(x_test), edges, pairwise.detach())


trained = {name: train(objective) for name, objective in objectives.items()}

# %% [markdown]
# The first is what `MultiLabelCRF` minimises, so any training loop can have it ([how](../own-training-loop.md)):

# %%
learned = trained["1 exact likelihood"]
layer = MultiLabelCRF(L)
layer.pairwise.data = learned.pairwise
torch.testing.assert_close(layer(learned.unary, y_test), exact_likelihood_loss(learned, y_test))

# %% [markdown]
# The other two formulas, and mean field's own, which holds once it has converged; the second strategy stops it before,
# after *m* = 10 sweeps:

# %%
q = unrolled(learned).marginals.double()
by_hand = -torch.where(y_test == 1, q, 1 - q).log().sum() / len(q)
torch.testing.assert_close(
    unrolled_mean_field_loss(learned, y_test, method=unrolled).double(),
    by_hand,
    atol=1e-3,
    rtol=1e-3,
)

alone = trained["3 independent"]
p = torch.where(y_test == 1, alone.unary, -alone.unary).sigmoid()
torch.testing.assert_close(independent_loss(alone, y_test), -p.log().sum() / len(p))

few = learned.rows(slice(200))
settled = MeanField(max_sweeps=1000, tolerance=1e-7)(few)
kept = settled.converged
again = few.rows(kept).conditional_logits(settled.marginals[kept]).sigmoid()
torch.testing.assert_close(again, settled.marginals[kept], atol=1e-4, rtol=0)
assert kept.float().mean() > 0.5

# %% [markdown]
# ## Every one decoded in three ways
#
# Cross-entropy of the marginals of a test example, summed over labels, in nats; and the share of wrong labels.

# %%
decoders = {
    "exact": lambda potentials: Exact()(potentials).marginals,
    "mean field": lambda potentials: unrolled(potentials).marginals,
    "independent": lambda potentials: potentials.unary.sigmoid(),
}
table = np.empty((3, 3, 2))
for row, potentials in enumerate(trained.values()):
    for column, decode in enumerate(decoders.values()):
        q = decode(potentials).clamp(1e-6, 1 - 1e-6)
        loss = F.binary_cross_entropy(q, y_test.to(q.dtype), reduction="sum") / len(q)
        table[row, column] = float(loss), 100 * float(((q > 0.5) != y_test).float().mean())

bias = torch.from_numpy(planted.bias).float()
truth = Potentials(  # the CRF that made the data: log p(x|1)/p(x|0) added to its biases
    bias + strength * x_test - strength.square() / 2,
    edges,
    torch.from_numpy(planted.pairwise_matrix).float()[edges[:, 0], edges[:, 1]],
)
best = Exact()(truth).marginals
least = 100 * float(((best > 0.5) != y_test).float().mean())

# %% Heat maps of loss and of wrong labels, trained by (rows) and decoded by (columns): the diagonal is best in each row
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for ax, values, title in zip(
    axes,
    (table[..., 0], table[..., 1]),
    ("cross-entropy of marginals, nats", f"wrong labels, % (least possible: {least:.2f})"),
    strict=True,
):
    ax.imshow(np.log(values), cmap="YlOrBr", aspect="auto", vmax=2 * np.log(values.max()))
    for i, j in np.ndindex(3, 3):
        ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center")
    ax.set(title=title, xlabel="decoded by", xticks=range(3), xticklabels=list(decoders))
    ax.set(yticks=range(3), yticklabels=list(trained))

# %% [markdown]
# Training with the inference that is used at test time pays, as the lecture says: each row is best, or as good as
# best, on the diagonal. Exact likelihood with exact inference comes closest to the CRF that made the data.

# %%
losses = table[..., 0]
assert losses[0].argmin() == 0
assert losses[1].argmin() == 1
assert losses[2].min() == losses[2, 2]  # without couplings all three decoders agree
assert losses[0, 0] < losses[1, 1] < losses[2, 2]
assert table[0, 0, 1] < least + 0.5

# %% [markdown]
# On photos the same grid is in [the experiment on objectives](../../experiments/objectives/README.md).
