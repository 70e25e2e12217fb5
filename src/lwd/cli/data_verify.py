"""Check every object of a run's store: identity, log, episodes, indexes, policies, quarantine. Exit status 1 if anything is wrong.

Without options it only reads, and may run beside the fleet. --repair sets damaged objects aside (below damaged/ in the
store) and makes again what can be: log entries that an index covers, indexes, the identity. Stop the fleet before, and
start it afterwards. --accept-restored is for a store that is not the one the run knew (restored from an older copy):
the run goes on with it as it is; what was committed since that copy is lost unless robots still have it.
"""  # noqa: E501  (its first line is the summary)

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import print_json, print_table
from lwd.cli.options import JsonOption, RunOption, console, next_step, progress, run_at
from lwd.data.log_head import KnownEntry, log_key, sha256_of_entry
from lwd.data.repair import repair_store
from lwd.data.run_store import open_run_store
from lwd.data.verify import Verification, verify_store
from lwd.errors import ConfigError, StoreError
from lwd.recipes.accepted_store import accept_store


def run(
    run: RunOption = Path("runs/demo"),
    repair: Annotated[bool, tyro.conf.arg(help="repair what can be; otherwise it is only said")] = False,
    fill_holes: Annotated[
        bool,
        tyro.conf.arg(
            help="with --repair: an entry without episodes for each log version that nothing can make again; its "
            "episodes are committed again, what it revoked must be revoked again"
        ),
    ] = False,
    accept_restored: Annotated[
        bool, tyro.conf.arg(help="go on with the store as it is, though the run knew another one or a newer log")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    if fill_holes and not repair:
        raise ConfigError("fill_holes is given without repair: give --repair, too")
    directory = run_at(run)
    if accept_restored:
        if repair:
            raise ConfigError("accept_restored and repair are given together: repair first, then accept")
        accepted = accept_store(directory, getpass.getuser())
        for path in accepted.set_aside:
            console.print(f"set aside: {path}; the learner begins its online stage again", soft_wrap=True)
        console.print(
            f"run {run} goes on with store {accepted.store_id[:12]} after version {accepted.version} (it knew version "
            f"{accepted.known_version}). Start all processes again. On robots of other machines, if they say that "
            "it is another store: delete RUN/spool/store.json there",
            soft_wrap=True,
        )
        return
    store = open_run_store(run, directory.store_config)
    identity, known = store.note.known(), store.log_note.read()
    with progress("verify") as bar:
        found = verify_store(store.inner, identity=identity, known=known, fill_holes=fill_holes, on_checked=bar)
    done: list[str] = []
    if repair and found.replacements:
        done = repair_store(store.inner, found.replacements)
        if known is not None and (made := found.replacements.get(log_key(known.version))) is not None:
            known = KnownEntry(version=known.version, sha256=sha256_of_entry(made))
            store.log_note.write(known)
        with progress("verify again") as bar:
            found = verify_store(store.inner, identity=identity, known=known, on_checked=bar)
    _report(found, done, json_output)
    if found.problems:
        names = ", ".join(problem.key for problem in found.problems[:3])
        more = " ..." if len(found.problems) > 3 else ""
        raise StoreError(
            f"{len(found.problems)} objects of {store} are wrong: {names}{more}; the remedy is beside each"
        )


def _report(found: Verification, done: list[str], json_output: bool) -> None:
    if json_output:
        print_json(
            {
                "version": found.version,
                "episodes": found.episodes,
                "objects": found.objects,
                "repaired": done,
                "problems": [asdict(problem) for problem in found.problems],
            }
        )
        return
    for line in done:
        console.print(line, soft_wrap=True)
    if found.problems:
        rows = [(problem.key, problem.what, problem.remedy) for problem in found.problems]
        print_table(["object", "what is wrong", "what to do"], rows)
        if any(problem.repairable for problem in found.problems):
            next_step("stop the fleet; the same command with --repair does what it can")
    console.print(f"{found.objects} objects, {found.episodes} episodes of version {found.version} were checked")
