"""Print what one user of a NATS server elsewhere needs to be allowed, and nothing more.

With these rights no robot can speak for another, read its commands or answer them, and only the learner announces
policies. The user's name is its name with the server: answers come to the inbox of that name.
"""

import json
from typing import Annotated, Literal

import tyro

from lwd.fleet.rights import Role, rights_of


def run(
    role: Annotated[Role, tyro.conf.arg(help="what the user runs; a robot is one host (`lwd robot`) with its robots")],
    user: Annotated[str, tyro.conf.arg(help="its name with the server, one name for each process")],
    host: Annotated[str, tyro.conf.arg(help="of a robot: its --host; empty: the user's name")] = "",
    robots: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="ID [ID ...]", help="of a robot: the host's robots; of an operator: whom they may drive"),
    ] = (),
    format: Annotated[  # the option's name
        Literal["config", "jwt", "nsc"],
        tyro.conf.arg(help="a block of the server's configuration, the claims of a JWT, or a command of NATS's nsc"),
    ] = "config",
) -> None:
    rights = rights_of(role, user, host=host, robots=robots)
    match format:
        case "config":
            print(rights.as_config())
        case "jwt":
            print(json.dumps(rights.as_claims(), indent=2))
        case "nsc":
            print(rights.as_nsc(user))
