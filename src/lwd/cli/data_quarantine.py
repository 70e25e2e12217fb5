"""Uploads that the coordinator refused, each with its reason; none of them is in the replay.

The objects stay in the store until they are older than the age limit of `lwd data retain`.
"""

from pathlib import Path

from lwd.cli.data_options import print_json, print_table, store_at
from lwd.cli.options import JsonOption, RunOption, console, next_step
from lwd.data.quarantine import read_quarantine
from lwd.data.selection import time_in_words


def run(run: RunOption = Path("runs/demo"), json_output: JsonOption = False) -> None:
    records = sorted(read_quarantine(store_at(run)), key=lambda record: record.quarantined_at_s)
    if json_output:
        print_json([record.model_dump(mode="json") for record in records])
        return
    if records:
        rows = [(time_in_words(record.quarantined_at_s), record.key, record.reason) for record in records]
        print_table(["refused", "object", "reason"], rows)
    console.print(f"{len(records)} objects are quarantined")
    if records:
        next_step("repair what the reasons name, and record the episodes again: an id that was refused stays refused")
