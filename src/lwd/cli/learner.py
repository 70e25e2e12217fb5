"""Learn online: train on offline and fleet data at 1:1, publish a policy every 50 updates, checkpoint.

Killed at any moment, it continues from its last checkpoint on the same snapshots in the same order.

Several processes train as one, with one batch each:

    lwd learner --run RUN --processes 2

When one of them dies, all start again from the last checkpoint. To stop, signal this process. They find each other in a
private directory and talk over loopback. Several machines need a private network, and every machine the store and the
run's finished stages (rank 0 keeps the checkpoints); on each, with its own --host-rank (0, 1, ...):

    lwd learner --run RUN --processes 2 --hosts 2 --host-rank 0 --rendezvous 10.0.0.1:29400

Whoever reaches that address, or another port of these processes on that network, can read the training data and the
weights, alter the training, and put weights of their own into the policy that robots get: nothing is encrypted or
authenticated there. Public addresses and 0.0.0.0 are refused.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import (
    BudgetOption,
    DeviceOption,
    EnvStepsOption,
    MethodOption,
    QuantileLevelOption,
    RunOption,
    SeedOption,
    ThreadsOption,
    console,
    require_device,
    run_at,
)
from lwd.cli.prefix_options import PrefixCacheOption, PrefixDirectoryOption, cache_of
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.learner.online import OnlineStage
from lwd.learner.parallel import TIMEOUT_S, group_from_environment
from lwd.learner.rendezvous import member_from_environment
from lwd.recipes.fleet_learner import LearnerConfig, run_learner, with_fleet
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.learner_processes import LearnerProcesses, run_processes
from lwd.recipes.methods import with_method
from lwd.recipes.scene import recipe


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 1,
    env_steps: EnvStepsOption = None,
    method: MethodOption = "lwd",
    quantile_level: QuantileLevelOption = None,
    max_seconds: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help="seconds after which the stage is over; None: no limit")
    ] = None,
    arena_directory: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="PATH", help="local directory for the replay's rows, if they are more than the memory; None: memory"
        ),
    ] = None,
    prefix_cache: PrefixCacheOption = None,
    prefix_directory: PrefixDirectoryOption = None,
    processes: Annotated[int, tyro.conf.arg(help="processes of this machine that train as one")] = 1,
    hosts: Annotated[int, tyro.conf.arg(help="machines with so many processes each that train as one")] = 1,
    host_rank: Annotated[int, tyro.conf.arg(help="number of this machine among them, from 0")] = 0,
    rendezvous: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ADDRESS:PORT",
            help="with --hosts: private address of machine 0 (a number, not a name), open to whoever reaches it; "
            "None: one machine",
        ),
    ] = None,
    max_restarts: Annotated[int, tyro.conf.arg(help="with --processes: restarts of all after one was lost")] = 3,
    group_timeout_s: Annotated[
        float,
        tyro.conf.arg(help="with --processes: seconds after which a process that does not answer counts as lost"),
    ] = TIMEOUT_S,
    no_bus: Annotated[
        bool, tyro.conf.arg(help="only follow the store, without a message bus; robots look there for policies, too")
    ] = False,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    group_of = LearnerProcesses(
        processes=processes, hosts=hosts, host_rank=host_rank, rendezvous=rendezvous, max_restarts=max_restarts
    )
    if group_of.size > 1 and member_from_environment() is None:
        with StopRequest() as request:
            # Each process runs this very command line, and finds its place in its environment.
            run_processes(group_of, (sys.executable, "-m", "lwd", *sys.argv[1:]), stop=lambda: request.stop)
        return
    whole = with_fleet(recipe(budget), robots=None, env_steps=env_steps, world=None)
    settings = with_method(whole, method, quantile_level=quantile_level)

    def say(stage: OnlineStage) -> None:
        progress = stage.progress
        console.print(
            f"update {progress.update}  snapshot {progress.snapshot}  policy {progress.policy_version}  "
            f"fleet steps {stage.reader.env_steps}/{settings.fleet.env_steps}",
            highlight=False,
        )

    # In this order: a process that still waits for the others has nothing to save, and ends at once.
    with group_from_environment(device, timeout_s=group_timeout_s) as (group, own_device), StopRequest() as request:
        config = LearnerConfig(
            seed=seed,
            device=require_device(own_device),
            threads=threads,
            on_bus=not no_bus,
            max_seconds=max_seconds,
            arena_directory=arena_directory,
            prefix_cache=cache_of(prefix_cache, prefix_directory, run),
        )
        stage = run_learner(run_at(run, where), settings, config, stop=lambda: request.stop, report=say, group=group)
    if not stage.progress.finished:
        raise KeyboardInterrupt
