"""How robots are driven by hand that do not say it themselves."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.driving import Driving, drive_axis
from lwd.errors import ConfigError
from lwd.types import Embodiment


class DrivingOptions(BaseModel):
    """The value of `lwd robot --driving`, for environments whose actions nobody has described."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    labels: tuple[str, ...] = ()
    """Of the action's numbers; empty: action 1, action 2, ..."""
    absolute: bool = False
    """Whether the action is a position."""
    measured: str | None = None
    """Name of the vector in its observation that holds the same numbers, if absolute; None: there is none."""
    speeds: tuple[float, ...] = Field(default=())
    """Of full deflection: if absolute units per second, else the action's number; empty: the usual ones."""

    @classmethod
    def read(cls, text: str) -> "DrivingOptions":
        """Read an option's value.

        Raises:
            ConfigError: if it is no JSON object, or a field is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the value"
            raise ConfigError(f"driving {text!r}: {field} is wrong ({first['msg']}): correct it") from error

    def of(self, embodiment: Embodiment) -> Driving:
        """Return how a robot is driven.

        Raises:
            ConfigError: if the options do not fit it.
        """
        size = embodiment.action_size
        for name, given in (("labels", self.labels), ("speeds", self.speeds)):
            if given and len(given) != size:
                raise ConfigError(f"driving has {len(given)} {name}; actions of {embodiment.name} have {size} numbers")
        if any(not speed > 0 for speed in self.speeds):
            raise ConfigError(f"driving has speeds {list(self.speeds)}; they must be above 0")
        first = self._first_measured(embodiment)
        axes = tuple(
            drive_axis(
                self.labels[number] if self.labels else f"action {number + 1}",
                low,
                high,
                absolute=self.absolute,
                speed=self.speeds[number] if self.speeds else None,
                measured=None if first is None else first + number,
            )
            for number, (low, high) in enumerate(zip(embodiment.action_low, embodiment.action_high, strict=True))
        )
        return Driving(control_hz=embodiment.control_hz, axes=axes)

    def _first_measured(self, embodiment: Embodiment) -> int | None:
        """Where in the state the positions begin."""
        if self.measured is None:
            return None
        if not self.absolute:
            raise ConfigError("driving names what measures its positions, but is not absolute: say so, or leave it out")
        begin = 0
        for token in embodiment.state_tokens:
            if token.name == self.measured:
                if token.size != embodiment.action_size:
                    raise ConfigError(
                        f"driving is measured by {token.name}, of {token.size} numbers; "
                        f"actions of {embodiment.name} have {embodiment.action_size}"
                    )
                return begin
            begin += token.size
        known = ", ".join(token.name for token in embodiment.state_tokens)
        raise ConfigError(f"driving is measured by {self.measured!r}; {embodiment.name} observes {known}")
