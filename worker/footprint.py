"""How many bytes of state a sequence has on a stage; no MLX. What `model/state.py` allocates, from the spec alone."""

from collections.abc import Sequence

import msgspec

from worker.spec import AttentionSpec, MambaSpec, Mixer

GROWTH = 256  # positions by which keys and values grow
STATE_ITEM = 4  # bytes of a float32 of the SSM state


class Footprint(msgspec.Struct, frozen=True):
    """`constant` bytes from the first step on (Mamba), and `growing` more for every begun GROWTH positions."""

    constant: int
    growing: int

    def bytes(self, positions: int) -> int:
        """State of a sequence that has taken so many positions."""
        return self.constant + self.growing * -(-positions // GROWTH)

    def snapshot_bytes(self, positions: int) -> int:
        """Its snapshot, which has no room to grow."""
        return self.constant + self.growing // GROWTH * positions


def footprint(layers: Sequence[Mixer], item_bytes: int) -> Footprint:
    """The footprint of these layers whose activations have `item_bytes` an element.

    A Mamba layer keeps the last K - 1 inputs of its convolution and a float32 state [heads, head size, state size], an
    attention layer a key and a value a position for each of its kv heads.
    """
    constant = growing = 0
    for layer in layers:
        if isinstance(layer, MambaSpec):
            constant += (layer.conv_kernel - 1) * layer.conv_size * item_bytes
            constant += layer.num_heads * layer.head_dim * layer.state_size * STATE_ITEM
        elif isinstance(layer, AttentionSpec):
            growing += 2 * layer.num_kv_heads * layer.head_dim * GROWTH * item_bytes
    return Footprint(constant, growing)
