"""What friends say about a user: graph convolution over the social graph and the user–item graph.

Sources
- Embeddings smoothed over the normalised graph, the layers averaged, no weights and no non-linearity in between: LightGCN,
  He et al. 2020, arXiv:2002.02126; with friends as further edges: DiffNet, Wu et al. 2019, arXiv:1904.10322.
- Each item a user took against all that occur (or a sample), a softmax, in place of BPR's single negative.

Axes: U users, N items, V = U + N vertices, D the vector, B events of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_export.interactions import NONE, Interactions
from streamer.core.event_types import EventTypes
from streamer.core.hashing import user_hash
from streamer.core.manifest import CONTENT_DIM
from streamer.errors import DataError

F32 = NDArray[np.float32]
CANDIDATES = 8192
"""Items that a step's events compete with; of a larger catalogue a new sample in every step, and the items of the batch."""
USER_ITEM = "user:"
"""Begins the name of what stands for a user where items and texts stand."""


@dataclass(frozen=True)
class GraphConfig:
    """What shapes the graph's vectors."""

    dim: int = 64
    layers: int = 2
    friends: float = 1.0
    """Weight of an edge between friends; an event's edge weighs as much as its type, several of a pair add up."""
    epochs: int = 12
    batch_events: int = 4096
    learning_rate: float = 0.02
    temperature: float = 0.15
    edge_dropout: float = 0.1
    seed: int = 7
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "epochs", "batch_events", "threads"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.friends < 0 or not 0 <= self.edge_dropout < 1:
            raise DataError(
                f"friends is {self.friends} and edge_dropout {self.edge_dropout}: they must lie in [0, inf) and [0, 1)"
            )


@dataclass(frozen=True)
class GraphVectors:
    """Users and items in one space: their cosines say how well they go together."""

    users: F32
    """(U, D) of length 1; zeros for a user with neither an event nor a friend that has one, directly or over friends."""
    items: F32
    """(N, D) of length 1; zeros for an item without an event."""
    popularity: F32
    """(N,) bias that was learned beside the cosines."""


def graph_vectors(
    data: Interactions,
    types: EventTypes,
    config: GraphConfig | None = None,
    watch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> GraphVectors:
    """Vectors from the events and `data.friends`. Give only the events before the cut. Raises DataError without any item."""
    config = config or GraphConfig()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return _Convolution(data, types, config).run(watch)
    finally:
        torch.set_num_threads(threads)


class _Convolution:
    def __init__(self, data: Interactions, types: EventTypes, config: GraphConfig) -> None:
        self.config, self.u, self.n = config, len(data.users), len(data.items)
        rows = np.flatnonzero(data.item != NONE)
        if not len(rows):
            raise DataError("no event has an item: there is no graph to learn from")
        self.user, self.item = data.user[rows], data.item[rows]
        self.occurring = np.unique(self.item)
        keys, place = np.unique(self.user * self.n + self.item, return_inverse=True)
        weight = np.bincount(place, data.weights(types)[rows])
        taken = np.stack([keys // self.n, self.u + keys % self.n])  # (2, pairs) of vertices
        friends = data.friends.T if config.friends else np.zeros((2, 0), np.int64)
        self.edges = np.concatenate([taken, friends], axis=1)
        self.weights = np.concatenate([np.log1p(weight), np.full(friends.shape[1], config.friends)])
        self.rng = np.random.default_rng(config.seed)

    def run(self, watch: Callable[[int, float], None]) -> GraphVectors:
        config = self.config
        start = nn.Parameter(torch.randn(self.u + self.n, config.dim) * 0.1)
        bias = nn.Parameter(torch.zeros(self.n))
        optimiser = torch.optim.Adam([start, bias], lr=config.learning_rate)
        steps = -(-len(self.user) // config.batch_events)
        for epoch in range(config.epochs):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + np.cos(np.pi * epoch / config.epochs))
            total, graph = 0.0, self._graph(config.edge_dropout)
            for batch in np.array_split(self.rng.permutation(len(self.user)), steps):
                users, items = self._split(self._convolve(graph, start))
                rows = self._candidates(self.item[batch])  # (C,), sorted
                of = functional.normalize(users[torch.from_numpy(self.user[batch])], dim=-1)  # (B, D)
                among = functional.normalize(items[torch.from_numpy(rows)], dim=-1)  # (C, D)
                logits = of @ among.T / config.temperature + bias[torch.from_numpy(rows)]  # (B, C)
                taken = torch.from_numpy(np.searchsorted(rows, self.item[batch]))
                loss = functional.cross_entropy(logits, taken)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                total += float(loss.detach()) * len(batch)
            watch(epoch + 1, total / len(self.user))
        with torch.inference_mode():
            whole = self._graph(0.0)
            users, items = self._split(self._convolve(whole, start))
            reached = self._reached(whole)
            vectors = functional.normalize(users, dim=-1) * reached[: self.u, None]
            taken = functional.normalize(items, dim=-1) * reached[self.u :, None]
        return GraphVectors(vectors.numpy(), taken.numpy(), bias.detach().numpy())

    def _candidates(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(self.occurring) <= CANDIDATES:
            return self.occurring
        sample = self.rng.choice(self.occurring, CANDIDATES, replace=False)
        return np.union1d(sample, items)

    def _graph(self, dropout: float) -> Tensor:
        """(V, V) sparse, symmetric: D^-1/2 A D^-1/2, with a share of the edges left out."""
        kept = self.rng.random(len(self.weights)) >= dropout
        edges, weights = self.edges[:, kept], self.weights[kept]
        v = self.u + self.n
        degree = np.bincount(edges.ravel(), np.tile(weights, 2), minlength=v)
        scaled = weights / np.sqrt(degree[edges[0]] * degree[edges[1]])
        both = np.concatenate([edges, edges[::-1]], axis=1)
        return torch.sparse_coo_tensor(
            torch.from_numpy(both),
            torch.from_numpy(np.tile(scaled, 2).astype(np.float32)),
            (v, v),
            check_invariants=False,
        ).coalesce()

    def _convolve(self, graph: Tensor, start: Tensor) -> Tensor:
        """(V, D) → mean of the start and of each layer's smoothing (V, D)."""
        layer, total = start, start
        for _ in range(self.config.layers):
            layer = torch.sparse.mm(graph, layer)
            total = total + layer
        return total / (1 + self.config.layers)

    def _split(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        return vertices[: self.u], vertices[self.u :]

    def _reached(self, graph: Tensor) -> Tensor:
        """(V,) 1 where a vertex has an event, or one of the vertices within `layers` steps has."""
        near = torch.zeros(self.u + self.n, 1)
        near[torch.from_numpy(np.unique(self.user))] = 1
        near[self.u + torch.from_numpy(np.unique(self.item))] = 1
        for _ in range(self.config.layers):
            near = near + torch.sparse.mm(graph, near)
        return (near[:, 0] > 0).to(torch.float32)


def aligned(vectors: GraphVectors, to: GraphVectors) -> GraphVectors:
    """The vectors turned so that items lie where they lie in `to` (orthogonal Procrustes, Schönemann 1966).

    Two runs find the same cosines in different directions; a model that learned from one can only read the other turned.
    """
    both = vectors.items.any(1) & to.items.any(1)
    left, _, right = np.linalg.svd(vectors.items[both].T @ to.items[both])
    turn = (left @ right).astype(np.float32)
    return GraphVectors(vectors.users @ turn, vectors.items @ turn, vectors.popularity)


def as_content(vectors: F32, width: int = CONTENT_DIM, seed: int = 7) -> F32:
    """(U, D) → (U, width): the same cosines in the space of text vectors, in D directions drawn at random (D <= width).

    An item tower then serves users, too, and a text that is like none of them is hardly like any in these directions.
    """
    if vectors.shape[1] > width:
        raise DataError(
            f"graph vectors of {vectors.shape[1]} do not fit content of {width}: take a smaller dim"
        )
    turned, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, vectors.shape[1])))
    return np.ascontiguousarray(vectors @ turned.T.astype(np.float32))


def introduced(data: Interactions, known: NDArray[np.bool_], type_code: int) -> Interactions:
    """The log with one event more for each user of `known` (U,) who has events: at first, the user is met.

    That event has no item and the code of `follow`; its text is the user (row len(texts) + row of the user), whose content
    is the graph's vector (`as_content`), so that a state begins with what the graph knows. Later on the state of a user who
    follows another steps with the other's content in the same way.
    """
    never = np.iinfo(np.int64).max
    first = np.full(len(data.users), never)
    np.minimum.at(first, data.user, data.timestamp_ms)
    met = np.flatnonzero(known & (first < never))

    def joined(added: NDArray[Any], column: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([added.astype(column.dtype), column])

    return replace(
        data,
        user=joined(met, data.user),
        item=joined(np.full(len(met), NONE), data.item),
        type=joined(np.full(len(met), type_code), data.type),
        value=joined(np.zeros(len(met)), data.value),
        timestamp_ms=joined(first[met] - 1, data.timestamp_ms),
        text=joined(len(data.texts) + met, data.text),
        texts=[*data.texts, *(USER_ITEM + user for user in data.users)],
        weight=joined(np.zeros(len(met)), data.weight) if len(data.weight) else data.weight,
    )


@dataclass(frozen=True)
class Meeting:
    """Users introduced to a model: in the log that it learns from, and in what comes after."""

    log: Interactions
    """To train on; the second half of a user's history is that of another user, who is introduced."""
    then: F32
    """(U, D) vectors by which users are met in `log`."""
    now: F32
    """(U, D) vectors by which they are met from the end of the log on."""
    type_code: int

    def introduce(self, rest: Interactions) -> Interactions:
        """What comes after, each known user met first."""
        return introduced(rest, _known(self.now), self.type_code)

    @staticmethod
    def contents(texts: F32 | None, vectors: F32) -> F32:
        """(texts + U, 384): the contents of the events' texts, and of the users."""
        users = as_content(vectors)
        return users if texts is None else np.concatenate([texts, users])


def meet(past: Interactions, types: EventTypes, config: GraphConfig) -> Meeting:
    """Introductions for a log with friends.

    The vectors of a whole log would tell a model what it is to foresee. So the graph of the first half introduces users to
    the second; a user's first half stays a history of its own, without an introduction. Raises DataError for a log of one
    moment, and for event types without `follow`.
    """
    follow = types.by_name.get("follow")
    if follow is None:
        raise DataError(
            "there is no event type 'follow', by which users are met: add it to the table of event types"
        )
    half, later = past.split(0.5, config.seed)
    if later is None:
        raise DataError("all events share one timestamp: there is no earlier half to introduce users from")
    now = graph_vectors(past, types, config)
    then = aligned(graph_vectors(half, types, config), now)
    met = introduced(later, _known(then.users), follow.code)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(half, name), getattr(met, name)])
        for name in ("item", "type", "value", "timestamp_ms", "text", "weight")
    }
    log = replace(
        met,
        **columns,
        user=np.concatenate([half.user, met.user + len(past.users)]),
        users=[*past.users, *(f"{user}#2" for user in past.users)],
    )
    return Meeting(log, then.users, now.users, follow.code)


def _known(vectors: F32) -> NDArray[np.bool_]:
    """(U,) who has a vector."""
    return np.asarray(vectors.any(axis=1))


@dataclass(frozen=True)
class MetUsers:
    """Whom a model knows by the graph, as its artefact and its checkpoint hold them."""

    hashes: NDArray[np.uint64]
    """(U,) core.hashing.user_hash, ascending."""
    graph: F32
    """(U, D)"""
    type_code: int

    @classmethod
    def of(cls, users: Sequence[str], meeting: Meeting) -> MetUsers | None:
        """Those of `users` with a vector at the end of the log; None where nobody has one."""
        rows = np.flatnonzero(_known(meeting.now))
        hashes = np.array([user_hash(users[row]) for row in rows.tolist()], np.uint64)
        hashes, first = np.unique(hashes, return_index=True)
        return cls(hashes, meeting.now[rows[first]], meeting.type_code) if len(hashes) else None
