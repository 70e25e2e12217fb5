"""Write the newest snapshot as a Parquet table now: one row per episode, for any SQL engine.

Columns: episode_id, robot_id, task, instruction, source, outcome, world, policy_version, steps, human_steps,
interventions, sub_step_scores, control_hz, started_at_s, uploaded_at_s, committed_at_s (Unix seconds), version, and
the object's key, bytes and sha256. Revoked episodes are not in it. The coordinator writes one every 256 versions;
each holds everything up to its version, so query only the newest one. Success by task with DuckDB:

duckdb -c "SELECT task, count(*) AS episodes, avg((outcome = 'success')::INT) AS success FROM 'episodes.parquet' GROUP BY task ORDER BY task"
"""  # noqa: E501  (one line, to be copied)

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import store_at
from lwd.cli.options import RunOption, console, next_step
from lwd.data import durable
from lwd.data.log import index_of
from lwd.data.log_index import index_key
from lwd.data.revocation import newest_log
from lwd.data.store import get_or_none
from lwd.errors import ObjectExists


def run(
    run: RunOption = Path("runs/demo"),
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE.parquet", help="local file to write; None: the store, as index/VERSION.parquet"),
    ] = None,
) -> None:
    store = store_at(run)
    snapshot = newest_log(store).snapshot
    data = index_of(snapshot)
    where = index_key(snapshot.version) if out is None else str(out)
    if out is not None:
        durable.replace(out.absolute(), data)
    elif get_or_none(store, where) is None:
        try:
            store.create(where, data)
        except ObjectExists:
            console.print(f"{where} is there already")
    console.print(f"{len(snapshot.episodes)} episodes of version {snapshot.version}: {where}", soft_wrap=True)
    file = out or "FILE"
    next_step(f"duckdb -c \"SELECT task, count(*), avg((outcome = 'success')::INT) FROM '{file}' GROUP BY task\"")
