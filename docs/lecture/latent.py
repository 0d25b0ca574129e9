# %% [markdown]
# # Latent dynamics: random z in place of dependent y
#
# Instead of couplings between labels, let what makes them depend on each other be random: a photo shows one of *K*
# scenes that nobody has named, labels are independent given the scene, and consecutive photos of an album follow each
# other's scenes. That is a hidden Markov model whose emissions and transitions are scores that networks compute.
#
# ```math
# p(z \mid x) \propto \exp\left( \sum_t\, g_{t, z_t} + \sum_t\, T_{z_t, z_{t+1}} \right)
# p(y_t \mid z_t) = \prod_i\, \sigma(u_{ti} + b_{z_t i})^{y_{ti}}\, (1 - \sigma(u_{ti} + b_{z_t i}))^{1 - y_{ti}}
# \alpha_t(k) = g_{t,k} + \log \sum_j\, \exp( \alpha_{t-1}(j) + T_{jk} )
# \log Z = \log \sum_k\, \exp \alpha_{\mathrm{last}}(k)
# ```

# %%
import itertools
import math

import matplotlib.pyplot as plt
import torch

from mlcrf.crf import full_edges
from mlcrf.inference import Independent
from mlcrf.latent import SceneChain, ScenePotentials, SceneSum, share_in_albums

# %% [markdown]
# ## The forward algorithm equals enumeration
#
# Five photos, three scenes: a sum over all 243 sequences of scenes in plain Python, beside `SceneChain`.

# %%
draw = torch.Generator().manual_seed(0)
gates = torch.randn(5, 3, generator=draw, dtype=torch.float64)
transitions = torch.randn(3, 3, generator=draw, dtype=torch.float64)
chain = SceneChain(transitions)

g, t = gates.tolist(), transitions.tolist()
weights = {
    z: math.exp(
        sum(g[at][k] for at, k in enumerate(z)) + sum(t[j][k] for j, k in itertools.pairwise(z))
    )
    for z in itertools.product(range(3), repeat=5)
}
total = math.fsum(weights.values())
assert abs(float(chain.log_partition(gates)) - math.log(total)) < 1e-12
for at, k in itertools.product(range(5), range(3)):
    share = math.fsum(weight for z, weight in weights.items() if z[at] == k) / total
    assert abs(float(chain.marginals(gates)[at, k]) - share) < 1e-12
print(f"log Z {math.log(total):.6f} over {len(weights)} sequences")

# %% [markdown]
# The backward algorithm is the derivative of the forward one: the marginals are the gradient of log Z in the scores.

# %%
leaf = gates.clone().requires_grad_()
(derivative,) = torch.autograd.grad(chain.log_partition(leaf), leaf)
torch.testing.assert_close(derivative, chain.marginals(gates))

# %% [markdown]
# ## The mixture is a distribution over label sets
#
# Given the image alone: a sum over scenes, cheap for any number of labels, and nothing approximate. The probability of
# every set of four labels is the sum in plain Python, all add up to one, and the marginals are theirs.

# %%
mixture = ScenePotentials(
    torch.randn(1, 4, generator=draw, dtype=torch.float64),
    full_edges(4)[:0],
    torch.zeros(0, dtype=torch.float64),
    gates=torch.randn(1, 3, generator=draw, dtype=torch.float64),
    shifts=2 * torch.randn(3, 4, generator=draw, dtype=torch.float64),
)
scenes = SceneSum(Independent())
sets = torch.tensor(list(itertools.product((0, 1), repeat=4)))
p = scenes.log_probability(mixture, sets[:, None])[:, 0].exp()
share = mixture.gates[0].softmax(0).tolist()
on = (mixture.unary + mixture.shifts).sigmoid().tolist()  # P(label | scene)
for y, found in zip(sets.tolist(), p.tolist(), strict=True):
    by_scene = [
        s * math.prod(q if y_i else 1 - q for q, y_i in zip(row, y, strict=True))
        for s, row in zip(share, on, strict=True)
    ]
    assert abs(found - math.fsum(by_scene)) < 1e-12
assert abs(float(p.sum()) - 1) < 1e-12
torch.testing.assert_close(scenes(mixture).marginals[0], p @ sets.double())

# %% [markdown]
# ## An album
#
# Twelve photos of a walk: first the beach, then the town, then the wood. Each photo alone says little about its
# scene. Scenes last: the transitions favour staying. Below, P(scene) of each photo alone, within the album, and once
# one label of the sixth photo is known.

# %%
names = ["beach", "town", "wood"]
labels = ["sea", "sand", "people", "car", "house", "tree", "flower"]
truth = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
draw = torch.Generator().manual_seed(3)
shifts = torch.tensor(
    [[3.0, 3, 1, -2, -2, -1, -2], [-2, -2, 1, 3, 3, -1, -1], [-2, -2, -1, -2, -2, 4, 2]]
)
alone = torch.randn(12, 3, generator=draw) + 1.2 * torch.eye(3)[truth]
photos = ScenePotentials(
    torch.full((12, 7), -1.0), full_edges(7)[:0], torch.zeros(0), gates=alone, shifts=shifts
)
stay = 2.5 * torch.eye(3)
known = torch.full((12, 7), -1)
known[5, labels.index("car")] = 1
album = [range(12)]
together = share_in_albums(photos, scenes, stay, album)
told = share_in_albums(photos, scenes, stay, album, known=known)

weights = {
    "each photo alone": scenes.scene_weights(photos),
    "within the album": scenes.scene_weights(together),
    "and photo 6 shows a car": scenes.scene_weights(told, known=known),
}
right = {name: float(w[range(12), truth].log().sum()) for name, w in weights.items()}
assert right["each photo alone"] < right["within the album"] < right["and photo 6 shows a car"]

# %% The scene of each of twelve photos: unclear alone, clear within the album, clearer with one label known
figure, axes = plt.subplots(3, 1, figsize=(9, 4.5), sharex=True, layout="constrained")
for ax, (name, w) in zip(axes, weights.items(), strict=True):
    ax.imshow(w.T, cmap="YlGnBu", vmin=0, vmax=1, aspect="auto")
    ax.plot(range(12), truth, "o", color="darkorange", ms=5)
    ax.set(title=f"{name}: log-probability of the true scenes {right[name]:.1f}")
    ax.set(yticks=range(3), yticklabels=names)
axes[-1].set(xlabel="photo; a dot is the true scene", xticks=range(12), xticklabels=range(1, 13))

# %% [markdown]
# The chain is exact here too. `SceneChain` on the scores of the photos, with the evidence of the known label, gives the
# same scenes:

# %%
scores = photos.gates.log_softmax(-1) + scenes.evidence(photos, known)
torch.testing.assert_close(
    SceneChain(stay).marginals(scores), weights["and photo 6 shows a car"], atol=1e-5, rtol=1e-4
)

# %% [markdown]
# On real albums: [the experiment](../../experiments/albums/README.md). How it is fitted:
# [latent scenes](../inference.md#latent-scenes-random-z-in-place-of-dependent-y).
