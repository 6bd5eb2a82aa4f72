"""The protocol of the literature: each user's last item is the test, the one before it the validation, all items are ranked.

`python -m model_export.leave_one_out --data ml-100k [training options]` prints the figures as JSON. History filtered, as the
served lists are: what a user has consumed is not ranked. Whole histories, every item of the catalogue, ties in time shuffled.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model_export.interactions import Interactions
from model_export.training import Trained, train
from model_export.training_config import Epoch, TrainingConfig
from model_export.validation import HeldOut, judge, summary
from streamer.core.event_types import EventTypes

F32 = NDArray[np.float32]


def leave_one_out(
    data: Interactions,
    content: F32,
    types: EventTypes,
    config: TrainingConfig,
    *,
    texts: F32 | None = None,
    watch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Trained, dict[str, float]]:
    """Train on all but each user's last two items → the model, and its quality on the last ones.

    `data` in time order; `content` (N, 384) of all its items. The catalogue is the whole log's, as elsewhere in the
    literature: an item that only the test knows is ranked, and rarely found. The last-but-one items decide when to stop and
    are not trained on.
    """
    before, test = HeldOut.last_items(data, types)
    settled = replace(config, validation="last-item", validation_fraction=0.1, refit=False)
    trained = train(before, content, types, settled, texts=texts, watch=watch)
    return trained, summary(judge(trained.model, test, types, texts))


def main(argv: Sequence[str] | None = None) -> int:
    from model_export.log_options import add_log, read_event_types, read_log
    from model_export.run import encoded_texts
    from model_export.text_export import cached_encoder
    from model_export.training_options import add_training_options, training_config

    parser = argparse.ArgumentParser("model_export.leave_one_out", description=__doc__.partition("\n")[0])
    add_log(parser)
    add_training_options(parser)
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    config, types = training_config(args), read_event_types(args.event_types)
    data = read_log(args, types, console).in_time_order(config.seed)
    content, texts = encoded_texts(data, cached_encoder(args.cache))

    def watch(epoch: Epoch) -> None:
        console.print(
            f"epoch {epoch.number}: loss {epoch.loss:.3f} NDCG@10 {epoch.validation['ndcg_at_10']:.4f}"
        )

    trained, found = leave_one_out(data, content, types, config, texts=texts, watch=watch)
    figures = {f"test_{name}": value for name, value in found.items()}
    figures |= {f"validation_{name}": value for name, value in trained.validation.items()}
    print(json.dumps({**figures, "epochs": trained.epochs, "seconds": round(trained.seconds, 1)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
