"""Feetech servos at the end of a pseudo-terminal, so that LeRobot's own SO-101 driver runs as it is."""

import os
import pty
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

BROADCAST = 0xFE
PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
MODEL, TORQUE, GOAL, PRESENT, MIN_LIMIT, MAX_LIMIT = 3, 40, 42, 56, 9, 11
STS3215 = 777
MIDDLE = 2048


class Servo:
    def __init__(self) -> None:
        self.memory = bytearray(128)
        self.put(MODEL, STS3215)
        self.put(PRESENT, MIDDLE)
        self.put(GOAL, MIDDLE)
        self.put(MAX_LIMIT, 4095)
        self.dropped: list[int] = []
        """Where it was whenever it lost its torque."""

    def put(self, address: int, value: int) -> None:
        self.memory[address : address + 2] = value.to_bytes(2, "little")

    @property
    def torque(self) -> bool:
        return self.memory[TORQUE] != 0

    @property
    def position(self) -> int:
        return int.from_bytes(self.memory[PRESENT : PRESENT + 2], "little")

    def write(self, address: int, data: bytes) -> None:
        if address <= TORQUE < address + len(data) and self.torque and not data[TORQUE - address]:
            self.dropped.append(self.position)
        self.memory[address : address + len(data)] = data
        if address <= GOAL < address + len(data) and self.torque:
            self.memory[PRESENT : PRESENT + 2] = self.memory[GOAL : GOAL + 2]


class FeetechBus:
    """Answers the protocol's packets: FF FF, id, length, instruction, parameters, checksum."""

    def __init__(self, identifiers: range = range(1, 7)) -> None:
        self.servos = {identifier: Servo() for identifier in identifiers}
        self.silent = False
        """Whether its answers are lost."""
        self._mine, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        self.port = os.ttyname(self._theirs)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        waiting = b""
        while True:
            try:
                waiting += os.read(self._mine, 4096)
            except OSError:
                return
            while (begin := waiting.find(b"\xff\xff")) >= 0 and len(waiting) >= begin + 4:
                end = begin + 4 + waiting[begin + 3]
                if len(waiting) < end:
                    break
                packet, waiting = waiting[begin:end], waiting[end:]
                if packet == b"\xff\xff":
                    return
                self._obey(packet[2], packet[4], packet[5:-1])

    def _obey(self, identifier: int, instruction: int, data: bytes) -> None:
        if instruction == SYNC_WRITE:
            address, size = data[0], data[1]
            for at in range(2, len(data), size + 1):
                self.servos[data[at]].write(address, data[at + 1 : at + 1 + size])
        elif instruction == SYNC_READ:
            for one in data[2:]:
                self._answer(one, bytes(self.servos[one].memory[data[0] : data[0] + data[1]]))
        elif identifier in self.servos:
            servo = self.servos[identifier]
            if instruction == WRITE:
                servo.write(data[0], data[1:])
            answer = bytes(servo.memory[data[0] : data[0] + data[1]]) if instruction == READ else b""
            self._answer(identifier, answer)

    def _answer(self, identifier: int, data: bytes) -> None:
        if not self.silent:
            body = bytes([identifier, len(data) + 2, 0, *data])
            os.write(self._mine, b"\xff\xff" + body + bytes([~sum(body) & 0xFF]))

    def close(self) -> None:
        os.close(self._theirs)
        os.close(self._mine)
        self._thread.join(2.0)


@contextmanager
def feetech_bus() -> Iterator[FeetechBus]:
    bus = FeetechBus()
    try:
        yield bus
    finally:
        bus.close()
