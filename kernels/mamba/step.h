// positions of a Mamba-2 mixer one after another: convolution, silu, step size, state, skip, gate
//
// a threadgroup owns CHANNELS channels of one head. the state of a channel lies along a simdgroup, STATE / 32 a lane

FN float silu(float value) { return value / (1.0f + exp_f32(-value)); }
FN float softplus(float value) { return value > 20.0f ? value : log1p_f32(exp_f32(value)); }

// channel c of the convolution at position s: taps over the tail [TAPS - 1, WIDTH] and the new rows, fp32
template <int TAPS, int WIDTH>
FN float convolve(GLOBAL const u16* tail, GLOBAL const u16* rows, u32 row_stride, GLOBAL const u16* taps, float bias, u32 c,
                  int s) {
  float sum = bias;
  UNROLL for (int k = 0; k < TAPS; k++) {
    int at = s + k - (TAPS - 1);
    float x = bf16_f32(at < 0 ? tail[(at + TAPS - 1) * WIDTH + c] : rows[at * row_stride + c]);
    sum = fma_f32(bf16_f32(taps[c * TAPS + k]), x, sum);
  }
  return sum;
}

// the tail after position s
template <int TAPS, int WIDTH>
FN void shift(GLOBAL u16* to, GLOBAL const u16* tail, GLOBAL const u16* rows, u32 row_stride, u32 c, int s) {
  UNROLL for (int k = 0; k < TAPS - 1; k++) {
    int at = s + k - (TAPS - 2);
    to[k * WIDTH + c] = at < 0 ? tail[(at + TAPS - 1) * WIDTH + c] : rows[at * row_stride + c];
  }
}

template <int COUNT>
FN void load_state(LOCAL float* to, GLOBAL const float* from) {
  if (COUNT % 4 == 0) {
    UNROLL for (int i = 0; i < COUNT; i += 4) {
      f32x4 four = *(GLOBAL const f32x4*)(from + i);
      to[i] = four.x;
      to[i + 1 < COUNT ? i + 1 : 0] = four.y;
      to[i + 2 < COUNT ? i + 2 : 0] = four.z;
      to[i + 3 < COUNT ? i + 3 : 0] = four.w;
    }
  } else {
    UNROLL for (int i = 0; i < COUNT; i++) to[i] = from[i];
  }
}

template <int COUNT>
FN void store_state(GLOBAL float* to, LOCAL const float* from) {
  if (COUNT % 4 == 0) {
    UNROLL for (int i = 0; i < COUNT; i += 4) {
      f32x4 four;
      four.x = from[i];
      four.y = from[i + 1 < COUNT ? i + 1 : 0];
      four.z = from[i + 2 < COUNT ? i + 2 : 0];
      four.w = from[i + 3 < COUNT ? i + 3 : 0];
      *(GLOBAL f32x4*)(to + i) = four;
    }
  } else {
    UNROLL for (int i = 0; i < COUNT; i++) to[i] = from[i];
  }
}

// POSITIONS positions of the sequence `sequence`, for the channels of `block`: split block % SPLITS of head block / SPLITS.
// the state lives in registers from the first position to the last; EVERY keeps tail and state after each of them.
// `shared` holds, per position, the convolved channels (mine, keys, queries), the time step and SIMDS partial sums
template <int HEADS, int CHANNELS, int STATE, int GROUPS, int TAPS, int POSITIONS, int SPLITS, int SIMDS, bool EVERY, bool BIAS>
FN void mamba_step(GLOBAL u16* gated, GLOBAL float* squares_out, GLOBAL u16* tail_out, GLOBAL float* state_out,
                   GLOBAL const u16* projected, GLOBAL const u16* tail_in, GLOBAL const float* state_in,
                   GLOBAL const u16* taps, GLOBAL const u16* conv_bias, GLOBAL const float* rates, GLOBAL const float* skips,
                   GLOBAL const float* dt_bias, GLOBAL const u16* gate_weight, float low, float high, SHARED float* shared,
                   u32 sequence, u32 block, u32 tid, u32 lane, u32 simd) {
  constexpr u32 INNER = HEADS * CHANNELS, CONV = INNER + 2 * GROUPS * STATE, ROW = INNER + CONV + HEADS;
  constexpr u32 MINE = CHANNELS / SPLITS, WIDTH = MINE + 2 * STATE, THREADS = SIMDS * 32, TAIL = (TAPS - 1) * CONV;
  constexpr int EACH = (CHANNELS / SPLITS + SIMDS - 1) / SIMDS, SPAN = STATE / 32;  // channels a simdgroup, states a lane
  constexpr u32 KEPT = EVERY ? POSITIONS : 1, STATES = HEADS * CHANNELS * STATE;
  const u32 head = block / SPLITS, split = block % SPLITS, group = head / (HEADS / GROUPS);
  const u32 first = head * CHANNELS + split * MINE;  // my first channel of all
  GLOBAL const u16* rows = projected + (u64)sequence * (POSITIONS * ROW);
  GLOBAL const u16* tail = tail_in + (u64)sequence * TAIL;

  float state[EACH * SPAN];
  const u64 state_at = ((u64)first + simd) * STATE + lane * SPAN;
  UNROLL for (int j = 0; j < EACH; j++)
    if (simd + j * SIMDS < MINE)
      load_state<SPAN>(state + j * SPAN, state_in + (u64)sequence * STATES + state_at + (u64)(j * SIMDS * STATE));

  SHARED float *convolved = shared, *steps = shared + POSITIONS * WIDTH, *sums = steps + POSITIONS;
  for (u32 i = tid; i < WIDTH; i += THREADS) {
    const u32 c = i < MINE ? first + i
                : i < MINE + STATE ? INNER + group * STATE + (i - MINE)
                : INNER + (GROUPS + group) * STATE + (i - MINE - STATE);
    const bool owner = i < MINE || (split == 0 && head % (HEADS / GROUPS) == 0);
    const float bias = BIAS ? bf16_f32(conv_bias[c]) : 0.0f;
    for (int s = 0; s < POSITIONS; s++) {
      convolved[s * WIDTH + i] = silu(convolve<TAPS, CONV>(tail, rows + INNER, ROW, taps, bias, c, s));
      if (owner && (EVERY || s == POSITIONS - 1))
        shift<TAPS, CONV>(tail_out + ((u64)sequence * KEPT + (EVERY ? s : 0)) * TAIL, tail, rows + INNER, ROW, c, s);
    }
  }
  if (tid < POSITIONS) {
    float dt = softplus(bf16_f32(rows[tid * ROW + INNER + CONV + head]) + dt_bias[head]);
    dt = dt < low ? low : dt;
    steps[tid] = dt > high ? high : dt;
  }
  barrier();

  float squares[POSITIONS];
  UNROLL for (int s = 0; s < POSITIONS; s++) {
    SHARED const float* x = convolved + s * WIDTH;
    const float dt = steps[s], decay = exp_f32(dt * rates[head]);
    float key[SPAN], query[SPAN], dots[EACH];
    UNROLL for (int i = 0; i < SPAN; i++) {
      key[i] = x[MINE + lane * SPAN + i];
      query[i] = x[MINE + STATE + lane * SPAN + i];
    }
    UNROLL for (int j = 0; j < EACH; j++) {
      const u32 channel = simd + j * SIMDS;
      const float drive = channel < MINE ? dt * x[channel < MINE ? channel : 0] : 0.0f;
      dots[j] = 0.0f;
      UNROLL for (int i = 0; i < SPAN; i++) {
        state[j * SPAN + i] = fma_f32(decay, state[j * SPAN + i], drive * key[i]);
        dots[j] = fma_f32(state[j * SPAN + i], query[i], dots[j]);
      }
      if (channel < MINE && (EVERY || s == POSITIONS - 1))
        store_state<SPAN>(state_out + ((u64)sequence * KEPT + (EVERY ? s : 0)) * STATES + state_at + (u64)(j * SIMDS * STATE),
                          state + j * SPAN);
    }
    float y = totals<EACH>(dots, lane);
    const u32 channel = simd + lane * SIMDS;
    squares[s] = 0.0f;
    if (lane < EACH && channel < MINE) {
      y = fma_f32(skips[head], x[channel], y) * silu(bf16_f32(rows[s * ROW + first + channel]));
      squares[s] = y * y;
      gated[((u64)sequence * POSITIONS + s) * INNER + first + channel] =
          (u16)round_bf16(y * bf16_f32(gate_weight[first + channel]));
    }
  }
  UNROLL for (int s = 0; s < POSITIONS; s++) {
    float sum = simd_total(squares[s]);
    if (lane == 0) sums[s * SIMDS + simd] = sum;
  }
  barrier();
  if (tid < POSITIONS) {
    float sum = 0.0f;
    for (u32 i = 0; i < SIMDS; i++) sum += sums[tid * SIMDS + i];
    squares_out[((u64)sequence * POSITIONS + tid) * (HEADS * SPLITS) + block] = sum;
  }
}
