"""Where a stage runs."""

import msgspec


class Seat(msgspec.Struct, frozen=True):
    """A place for one stage: a host by its name in the hostfile ("" is this machine), its public key ("" in a cluster
    without keys), and its NVIDIA card if it has one."""

    host: str = ""
    key: str = ""
    card: int | None = None


HERE = Seat()
