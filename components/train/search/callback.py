"""The listener that Ray Tune calls in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ray.tune import Callback

if TYPE_CHECKING:
    from components.train.search.trials import Watcher


class Listener(Callback):  # type: ignore[misc]
    """Passes on what Ray Tune says of trials.

    Ray stores its callbacks with the search and brings them back with it, so this one holds nothing: the
    watcher of the process at hand is the class's.
    """

    watcher: ClassVar[Watcher | None] = None

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Hear of an epoch."""
        if self.watcher is not None:
            self.watcher.heard(int(trial.config["trial"]), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Hear of an end."""
        if self.watcher is not None:
            self.watcher.ended(int(trial.config["trial"]), trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Hear of a failure."""
        if self.watcher is not None:
            self.watcher.ended(int(trial.config["trial"]), None)
