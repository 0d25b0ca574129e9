# %% [markdown]
# # Forward and reverse mode
#
# Two ways to differentiate the code of a function of *d* numbers. Forward mode carries a direction along and gives one
# directional derivative for about the cost of the function. Reverse mode stores what the function computed, goes back
# through it, and gives all *d* partial derivatives at once; backpropagation is this.
#
# ```math
# \mathrm{forward:\ } \nabla f(w)^T e_i,\ \ \mathrm{one\ } i \mathrm{\ at\ a\ time}
# \mathrm{reverse:\ } \nabla f(w)
# \nabla^2 f(w)\, d = \frac{\partial}{\partial t} \nabla f(w + t d) \;\; \mathrm{at\ } t = 0
# ```

# %%
import matplotlib.pyplot as plt
import torch
from torch.func import grad, hessian, jvp
from torch.utils.flop_counter import FlopCounterMode

from experiments.lecture.differentiation import (
    forward_gradient,
    hessian_product,
    make_loss,
    remembered,
)

loss, point = make_loss(48, depth=3)
direction = torch.linspace(-1, 1, len(point), dtype=point.dtype)

# %% [markdown]
# ## The check
#
# *d* products in forward mode are the gradient of reverse mode, and forward over reverse is the product with the
# Hessian, which is never made.

# %%
torch.testing.assert_close(forward_gradient(loss, point), grad(loss)(point))
torch.testing.assert_close(
    hessian_product(loss, point, direction), hessian(loss)(point) @ direction
)

# %% [markdown]
# ## What each costs
#
# Operations in matrix products, which are the same on every machine, over those of the function; and what reverse mode
# stores between its two passes. (Times are in
# [the experiment](../../experiments/lecture/README.md#forward-and-reverse-mode).)


# %%
def operations(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def costs(loss, point):
    direction = torch.ones_like(point)
    calls = {
        "reverse mode, the gradient": lambda: grad(loss)(point),
        "forward mode, one direction": lambda: jvp(loss, (point,), (direction,)),
        "Hessian times a vector": lambda: hessian_product(loss, point, direction),
    }
    function = operations(lambda: loss(point))
    found = {name: operations(call) / function for name, call in calls.items()}
    found["forward mode, the gradient"] = len(point) * found["forward mode, one direction"]
    return found


sizes = [48, 192, 768, 3072]
found = [costs(*make_loss(size, depth=3)) for size in sizes]
depths = [3, 6, 12, 24, 48]
stored = [remembered(*make_loss(768, depth=depth)) / 1e6 for depth in depths]
for name, cost in found[-1].items():
    print(f"{name:<28}{cost:8.1f}")
assert found[-1]["reverse mode, the gradient"] < 4  # whatever the number of parameters
assert found[-1]["forward mode, the gradient"] > 3072  # one product for each
assert stored == sorted(stored)

# %% Left: costs over the number of parameters, where only the forward gradient grows; right: memory over depth
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name in found[0]:
    left.loglog(sizes, [one[name] for one in found], "o-", label=name)
left.set(xlabel="parameters d", ylabel="operations / those of the function")
left.legend(fontsize=8)
right.plot(depths, stored, "o-")
right.set(
    xlabel="layers, 768 parameters in all", ylabel="stored by reverse mode, MB", ylim=(0, None)
)
