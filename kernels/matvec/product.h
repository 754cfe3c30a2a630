// products of packed matrices with a few vectors: rows of weights stream past vectors that sit in threadgroup memory
//
// a lane takes `step_weights` neighbouring weights of a row at a time; 32 lanes take a run of 32 steps, so that a
// simdgroup reads one unbroken piece of the row. vectors are bf16, held as units of 8 (16 bytes).

template <int BITS> FN constexpr int step_weights() { return BITS == 16 ? 8 : BITS == 8 ? 16 : 32; }
template <int BITS> FN constexpr int step_words() { return step_weights<BITS>() * BITS / 32; }

FN float low_f32(u32 pair) { return as_f32(pair << 16); }
FN float high_f32(u32 pair) { return as_f32(pair & 0xffff0000u); }
FN float bf16_f32(u16 bits) { return as_f32(u32(bits) << 16); }

template <int COUNT>
struct Words {
  u32 at[COUNT];
};

template <int COUNT>
FN void load_words(LOCAL Words<COUNT>& to, GLOBAL const u32* from) {
  if (COUNT % 4 == 0) {
    UNROLL for (int i = 0; i < COUNT; i += 4) {
      u32x4 four = stream16(from + i);
      to.at[i] = four.x;
      to.at[i + 1 < COUNT ? i + 1 : 0] = four.y;
      to.at[i + 2 < COUNT ? i + 2 : 0] = four.z;
      to.at[i + 3 < COUNT ? i + 3 : 0] = four.w;
    }
  } else if (COUNT % 2 == 0) {
    UNROLL for (int i = 0; i < COUNT; i += 2) {
      u32x2 two = stream8(from + i);
      to.at[i] = two.x;
      to.at[i + 1 < COUNT ? i + 1 : 0] = two.y;
    }
  } else {
    UNROLL for (int i = 0; i < COUNT; i++) to.at[i] = from[i];
  }
}

FN void unpack_unit(LOCAL float* x, u32x4 unit) {
  x[0] = low_f32(unit.x);
  x[1] = high_f32(unit.x);
  x[2] = low_f32(unit.y);
  x[3] = high_f32(unit.y);
  x[4] = low_f32(unit.z);
  x[5] = high_f32(unit.z);
  x[6] = low_f32(unit.w);
  x[7] = high_f32(unit.w);
}

FN u32x4 pack_unit(LOCAL const float* x) {
  u32x4 unit;
  unit.x = pack_bf16(x[0], x[1]);
  unit.y = pack_bf16(x[2], x[3]);
  unit.z = pack_bf16(x[4], x[5]);
  unit.w = pack_bf16(x[6], x[7]);
  return unit;
}

// weights become floats without a conversion, which is slow on some GPUs: their bits are put under the exponent of a power
// of two, so weight i of a step comes out as q + offset<BITS>(i). the offsets stay small enough that what cancels costs
// about 15 bits of the 24: 3e-5 of a product, where bf16 rounds to 4e-3
template <int BITS>
FN constexpr float offset(int i) {
  return BITS == 16 ? 0.0f : BITS == 8 ? 32768.0f : BITS == 4 && i % 2 == 0 ? 128.0f : 2048.0f;
}

template <int BITS>
FN float raw_weight(LOCAL const Words<step_words<BITS>()>& q, int i) {
  if (BITS == 16) return i % 2 ? high_f32(q.at[i / 2]) : low_f32(q.at[i / 2]);
  if (BITS == 8) return as_f32(byte_above(q.at[i / 4], i % 4, 0x47000000u));
  if (BITS == 4) {  // odd ones at bit 12, even ones at bit 16: one shift for two
    u32 word = q.at[i / 8];
    u32 pair = i % 8 == 3 || i % 8 == 4 ? word : i % 8 == 1 || i % 8 == 2 ? word << 8
             : i % 8 == 5 || i % 8 == 6 ? word >> 8 : (word >> 16) | (word << 16);
    return as_f32(i % 2 ? under(pair, 0xf000u, 0x45000000u) : under(pair, 0xf0000u, 0x43000000u));
  }
  int first = i * BITS / 32, shift = i * BITS % 32;
  u32 word = q.at[first];
  u32 field = shift + BITS > 32 ? ((word >> shift) | (q.at[shift + BITS > 32 ? first + 1 : first] << (32 - shift))) << 12
            : shift >= 12 ? word >> (shift - 12) : word << (12 - shift);
  return as_f32(under(field, ((1u << BITS) - 1) << 12, 0x45000000u));
}

// what one step reads of ROWS rows
template <int BITS, int ROWS>
struct Step {
  Words<step_words<BITS>()> q[ROWS];
  float scale[ROWS], bias[ROWS];
};

// adds one step: acc[row][vector] += sum over the step of weight * x.
// unit j of vector s is at x[s * vector_stride + j * unit_stride]
template <int BITS, int ROWS, int VECTORS, typename Units>
FN void add_step(LOCAL float* acc, LOCAL const Step<BITS, ROWS>& now, Units x, u32 vector_stride, u32 unit_stride) {
  float dot[ROWS * VECTORS], sum[VECTORS];
  UNROLL for (int i = 0; i < ROWS * VECTORS; i++) dot[i] = 0.0f;
  UNROLL for (int s = 0; s < VECTORS; s++) sum[s] = 0.0f;
  UNROLL for (int j = 0; j < step_weights<BITS>() / 8; j++) {
    float weights[ROWS * 8];
    UNROLL for (int r = 0; r < ROWS; r++) {
      UNROLL for (int i = 0; i < 8; i++) weights[r * 8 + i] = raw_weight<BITS>(now.q[r], j * 8 + i);
    }
    UNROLL for (int s = 0; s < VECTORS; s++) {
      float v[8], excess = 0.0f;
      unpack_unit(v, x[s * vector_stride + j * unit_stride]);
      if (BITS < 16) {
        float even = (v[0] + v[2]) + (v[4] + v[6]), odd = (v[1] + v[3]) + (v[5] + v[7]);
        excess = fma_f32(offset<BITS>(0), even, offset<BITS>(1) * odd);
        sum[s] += even + odd;
      }
      UNROLL for (int r = 0; r < ROWS; r++) {
        float part = dot[r * VECTORS + s] - excess;
        UNROLL for (int i = 0; i < 8; i++) part = fma_f32(weights[r * 8 + i], v[i], part);
        dot[r * VECTORS + s] = part;
      }
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++) {
    UNROLL for (int s = 0; s < VECTORS; s++) {
      if (BITS == 16) acc[r * VECTORS + s] += dot[r * VECTORS + s];
      else acc[r * VECTORS + s] += fma_f32(now.scale[r], dot[r * VECTORS + s], now.bias[r] * sum[s]);
    }
  }
}

// threadgroup memory holds unit u of a vector where the lanes that read together find neighbours
template <int BITS> FN u32 place(u32 u) {
  const u32 units = step_weights<BITS>() / 8;
  return u / (32 * units) * (32 * units) + u % units * 32 + u / units % 32;
}

template <int BITS, int GROUP, int K, int ROWS>
FN void load_step(LOCAL Step<BITS, ROWS>& to, GLOBAL const u32* weights, GLOBAL const u16* scales, GLOBAL const u16* biases,
                  LOCAL const u32* rows, u32 step) {
  constexpr u32 V = step_weights<BITS>(), WORDS = step_words<BITS>();
  UNROLL for (int r = 0; r < ROWS; r++) {
    load_words(to.q[r], weights + (u64)rows[r] * (K / V * WORDS) + step * WORDS);
    if (BITS < 16) {
      u64 group = (u64)rows[r] * (K / GROUP) + step * V / GROUP;
      to.scale[r] = bf16_f32(scales[group]);
      to.bias[r] = bf16_f32(biases[group]);
    }
  }
}

// the steps [first, last) of ROWS rows against vectors staged from step `first` on. of the runs of 32 steps, counted from the
// row's start, a simdgroup takes every PARTS-th: which lane adds what, and when, does not depend on the staging
template <int BITS, int GROUP, int K, int ROWS, int VECTORS, int PARTS>
FN void add_staged(LOCAL float* acc, GLOBAL const u32* weights, GLOBAL const u16* scales, GLOBAL const u16* biases,
                   LOCAL const u32* rows, SHARED const u32x4* x, u32 vector_stride, u32 first, u32 last, u32 part, u32 lane) {
  constexpr u32 UNITS = step_weights<BITS>() / 8;
  const u32 skipped = (part + PARTS - first / 32 % PARTS) % PARTS;
  for (u32 step = first + skipped * 32 + lane; step < last; step += PARTS * 32) {
    Step<BITS, ROWS> now;
    load_step<BITS, GROUP, K, ROWS>(now, weights, scales, biases, rows, step);
    add_step<BITS, ROWS, VECTORS>(acc, now, x + (step - lane - first) * UNITS + lane, vector_stride, 32);
  }
}

// all steps of ROWS rows against vectors as they lie in memory: nothing to wait for, the cache serves the second reader.
// with GROUPS, each group of a vector counts times its own `factor`
template <int BITS, int GROUP, int K, int ROWS, int VECTORS, int PARTS, int GROUPS>
FN void add_direct(LOCAL float* acc, GLOBAL const u32* weights, GLOBAL const u16* scales, GLOBAL const u16* biases,
                   LOCAL const u32* rows, GLOBAL const u32x4* x, SHARED const float* factor, u32 part, u32 lane) {
  constexpr u32 V = step_weights<BITS>();
  for (u32 step = part * 32 + lane; step < K / V; step += PARTS * 32) {
    Step<BITS, ROWS> now;
    load_step<BITS, GROUP, K, ROWS>(now, weights, scales, biases, rows, step);
    if (GROUPS == 0) {
      add_step<BITS, ROWS, VECTORS>(acc, now, x + step * (V / 8), K / 8, 1);
    } else {
      float some[ROWS * VECTORS];
      UNROLL for (int i = 0; i < ROWS * VECTORS; i++) some[i] = 0.0f;
      add_step<BITS, ROWS, VECTORS>(some, now, x + step * (V / 8), K / 8, 1);
      const u32 group = step * V / (K / (GROUPS ? GROUPS : 1));
      UNROLL for (int i = 0; i < ROWS * VECTORS; i++)
        acc[i] = fma_f32(factor[i % VECTORS * GROUPS + group], some[i], acc[i]);
    }
  }
}

// 1 / rms of each group of each vector, from sums of squares in PARTIALS pieces
template <int GROUPS, int PARTIALS, int VECTORS, int SIZE, int THREADS>
FN void group_factors(SHARED float* factor, GLOBAL const float* sums, float eps, u32 tid) {
  for (u32 i = tid; i < VECTORS * GROUPS; i += THREADS) {
    float sum = 0.0f;
    for (u32 j = 0; j < PARTIALS; j++) sum += sums[i * PARTIALS + j];
    factor[i] = rsqrt_f32(sum * (1.0f / SIZE) + eps);
  }
  barrier();
}

// puts units [first, last) of the vectors, times the norm's weight, into threadgroup memory and adds up this thread's
// squares. 1 / rms is a factor of the whole product, so it can wait for the end
template <int BITS, int UNITS, int VECTORS, int THREADS>
FN void stage(SHARED u32x4* to, u32 vector_stride, LOCAL float* squares, GLOBAL const u32x4* x, GLOBAL const u32x4* weight,
              u32 first, u32 last, u32 tid) {
  // thread tid has units tid, tid + THREADS, .. of the whole vector, so the sum's order does not depend on the pieces
  for (u32 u = first + (tid + THREADS - first % THREADS) % THREADS; u < last; u += THREADS) {
    float values[8], gains[8];
    u32x4 units[VECTORS];
    UNROLL for (int s = 0; s < VECTORS; s++) units[s] = x[s * UNITS + u];
    unpack_unit(gains, weight[u]);
    UNROLL for (int s = 0; s < VECTORS; s++) {
      unpack_unit(values, units[s]);
      UNROLL for (int i = 0; i < 8; i++) {
        squares[s] = fma_f32(values[i], values[i], squares[s]);
        values[i] *= gains[i];
      }
      to[s * vector_stride + place<BITS>(u - first)] = pack_unit(values);
    }
  }
}

// the product of a normed vector, staged CHUNK units at a time. leaves this thread's squares in `squares`
template <int BITS, int GROUP, int K, int ROWS, int VECTORS, int PARTS, int CHUNK, int THREADS>
FN void add_normed(LOCAL float* acc, LOCAL float* squares, GLOBAL const u32* weights, GLOBAL const u16* scales,
                   GLOBAL const u16* biases, LOCAL const u32* rows, GLOBAL const u32x4* x, GLOBAL const u32x4* gain,
                   SHARED u32x4* staged, u32 part, u32 lane, u32 tid) {
  constexpr u32 UNITS = K / 8, STEP = step_weights<BITS>() / 8;
  UNROLL for (int s = 0; s < VECTORS; s++) squares[s] = 0.0f;
  for (u32 first = 0; first < UNITS; first += CHUNK) {
    const u32 last = first + CHUNK < UNITS ? first + CHUNK : UNITS;
    if (first > 0) barrier();
    stage<BITS, UNITS, VECTORS, THREADS>(staged, CHUNK, squares, x, gain, first, last, tid);
    barrier();
    add_staged<BITS, GROUP, K, ROWS, VECTORS, PARTS>(acc, weights, scales, biases, rows, staged, CHUNK, first / STEP,
                                                     last / STEP, part, lane);
  }
}

// adds what the lane across `mask` has; of 2 * HALF sums each of the two goes on with HALF
template <int HALF>
FN void fold(LOCAL float* part, u32 mask, u32 lane) {
  if (HALF == 0) {
    part[0] += simd_swap(part[0], mask);
  } else {
    const bool upper = lane & mask;
    UNROLL for (int i = 0; i < HALF; i++) {
      const float kept = upper ? part[HALF + i] : part[i], given = upper ? part[i] : part[HALF + i];
      part[i] = kept + simd_swap(given, mask);
    }
  }
}

// sums each accumulator over the simdgroup; lane i ends with the total of accumulator i. 31 swaps for 32 of them where one
// by one takes 160
template <int COUNT>
FN float totals(LOCAL const float* acc, u32 lane) {
  constexpr int SIZE = COUNT <= 1 ? 1 : COUNT <= 2 ? 2 : COUNT <= 4 ? 4 : COUNT <= 8 ? 8 : COUNT <= 16 ? 16 : 32;
  float part[SIZE];
  UNROLL for (int i = 0; i < SIZE; i++) part[i] = i < COUNT ? acc[i < COUNT ? i : 0] : 0.0f;
  fold<SIZE / 2>(part, 16, lane);
  fold<SIZE / 4>(part, 8, lane);
  fold<SIZE / 8>(part, 4, lane);
  fold<SIZE / 16>(part, 2, lane);
  fold<SIZE / 32>(part, 1, lane);
  return SIZE == 1 ? part[0] : simd_from(part[0], lane * (32 / SIZE) % 32);
}

// adds up what the PARTS simdgroups of a team have; every one of the team gets the sum
template <int PARTS, int SIMDS>
FN float team_total(float value, SHARED float* spare, u32 simd, u32 lane) {
  if (PARTS == 1) return value;
  barrier();
  spare[simd * 32 + lane] = value;
  barrier();
  UNROLL for (u32 i = 1; i < PARTS; i++) value += spare[(simd / PARTS * PARTS + (simd + i) % PARTS) * 32 + lane];
  return value;
}

// 1 / rms of vector `mine` from every thread's squares
template <int VECTORS, int SIMDS, int K>
FN float whole_factor(LOCAL const float* squares, SHARED float* spare, float eps, u32 mine, u32 simd, u32 lane) {
  barrier();
  UNROLL for (int s = 0; s < VECTORS; s++) {
    float sum = simd_total(squares[s]);
    if (lane == 0) spare[s * SIMDS + simd] = sum;
  }
  barrier();
  float sum = 0.0f;
  for (u32 i = 0; i < SIMDS; i++) sum += spare[mine * SIMDS + i];
  return rsqrt_f32(sum * (1.0f / K) + eps);
}

template <int N, int ROWS>
FN void take_rows(LOCAL u32* rows, u32 first) {
  UNROLL for (int r = 0; r < ROWS; r++) rows[r] = first + r < N ? first + r : N - 1;
}

// keeps a NaN
FN float squared_relu(float value) { return value < 0.0f ? 0.0f : value * value; }
