"""Remove from the store what nobody needs any more. Without --apply it only shows what would go, and why.

What may go: objects of episodes that were revoked long enough ago and that no running learner may still read,
old quarantined objects, policies and indexes beyond the newest ones, and leftovers. What never goes: the log,
committed episodes, and uploads that are not judged yet. Safe while the fleet runs, and to kill and repeat.
A learner that is stopped holds nothing: a checkpoint from before a revocation can be continued as long as the
revoked episodes are there (--revoked-days).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import print_json, print_table, size_in_words, store_at
from lwd.cli.options import JsonOption, RunOption, console, next_step, progress, status
from lwd.data.retention import Kind, RetentionPlan, RetentionRules, apply_retention, plan_retention


def run(
    run: RunOption = Path("runs/demo"),
    apply: Annotated[bool, tyro.conf.arg(help="remove it; otherwise it is only shown")] = False,
    revoked_days: Annotated[
        float, tyro.conf.arg(help="how long the objects of revoked episodes stay after the revocation")
    ] = 7.0,
    quarantined_days: Annotated[float, tyro.conf.arg(help="how long quarantined objects and their reasons stay")] = 30,
    policy_days: Annotated[float, tyro.conf.arg(help="policies younger than this stay, however many there are")] = 1.0,
    keep_policies: Annotated[int, tyro.conf.arg(help="so many of the newest policies stay, and their parents")] = 20,
    keep_indexes: Annotated[int, tyro.conf.arg(help="so many of the newest Parquet indexes stay")] = 3,
    json_output: JsonOption = False,
) -> None:
    store = store_at(run)
    rules = RetentionRules(
        revoked_days=revoked_days,
        quarantined_days=quarantined_days,
        policy_days=policy_days,
        keep_policies=keep_policies,
        keep_indexes=keep_indexes,
    )
    plan = plan_retention(store, rules)
    if apply:
        if any(not lease.live for lease in plan.readers):
            status.print("a reader's lease has expired: watching for 45 s whether it is renewed")
        with progress("retain") as bar:
            plan = apply_retention(store, rules, on_removed=bar)
    if json_output:
        print_json(_as_json(plan, applied=apply))
        return
    _print(plan, applied=apply)
    if not apply and plan.removals:
        next_step("the same command with --apply removes them")


def _print(plan: RetentionPlan, *, applied: bool) -> None:
    amounts = plan.amounts()
    rows = [
        (kind, amounts[kind][0], size_in_words(amounts[kind][1]), why)
        for kind, why in _reasons(plan.rules).items()
        if amounts[kind][0]
    ]
    if rows:
        print_table(["removed" if applied else "would go", "objects", "size", "why"], rows, numbers=["objects", "size"])
    if plan.readers:
        print_table(
            ["reader", "at version", "renewed", "keeps revoked episodes"],
            [
                (
                    lease.reader_id,
                    lease.version,
                    f"{lease.age_s:.0f} s ago" + ("" if lease.live else " (expired)"),
                    sum(item.version > lease.version for item in plan.held),
                )
                for lease in plan.readers
            ],
            numbers=["at version", "keeps revoked episodes"],
        )
    total, size = len(plan.removals), sum(item.size_bytes for item in plan.removals)
    done = "removed" if applied else "would be removed"
    console.print(f"{total} objects, {size_in_words(size)} {done}; {len(plan.held)} are kept for readers")


def _reasons(rules: RetentionRules) -> dict[Kind, str]:
    return {
        Kind.REVOKED: f"revoked {rules.revoked_days:g} days ago or earlier, no reader may need them",
        Kind.QUARANTINED: f"refused {rules.quarantined_days:g} days ago or earlier",
        Kind.POLICY: f"{rules.policy_days:g} days old, beyond the newest {rules.keep_policies} and their parents",
        Kind.INDEX: f"beyond the newest {rules.keep_indexes}",
        Kind.PROBE: "left by a process that was killed",
        Kind.READER: "not renewed, and watched",
        Kind.RELABELLED: "of a console that was killed",
    }


def _as_json(plan: RetentionPlan, *, applied: bool) -> dict[str, object]:
    return {
        "applied": applied,
        "version": plan.version,
        "rules": asdict(plan.rules),
        "removals": [asdict(item) for item in plan.removals],
        "held": [item.episode.entry.identity for item in plan.held],
        "readers": [asdict(lease) for lease in plan.readers],
    }
