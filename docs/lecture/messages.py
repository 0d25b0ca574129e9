# %% [markdown]
# # Backpropagation as message passing
#
# A network is a directed acyclic graph of layers. Each layer adds up what it hears from its parents, and hands on a
# non-linear function of the sum. With *M* for what goes forward, *V* for what comes back, *c* for a child, *p* for its
# parents and *c'* for its children:
#
# ```math
# M_c = \sum_p\, W_{cp}\, h(M_p) \qquad \mathrm{forward;\ inputs\ pass\ on\ } x
# V_c = h'(M_c) \sum_{c'}\, W_{c'c}\, V_{c'} \qquad \mathrm{backward;\ at\ the\ output\ } V_y = f'(M_y)
# \frac{\partial f}{\partial W_{cp}} = V_c\, h(M_p) \qquad \mathrm{in\ the\ first\ layer\ } V_c\, x_p
# ```
#
# Nothing here asks for a chain: a layer may skip others, have several parents and children, and any
# differentiable *h*; a loss may look at several layers. The engine is
# `experiments/lecture/message_passing.py`, sixty lines without automatic differentiation.

# %%
import matplotlib.pyplot as plt
import torch

from experiments.lecture.formulas import check_formulas
from experiments.lecture.message_passing import SINE, SOFTPLUS, TANH, Layer, Network

layers = {
    "x": Layer(3),
    "z1": Layer(4, ("x",), TANH),
    "z2": Layer(4, ("z1", "x"), SOFTPLUS),
    "z3": Layer(3, ("z2", "z1"), SINE),
    "y": Layer(1, ("z3", "x")),
}
network = Network.random(layers, seed=1)
x = torch.tensor([[0.9, -0.4, 0.3]], dtype=torch.float64)
target = 0.5

forward = network.forward({"x": x})
backward = network.backward(forward, {"y": forward["y"] - target})  # f = (M_y - target)^2 / 2
of_weights, of_biases = network.gradients(forward, backward)

# %% [markdown]
# ## Messages on the graph
#
# A circle is a unit, and its colour is its message: on the left what it has heard, on the right the derivative of the
# loss in what it has heard. Red is positive, blue negative. Lines are weights; those that skip a layer are drawn too.

# %% Two drawings of one network: forward messages in its units, and backward messages
places = {
    (name, unit): (column, unit - (layer.size - 1) / 2)
    for column, (name, layer) in enumerate(layers.items())
    for unit in range(layer.size)
}
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax, messages, title in zip(
    axes, (forward, backward), ("forward: M", "backward: V = df/dM"), strict=True
):
    for (child, parent), weight in network.weights.items():
        for c in range(layers[child].size):
            for p in range(layers[parent].size):
                (x0, y0), (x1, y1) = places[parent, p], places[child, c]
                ax.plot([x0, x1], [y0, y1], color="0.7", lw=abs(float(weight[c, p])), zorder=1)
    values = torch.cat([messages[name][0] for name in layers])
    limit = float(values.abs().max())
    across, up = zip(*places.values(), strict=True)
    ax.scatter(
        across,
        up,
        c=values,
        s=500,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        edgecolors="k",
        zorder=2,
    )
    for (column, height), value in zip(places.values(), values, strict=True):
        colour = "white" if abs(value) > limit / 2 else "black"
        ax.text(column, height, f"{value:.2f}", ha="center", va="center", color=colour, size=7)
    ax.set(title=title, xticks=range(len(layers)), xticklabels=list(layers), yticks=[])
    ax.margins(0.12)
    ax.spines[:].set_visible(False)

# %% [markdown]
# ## The check
#
# The gradient of every weight and bias, against automatic differentiation of the same network:

# %%
parameters = [*network.weights.values(), *network.biases.values()]
for parameter in parameters:
    parameter.requires_grad_()
loss = (network.forward({"x": x})["y"] - target).square().sum() / 2
by_autograd = torch.autograd.grad(loss, parameters)
for ours, theirs in zip([*of_weights.values(), *of_biases.values()], by_autograd, strict=True):
    torch.testing.assert_close(ours, theirs)
print(f"{sum(p.numel() for p in parameters)} derivatives agree")

# %% [markdown]
# ## Slips in the slides
#
# Each formula of the slides beside central differences. Seven fail as printed: the gradient of
# a weight belongs to the *child's* backward message and the *parent's* forward message; the order of the indices of W
# changes from slide to slide; *w* stands for *v* once; in the first layer it is plain *x*; the messages are sums before
# *h*, so *z = h(M)*; and the neural field leaves out its innermost *h*.

# %%
for row in check_formulas():
    right = row["printed_error"] if row["right_error"] is None else row["right_error"]
    assert right < 1e-7, row
    print(f"{row['formula']:<62} {row['printed_error']:.0e}", end="")
    print(f"   put right: {row['put_right']}, {right:.0e}" if row["put_right"] else "")
