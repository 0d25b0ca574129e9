"""Other programs' Gibbs samplers on the same potentials: dwave-samplers, thrml, a loop in torch.

Each carries on many chains of one image's CRF; every update redraws one label given the others.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import networkx as nx
import numpy as np
import torch

from mlcrf.crf import Potentials, neighbours


class Work(NamedTuple):
    """Number of label updates and the time that they took."""

    updates: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Updates a second."""
        return self.updates / self.seconds


class Sampler(Protocol):
    """Chains of one CRF that can be carried on."""

    def run(self, sweeps: int) -> Work:
        """Redraw every label of every chain about so many times."""
        ...

    def states(self) -> np.ndarray:
        """Where the chains are: independent of each other, 0 or 1 (S, L)."""
        ...


class TorchLoop:
    """One label after the other for all chains at once, as one would write it in torch.

    Up to 128 labels a label's field is a product with its column of couplings, beyond it is
    gathered from its neighbours.
    """

    def __init__(self, potentials: Potentials, *, chains: int) -> None:
        self._unary = potentials.unary[0]
        num_labels = potentials.num_labels
        self._matrix = potentials.pairwise_matrix() if num_labels <= 128 else None
        starts, others, edge = neighbours(potentials.edges, num_labels)
        counts = starts.diff().tolist()
        self._rows = others.split(counts)
        self._weights = potentials.pairwise[edge].split(counts)
        self._y = torch.randint(2, (num_labels, chains)).float()

    def run(self, sweeps: int) -> Work:
        """Draws of a whole sweep at once, then label by label."""
        y = self._y
        began = perf_counter()
        for _ in range(sweeps):
            drawn = torch.rand_like(y)
            for label in range(len(y)):
                if self._matrix is not None:
                    field = self._unary[label] + self._matrix[label] @ y
                else:
                    field = self._unary[label] + self._weights[label] @ y[self._rows[label]]
                y[label] = drawn[label] < field.sigmoid()
        return Work(sweeps * y.numel(), perf_counter() - began)

    def states(self) -> np.ndarray:
        """The last ones."""
        return self._y.T.numpy().astype(np.uint8)


class Dwave:
    """`SimulatedAnnealingSampler` at temperature 1 with Gibbs acceptance, labels in order.

    One thread a core, each with reads of its own: it lets go of Python's lock while it samples.
    Only its own time of sampling counts, and the longest of any thread.
    """

    def __init__(self, potentials: Potentials, *, reads: int, threads: int, seed: int = 0) -> None:
        from dwave.samplers import SimulatedAnnealingSampler

        self._sampler, self._model = SimulatedAnnealingSampler(), to_spins(potentials)
        self._order = list(range(potentials.num_labels))
        self._threads, self._seed = threads, seed
        draws, shape = np.random.default_rng(seed), (reads, len(self._order))
        self._spins = [draws.choice(np.array([-1, 1], np.int8), shape) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def run(self, sweeps: int) -> Work:
        """Go on from the last states."""
        seeds = range(self._seed, self._seed + self._threads)
        self._seed += self._threads
        done = list(self._pool.map(self._read, seeds, self._spins, [sweeps] * self._threads))
        self._spins = [spins for spins, _ in done]
        updates = sweeps * sum(spins.size for spins in self._spins)
        return Work(updates, max(seconds for _, seconds in done))

    def states(self) -> np.ndarray:
        """The last ones of all threads."""
        return (np.concatenate(self._spins) > 0).astype(np.uint8)

    def _read(self, seed: int, spins: np.ndarray, sweeps: int) -> tuple[np.ndarray, float]:
        result = self._sampler.sample(
            self._model,
            num_reads=len(spins),
            initial_states=(spins, self._order),
            num_sweeps_per_beta=sweeps,
            beta_schedule_type="custom",
            beta_schedule=[1.0],
            proposal_acceptance_criteria="Gibbs",
            seed=seed,
        )
        order = np.argsort([int(label) for label in result.variables])
        seconds = result.info["timing"]["sampling_ns"] / 1e9
        return np.ascontiguousarray(result.record.sample[:, order]), seconds


class Thrml:
    """`sample_states` of thrml, compiled and warm; blocks are the colours of the graph.

    On a fully coupled graph that is a label a block. Sweeps come in calls of ten.
    """

    _SWEEPS = 10

    def __init__(self, potentials: Potentials, *, chains: int) -> None:
        logging.getLogger("jax").setLevel(logging.ERROR)
        import jax
        from jax import numpy as jnp
        from thrml import Block, SamplingSchedule, SpinNode, sample_states
        from thrml.models import IsingEBM, IsingSamplingProgram

        self._jax, model = jax, to_spins(potentials)
        pairs = list(map(tuple, potentials.edges.tolist()))
        nodes = [SpinNode() for _ in range(potentials.num_labels)]
        biases = jnp.array([-model.linear[label] for label in range(len(nodes))])
        weights = jnp.array([-model.quadratic[pair] for pair in pairs])
        edges = [(nodes[i], nodes[j]) for i, j in pairs]
        energy = IsingEBM(nodes, edges, biases, weights, jnp.array(1.0))
        graph = nx.Graph(pairs)
        graph.add_nodes_from(range(len(nodes)))
        colours = nx.greedy_color(graph, "DSATUR")
        self._parts: list[list[int]] = [[] for _ in range(max(colours.values()) + 1)]
        for label in range(len(nodes)):
            self._parts[colours[label]].append(label)
        blocks = [Block([nodes[label] for label in part]) for part in self._parts]
        program = IsingSamplingProgram(energy, blocks, [])
        schedule = SamplingSchedule(n_warmup=self._SWEEPS, n_samples=1, steps_per_sample=1)

        def carry_on(key: Any, states: list[Any]) -> list[Any]:
            keys = jax.random.split(key, chains)
            sample = jax.vmap(lambda k, y: sample_states(k, program, schedule, y, [], blocks))
            return [y[:, -1] for y in sample(keys, states)]

        self._carry_on, self._key = jax.jit(carry_on), jax.random.key(0)
        self._states = [jax.random.bernoulli(self._key, 0.5, (chains, len(b))) for b in self._parts]

    def run(self, sweeps: int) -> Work:
        """At least one call of ten sweeps."""
        calls = max(1, round(sweeps / self._SWEEPS))
        began = perf_counter()
        for _ in range(calls):
            self._key, key = self._jax.random.split(self._key)
            self._states = self._carry_on(key, self._states)
        self._jax.block_until_ready(self._states)
        seconds = perf_counter() - began
        return Work(calls * self._SWEEPS * self.states().size, seconds)

    def states(self) -> np.ndarray:
        """The last ones."""
        joined = np.concatenate([np.asarray(y) for y in self._states], 1)
        return joined[:, np.argsort(np.concatenate(self._parts))].astype(np.uint8)


def to_spins(potentials: Potentials) -> Any:
    """An image's model as dimod's over spins -1 and 1, whose energy is -log_score."""
    import dimod

    model = dimod.BinaryQuadraticModel("BINARY")
    model.add_linear_from({i: -float(u) for i, u in enumerate(potentials.unary[0])})
    pairs = zip(potentials.edges.tolist(), potentials.pairwise.tolist(), strict=True)
    model.add_quadratic_from((i, j, -coupling) for (i, j), coupling in pairs)
    return model.change_vartype("SPIN", inplace=False)


class PgmpyElimination:
    """Exact marginals of one image by pgmpy's variable elimination, a query a label."""

    def __init__(self, potentials: Potentials) -> None:
        self._model = to_network(potentials)

    def marginals(self) -> torch.Tensor:
        """P(y_i = 1) of every label (L,)."""
        from pgmpy.inference import VariableElimination

        return _ask(VariableElimination(self._model), self._model)

    def log_partition(self) -> torch.Tensor:
        """Log Z."""
        return torch.tensor(self._model.get_partition_function(), dtype=torch.float64).log()


class PgmpyBeliefPropagation(PgmpyElimination):
    """The same by pgmpy's belief propagation, calibrated once for all labels."""

    def marginals(self) -> torch.Tensor:
        """P(y_i = 1) of every label (L,)."""
        from pgmpy.inference import BeliefPropagation

        inference = BeliefPropagation(self._model)
        inference.calibrate()
        return _ask(inference, self._model)


def to_network(potentials: Potentials) -> Any:
    """An image's model as pgmpy's Markov network, a factor for each label and each edge."""
    from pgmpy.factors.discrete import DiscreteFactor
    from pgmpy.models import DiscreteMarkovNetwork

    network = DiscreteMarkovNetwork()
    names = [f"label {i}" for i in range(potentials.num_labels)]
    network.add_nodes_from(names)
    gains = potentials.unary[0].double().exp().tolist()
    for name, gain in zip(names, gains, strict=True):
        network.add_factors(DiscreteFactor([name], [2], [1, gain]))
    pulls = potentials.pairwise.double().exp().tolist()
    for (i, j), pull in zip(potentials.edges.tolist(), pulls, strict=True):
        network.add_edge(names[i], names[j])
        network.add_factors(DiscreteFactor([names[i], names[j]], [2, 2], [1, 1, 1, pull]))
    return network


def _ask(inference: Any, network: Any) -> torch.Tensor:
    """Normalised here: what belief propagation returns is not."""
    names = [f"label {i}" for i in range(len(network.nodes()))]
    values = [inference.query([name], show_progress=False).values for name in names]
    return torch.tensor([value[1] / value.sum() for value in values], dtype=torch.float64)
