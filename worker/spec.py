"""What a Nemotron-H model is made of, read from `config.json`; no weights, no MLX."""

import msgspec


class MambaSpec(msgspec.Struct, frozen=True, kw_only=True, tag="M"):
    """A Mamba-2 mixer (`M`)."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int
    conv_bias: bool
    proj_bias: bool
    time_step_limit: tuple[float, float]

    @property
    def inner_size(self) -> int:
        """Width of the gate and of the state-space input."""
        return self.num_heads * self.head_dim

    @property
    def conv_size(self) -> int:
        """Channels of the convolution: state-space input, B and C."""
        return self.inner_size + 2 * self.num_groups * self.state_size

    @property
    def in_proj_size(self) -> int:
        """Rows of `in_proj`: gate, convolution input, time step per head."""
        return self.inner_size + self.conv_size + self.num_heads


class MoESpec(msgspec.Struct, frozen=True, kw_only=True, tag="E"):
    """A mixture of experts (`E`); `latent_size` and `shared_size` are None where the layer has no such part.

    `bias` is about the shared expert and the latent projections; routed experts and the router have none.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    latent_size: int | None
    shared_size: int | None
    num_groups: int
    top_groups: int
    normalize: bool
    scaling: float
    bias: bool


class AttentionSpec(msgspec.Struct, frozen=True, kw_only=True, tag="*"):
    """Grouped-query attention without position embedding (`*`)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool


class MLPSpec(msgspec.Struct, frozen=True, kw_only=True, tag="-"):
    """A plain two-matrix MLP with squared ReLU (`-`)."""

    intermediate_size: int
    bias: bool


Mixer = MambaSpec | MoESpec | AttentionSpec | MLPSpec


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A whole model, layer by layer; layers need not be alike."""

    hidden_size: int
    vocab_size: int
    context_length: int
    norm_eps: float
    layers: tuple[Mixer, ...]
    eos_token_ids: tuple[int, ...]

    @property
    def pattern(self) -> str:
        """One character a layer, for example `MEMEM*E`."""
        return "".join(layer.__struct_config__.tag for layer in self.layers)  # type: ignore[misc]
