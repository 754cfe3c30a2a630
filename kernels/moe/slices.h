// SLICE rows of an expert's up projection, squared ReLU, kept in threadgroup memory, times that part of its down projection
//
// in the second half a row of the down projection is short: LANES lanes share one, and a simdgroup has several at a time

template <int BITS, int GROUP, int L, int I, int SLICE, int SIMDS>
FN void expert_slice(GLOBAL float* out, GLOBAL const u32* up, GLOBAL const u16* up_scales, GLOBAL const u16* up_biases,
                     GLOBAL const u32* down, GLOBAL const u16* down_scales, GLOBAL const u16* down_biases,
                     GLOBAL const u32x4* x, SHARED u32x4* hidden, u32 slice, u32 simd, u32 lane) {
  constexpr u32 V = step_weights<BITS>(), LANES = SLICE / V, SPAN = 32 / LANES, ROWS = 4;
  for (u32 first = simd * ROWS; first < SLICE; first += SIMDS * ROWS) {
    u32 rows[ROWS];
    float acc[ROWS];
    UNROLL for (u32 r = 0; r < ROWS; r++) {
      rows[r] = slice * SLICE + first + r;
      acc[r] = 0.0f;
    }
    add_direct<BITS, GROUP, L, ROWS, 1, 1, 0>(acc, up, up_scales, up_biases, rows, x, (SHARED const float*)hidden, 0, lane);
    const float total = totals<ROWS>(acc, lane);
    if (lane < ROWS) ((SHARED u16*)hidden)[first + lane] = (u16)round_bf16(squared_relu(total));
  }
  barrier();
  const u32 step = lane % LANES;
  for (u32 first = simd * SPAN * ROWS; first < L; first += SIMDS * SPAN * ROWS) {
    u32 rows[ROWS];
    float acc[ROWS];
    UNROLL for (u32 r = 0; r < ROWS; r++) {
      const u32 row = first + r * SPAN + lane / LANES;
      rows[r] = row < L ? row : L - 1;
      acc[r] = 0.0f;
    }
    Step<BITS, ROWS> now;
    load_step<BITS, GROUP, I, ROWS>(now, down, down_scales, down_biases, rows, slice * LANES + step);
    add_step<BITS, ROWS, 1>(acc, now, hidden + step * (V / 8), 0, 1);
    UNROLL for (u32 r = 0; r < ROWS; r++) {
      UNROLL for (u32 mask = LANES / 2; mask > 0; mask /= 2) acc[r] += simd_swap(acc[r], mask);
      const u32 row = first + r * SPAN + lane / LANES;
      if (step == 0 && row < L) out[row] = acc[r];
    }
  }
}
