"""What a refresh reads of users' states, as it was at one moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core import interests
from streamer.core.interests import Decay
from streamer.core.window import Rows


class StateView:
    """n users at one moment each (a user may occur at several), apart from the states that go on changing."""

    def __init__(
        self,
        heads: NDArray[np.void],
        activity: NDArray[np.int64],
        seen: tuple[Rows, NDArray[np.uint64]],
        recent: NDArray[np.uint64],
        decay: Decay,
    ) -> None:
        """heads (n,), activity (n, 3, 32), seen: positions (m,) and item hashes (m,), recent (n, R): see UserStates."""
        self.heads, self._activity, self.seen, self.recent, self._decay = heads, activity, seen, recent, decay

    @classmethod
    def join(cls, views: Sequence[StateView]) -> StateView:
        """One view after the other."""
        if len(views) == 1:
            return views[0]
        first = np.cumsum([0, *(len(view.heads) for view in views)])
        return cls(
            np.concatenate([view.heads for view in views]),
            np.concatenate([view._activity for view in views]),
            (
                np.concatenate([view.seen[0] + at for view, at in zip(views, first, strict=False)]),
                np.concatenate([view.seen[1] for view in views]),
            ),
            np.concatenate([view.recent for view in views]),
            views[0]._decay,
        )

    def activity(self, users: Rows) -> NDArray[np.int64]:
        """As UserStates.activity."""
        return self._activity[users]

    def interests(self, users: Rows) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
        """As UserStates.interests."""
        heads = self.heads
        return interests.decayed(
            heads["interests"][users], heads["interests_time"][users], heads["watermark"][users], self._decay
        )
