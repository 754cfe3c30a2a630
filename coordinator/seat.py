"""Where a stage runs."""

import msgspec


class Seat(msgspec.Struct, frozen=True):
    """A place for one stage: a host by its name in the hostfile ("" is this machine), its IP address and its public key
    ("" in a cluster without keys), and the NVIDIA card if the host has several."""

    host: str = ""
    address: str = ""
    key: str = ""
    card: int | None = None


HERE = Seat()
