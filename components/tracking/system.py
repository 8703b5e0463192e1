"""How busy this machine is, under the names that MLflow's page "System metrics" shows.

MLflow measures; its own thread is not used, because it ends for good when the store is away once.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from components.tracking.tracker import Tracker

_SAMPLE_SECONDS = 10.0
_SAMPLES = 3  # whose mean is logged


class SystemMetrics:
    """Processor, memory, disk, network and GPUs of this machine; call `sample` now and then."""

    def __init__(self, tracker: Tracker) -> None:
        """Prepare to log into a run; the step is the number of seconds since the run began."""
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        self._tracker = tracker
        self._began = tracker.began
        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(ImportError, RuntimeError):  # what MLflow raises without a GPU or nvidia-ml-py
            self._monitors.append(GPUMonitor())
        self._samples = 0
        self._next = 0.0

    def sample(self) -> None:
        """Measure if it is time to, and log the mean of the last few measurements when there are enough."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SAMPLE_SECONDS
        for monitor in self._monitors:
            monitor.collect_metrics()
        self._samples += 1
        if self._samples % _SAMPLES:
            return
        means = {}
        for monitor in self._monitors:
            means.update({f"system/{name}": value for name, value in monitor.aggregate_metrics().items()})
            monitor.clear_metrics()
        self._tracker.log_metrics(means, step=round(time.time() - self._began))
