"""Prefixes of frozen backbones kept on the learner's disk (docs/adr/0024)."""

from dataclasses import dataclass
from pathlib import Path

from lwd.algos.lwd import LWD
from lwd.algos.protocol import Algorithm, Metrics
from lwd.algos.recap import Recap
from lwd.algos.sft import SFT
from lwd.data.row_table import RowTable
from lwd.errors import ConfigError
from lwd.models.flow_policy import FlowPolicy


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """A setting of one process, not of the stage: a stage may be continued with another one, or without."""

    gigabytes: float
    """Of each learner process; 10^9 bytes."""
    directory: Path

    def open_for(self, algorithm: Algorithm, *, batch_size: int, rank: int = 0) -> RowTable:
        """Let an algorithm's policies look their prefixes up; to be called when they are on their device.

        Args:
            batch_size: of an update.
            rank: of the process: each has a table of its own.
        Raises:
            ConfigError: if the prefixes change in training, the budget holds less than a batch, or another process has
                the table open.
            StoreError: if the disk has no space for the budget.
        """
        try:
            prefixes = [policy.frozen_prefix() for policy in _readers(algorithm)]
            table = RowTable(
                self.directory / f"{rank}.rows",
                row_bytes=max(prefix.row_bytes for prefix in prefixes),
                budget_bytes=int(self.gigabytes * 1e9),
                # They have one backbone between them.
                content=prefixes[0].fingerprint(),
                at_least=batch_size,
            )
        except ConfigError as error:
            raise ConfigError(f"--prefix-cache is {self.gigabytes:g} (GB), but {error}; or leave it out") from error
        for prefix in prefixes:
            prefix.keep_in(table)
        return table


def prefix_metrics(table: RowTable | None) -> Metrics:
    """What to report about a table: look-ups since the process began, and what is kept."""
    if table is None:
        return {}
    return {
        "prefixes/hits": float(table.hits),
        "prefixes/misses": float(table.misses),
        "prefixes/rows": float(len(table)),
        "prefixes/bytes": float(table.kept_bytes),
    }


def _readers(algorithm: Algorithm) -> list[FlowPolicy]:
    """The policies that read states during an update."""
    if isinstance(algorithm, LWD):
        imitating = [] if algorithm.imitation is None else [algorithm.imitation.policy]
        return [algorithm.policy, algorithm.reference, *imitating]
    if isinstance(algorithm, SFT):
        return [algorithm.policy]
    if isinstance(algorithm, Recap):
        return [algorithm.policy.policy]
    raise ConfigError(f"{type(algorithm).__name__} is not known to read states with a frozen backbone")
