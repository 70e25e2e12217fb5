"""What a process and all its children listen on, as the kernel says."""

from pathlib import Path

from lwd.learner.interfaces import Address, listening_addresses


def family(pid: int) -> set[int]:
    """The living processes that a process started, and it."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = {pid}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def listening(pid: int) -> list[tuple[str, Address, int]]:
    """(name, address, port) of everything that the family of a process listens on."""
    found = []
    for member in sorted(family(pid)):
        try:
            name = Path(f"/proc/{member}/comm").read_text().strip()
        except OSError:
            continue
        found += [(f"{name} {member}", address, port) for address, port in listening_addresses(member)]
    return found
