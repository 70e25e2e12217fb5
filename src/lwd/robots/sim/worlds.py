"""The worlds a simulated robot can stand in: the nominal one and deployment shifts."""

from dataclasses import dataclass

from lwd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that may differ between the world that demonstrations come from and a deployment."""

    name: str
    cube_offset_m: tuple[float, float] = (0.0, 0.0)
    """Added to the cube's nominal start."""
    cube_spread_m: float = 0.03
    """Half width of the square that the cube's start is drawn from."""
    cube_mass_scale: float = 1.0
    friction_scale: float = 1.0
    """Scales the sliding friction of the cube and the gripper's pads."""
    slide_friction_scale: float = 1.0
    """Scales the dry friction of drawer and window."""
    action_latency_steps: int = 0
    """Control steps between a command and its execution."""
    action_noise: float = 0.0
    """Standard deviation of Gaussian actuation noise, in action units."""
    camera_offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World(name="nominal"),
        World(
            name="shifted",
            cube_offset_m=(0.03, -0.01),
            cube_spread_m=0.04,
            cube_mass_scale=2.0,
            friction_scale=0.8,
            slide_friction_scale=1.5,
            action_latency_steps=1,
            action_noise=0.05,
            camera_offset_m=(0.05, 0.04, 0.03),
        ),
    )
}


def world_named(name: str) -> World:
    """Return the world of that name.

    Raises:
        ConfigError: if there is no such world.
    """
    if name not in WORLDS:
        raise ConfigError(f"world {name!r} is not known; the worlds of ogbench-scene are: {', '.join(WORLDS)}")
    return WORLDS[name]
