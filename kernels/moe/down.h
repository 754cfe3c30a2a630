// sum over the chosen experts of weight * (down[expert] . hidden[slot]), ROWS output rows a threadgroup
//
// the steps of all experts form one list that the threads share out evenly: no lane idles on a row's tail

template <int BITS, int GROUP, int K, int N, int TOP, int ROWS, int THREADS>
FN void down_rows(LOCAL float* acc, GLOBAL const u32* weights, GLOBAL const u16* scales, GLOBAL const u16* biases,
                  GLOBAL const u32* indices, GLOBAL const float* shares, GLOBAL const u32x4* hidden, LOCAL const u32* rows,
                  u32 tid) {
  constexpr u32 V = step_weights<BITS>(), STEPS = K / V;
  for (u32 at = tid; at < TOP * STEPS; at += THREADS) {
    const u32 slot = at / STEPS;
    const u64 expert = indices[slot];
    const float share = shares[slot];
    Step<BITS, ROWS> now;
    float part[ROWS];
    load_step<BITS, GROUP, K, ROWS>(now, weights + expert * ((u64)N * K * BITS / 32), scales + expert * ((u64)N * K / GROUP),
                                    biases + expert * ((u64)N * K / GROUP), rows, at % STEPS);
    UNROLL for (int r = 0; r < ROWS; r++) part[r] = 0.0f;
    add_step<BITS, ROWS, 1>(part, now, hidden + (u64)at * (V / 8), 0, 1);
    UNROLL for (int r = 0; r < ROWS; r++) acc[r] = fma_f32(share, part[r], acc[r]);
  }
}
