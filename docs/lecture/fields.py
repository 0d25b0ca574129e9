# %% [markdown]
# # CRFs and neural fields over a graph
#
# A conditional random field scores every place *c* on its own and every edge of a graph *E* together. With logistic
# regression for the scores it is a plain CRF; with a network it is a conditional neural field.
#
# ```math
# p(y \mid x) = \frac{1}{Z(x)}\, \exp\left( \sum_{c}\, y_c\, s(x_c) + \sum_{(c, c') \in E}\, w\, y_c\, y_{c'} \right)
# s(x_c) = v^T x_c \qquad \mathrm{or} \qquad s(x_c) = v^T h(W x_c + b)
# ```
#
# Backpropagation goes on: forward through the network to the scores, belief propagation to *Z* and the marginals,
# back through both.

# %%
import itertools
import math

import matplotlib.pyplot as plt
import torch

from experiments.lecture.graphs import Field, draw_chains, fit, make_edges
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact, Gibbs, JunctionTree, treewidth

# %% [markdown]
# ## Belief propagation is exact
#
# Twelve places on five graphs. Belief propagation on a junction tree, whose cost is exponential in the treewidth only,
# against a sum over all 4,096 label sets in plain Python.


# %%
def enumerate_log_z(unary, edges, pairwise):
    scores = []
    for y in itertools.product((0, 1), repeat=len(unary)):
        score = sum(u * on for u, on in zip(unary, y, strict=True))
        score += sum(w * y[i] * y[j] for (i, j), w in zip(edges, pairwise, strict=True))
        scores.append(score)
    top = max(scores)
    return top + math.log(math.fsum(math.exp(one - top) for one in scores))


draw = torch.Generator().manual_seed(0)
graphs = make_edges()
for name, edges in graphs.items():
    unary = torch.randn(1, 12, generator=draw, dtype=torch.float64)
    pairwise = torch.randn(len(edges), generator=draw, dtype=torch.float64)
    posterior = JunctionTree(max_treewidth=12)(Potentials(unary, edges, pairwise))
    truth = enumerate_log_z(unary[0].tolist(), edges.tolist(), pairwise.tolist())
    assert abs(float(posterior.log_partition) - truth) < 1e-9
    print(f"{name:<12} treewidth {treewidth(edges, 12):>2}   log Z {truth:.6f}")

# %% The graphs: a chain, a tree, a ladder, a grid, and all pairs of twelve places
place = {
    "chain": [(c, 0) for c in range(12)],
    "tree": [
        (((c + 1) - 2 ** (level := (c + 1).bit_length() - 1) + 0.5) / 2**level, -level)
        for c in range(12)
    ],
    "ladder 2 x 6": [(c // 2, c % 2) for c in range(12)],
    "grid 3 x 4": [(c // 3, c % 3) for c in range(12)],
    "all pairs": [(math.cos(c * math.pi / 6), math.sin(c * math.pi / 6)) for c in range(12)],
}
figure, axes = plt.subplots(1, 5, figsize=(11, 2.2), layout="constrained")
for ax, (name, edges) in zip(axes, graphs.items(), strict=True):
    for i, j in edges.tolist():
        ax.plot(*zip(place[name][i], place[name][j], strict=True), color="0.6", lw=1, zorder=1)
    ax.scatter(*zip(*place[name], strict=True), s=40, color="teal", zorder=2)
    ax.set_title(f"{name}\ntreewidth {treewidth(edges, 12)}", fontsize=9)
    ax.margins(0.15)
    ax.axis("off")

# %% [markdown]
# ## What a network and couplings add
#
# Chains whose evidence is the sign of a product: no linear score can see it, and neighbours agree with each other.
# Both the network and the couplings help, together most.

# %%
draw = torch.Generator().manual_seed(0)
train, test = draw_chains(300, draw), draw_chains(1000, draw)
losses = {}
for name, hidden, coupled in (
    ("logistic regression", 0, False),
    ("CRF", 0, True),
    ("network", 16, False),
    ("neural field", 16, True),
):
    torch.manual_seed(0)
    field = Field(hidden=hidden, coupled=coupled)
    fit(field, *train, steps=40)
    with torch.no_grad():
        potentials = field(test[0])
        log_prob = potentials.log_score(test[1]) - JunctionTree()(potentials).log_partition
    losses[name] = -float(log_prob.mean())
assert min(losses, key=losses.get) == "neural field"
assert max(losses, key=losses.get) == "logistic regression"

# %% Bars of the loss on held-out chains: logistic regression most, then CRF, network, and the neural field least
figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
bars = ax.barh(list(losses), list(losses.values()), color=["0.7", "teal", "0.7", "teal"])
ax.bar_label(bars, fmt="%.2f", padding=3)
ax.invert_yaxis()
ax.set(xlabel="-log p(y | x) of a held-out chain, nats", xlim=(0, 6))

# %% [markdown]
# ## Gibbs sampling where the treewidth is high
#
# All pairs coupled: Gibbs sampling comes to the exact marginals as sweeps grow, its error falling as one over their
# root.

# %%
draw = torch.Generator().manual_seed(0)
edges = full_edges(12)
dense = Potentials(
    torch.randn(4, 12, generator=draw), edges, torch.randn(len(edges), generator=draw) / 2
)
truth = Exact()(dense).marginals
sweeps = [10, 100, 1000]
errors = [
    float(
        (Gibbs(chains=64, burn_in=50, sweeps=one)(dense).marginals - truth).square().mean().sqrt()
    )
    for one in sweeps
]
assert errors[0] > errors[1] > errors[2]
assert errors[2] < 2e-3

# %% Error of the marginals over sweeps, beside a line that falls as one over the root
figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.loglog(sweeps, errors, "o-", label="Gibbs, 64 chains")
ax.loglog(sweeps, [errors[0] * (sweeps[0] / s) ** 0.5 for s in sweeps], ":", label="1 / root")
ax.set(xlabel="sweeps", ylabel="error of marginals (rms)")
ax.legend()
