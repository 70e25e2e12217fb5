"""The commands that `lwd up` starts."""

from lwd.recipes.fleet_up import FleetUp, processes
from lwd.recipes.run_directory import RunDirectory


def test_further_options_reach_the_learner_and_every_robot_host(tmp_path):
    fleet = FleetUp(
        budget="smoke",
        robots=3,
        hosts=2,
        env_steps=10,
        world="nominal",
        robot_options=("--gym", "metaworld-mt10"),
        learner_options=("--prefix-cache", "20"),
    )
    commands = {spec.name: spec.command for group in processes(RunDirectory(tmp_path), fleet) for spec in group}
    assert list(commands) == ["coordinator", "learner", "host-0", "host-1"]
    assert commands["learner"][-2:] == ("--prefix-cache", "20")
    for name, robots in (("host-0", ["robot-00", "robot-02"]), ("host-1", ["robot-01"])):
        assert commands[name][-2:] == ("--gym", "metaworld-mt10")
        first = commands[name].index("--robots") + 1
        assert list(commands[name][first:-2]) == robots
    assert "--prefix-cache" not in commands["coordinator"] + commands["host-0"]
