// products on the matrix units: 16 rows of weights times 8 or 16 vectors at once. CUDA and the host dialect only
//
// a multiplication takes 16 weights of 16 rows as bf16; lane 4 g + t gives 4 of them for row g and 4 for row g + 8, and 4
// numbers of vector g. which 16 is free as long as weights and vectors agree: a lane reads neighbouring words of a row,
// four lanes together 32 bytes of it (64 at 16 bits), and the vector's numbers are put into the order of the words' fields.
// fields become bf16 under the exponent of 128: exact, and 128 * sum(x) is taken away with the group's bias. sum(x) is one
// more multiplication, by ones

template <int BITS> FN constexpr int tile_step() { return BITS == 16 ? 32 : 256 / BITS; }  // weights of a row
template <int BITS> FN constexpr int tile_words() { return BITS == 16 ? 4 : 2; }           // a lane's words of a row
template <int BITS> FN constexpr int tile_units() { return BITS == 4 ? 2 : 1; }            // a lane's units of a vector

FN u32 low_halves(u32 a, u32 b) { return (a & 0xffffu) | (b << 16); }
FN u32 high_halves(u32 a, u32 b) { return (a >> 16) | (b & 0xffff0000u); }
FN u32 nibbles(u32 word, u32 shift) { return under(word >> shift, 0x000f000fu, 0x43004300u); }

// the vector's numbers for multiplication m of a step, in the order of the weights' fields
template <int BITS>
FN void vector_pairs(LOCAL u32* pairs, LOCAL const u32x4* units, int m) {
  const u32x4 unit = units[BITS == 4 ? m / 2 : 0];
  if (BITS == 4) {  // word's nibbles i and i + 4 lie 16 bits apart
    pairs[0] = m % 2 ? low_halves(unit.y, unit.w) : low_halves(unit.x, unit.z);
    pairs[1] = m % 2 ? high_halves(unit.y, unit.w) : high_halves(unit.x, unit.z);
  } else if (BITS == 8) {  // so do bytes i and i + 2
    pairs[0] = m % 2 ? low_halves(unit.z, unit.w) : low_halves(unit.x, unit.y);
    pairs[1] = m % 2 ? high_halves(unit.z, unit.w) : high_halves(unit.x, unit.y);
  } else {
    pairs[0] = m % 2 ? unit.z : unit.x;
    pairs[1] = m % 2 ? unit.w : unit.y;
  }
}

template <int COUNT>
FN void load_halves(LOCAL float* to, GLOBAL const u16* from) {
  if (COUNT % 4 == 0) {
    UNROLL for (int i = 0; i < COUNT; i += 4) {
      const u32x2 four = *(GLOBAL const u32x2*)(from + i);
      to[i] = low_f32(four.x);
      to[i + 1 < COUNT ? i + 1 : 0] = high_f32(four.x);
      to[i + 2 < COUNT ? i + 2 : 0] = low_f32(four.y);
      to[i + 3 < COUNT ? i + 3 : 0] = high_f32(four.y);
    }
  } else if (COUNT == 2) {
    const u32 two = *(GLOBAL const u32*)from;
    to[0] = low_f32(two);
    to[COUNT == 2 ? 1 : 0] = high_f32(two);
  } else {
    UNROLL for (int i = 0; i < COUNT; i++) to[i] = bf16_f32(from[i]);
  }
}

// one step of a tile: acc[4 * column block + i] += weights . vectors, as the unit lays its results out: i = 0, 1 are vectors
// 2 t and 2 t + 1 of row g, i = 2, 3 the same of row g + 8
template <int BITS, int COLUMNS>
FN void add_tile_step(LOCAL float* acc, LOCAL const Words<tile_words<BITS>()>& upper,
                      LOCAL const Words<tile_words<BITS>()>& lower, LOCAL const u32x4* units, LOCAL const float* scale,
                      LOCAL const float* bias, LOCAL const float* factor) {
  constexpr int TIMES = BITS == 4 ? 4 : 2, UNITS = tile_units<BITS>();
  float low[COLUMNS * 4], high[COLUMNS * 4], sums[COLUMNS * 4];
  UNROLL for (int i = 0; i < COLUMNS * 4; i++) low[i] = high[i] = sums[i] = 0.0f;
  UNROLL for (int m = 0; m < TIMES; m++) {
    UNROLL for (int v = 0; v < COLUMNS; v++) {
      u32 x[2];
      vector_pairs<BITS>(x, units + v * UNITS, m);
      if (BITS == 16) {
        multiply_tile(low + v * 4, upper.at[2 * m], lower.at[2 * m], upper.at[2 * m + 1], lower.at[2 * m + 1], x[0], x[1]);
      } else if (BITS == 4) {
        const u32 a = upper.at[m / 2], b = lower.at[m / 2], shift = m % 2 * 8;
        multiply_tile(low + v * 4, nibbles(a, shift), nibbles(b, shift), nibbles(a, shift + 4), nibbles(b, shift + 4), x[0], x[1]);
      } else {
        const u32 a = upper.at[m % 2], b = lower.at[m % 2];
        multiply_tile(low + v * 4, nibbles(a, 0), nibbles(b, 0), nibbles(a, 8), nibbles(b, 8), x[0], x[1]);
        multiply_tile(high + v * 4, nibbles(a, 4), nibbles(b, 4), nibbles(a, 12), nibbles(b, 12), x[0], x[1]);
      }
      if (BITS < 16) multiply_tile(sums + v * 4, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u, x[0], x[1]);
    }
  }
  UNROLL for (int i = 0; i < COLUMNS * 4; i++) {
    float part = low[i];
    if (BITS < 16) {
      const int row = i % 4 / 2;
      if (BITS == 8) part = fma_f32(16.0f, high[i], part);
      const float offset = fma_f32(BITS == 8 ? -2176.0f : -128.0f, scale[row], bias[row]);
      part = fma_f32(scale[row], part, offset * sums[i]);
    }
    acc[i] = factor ? fma_f32(factor[i / 4 * 2 + i % 2], part, acc[i]) : acc[i] + part;
  }
}

// all steps of rows `row` and `other` of this lane against its vectors; of the runs of RUN steps a simdgroup takes every
// PARTS-th, and has a run's weights in flight at once. with GROUPS, each group of vector v counts times
// factor[v * GROUPS + group]
template <int BITS, int GROUP, int K, int COLUMNS, int RUN, int PARTS, int GROUPS, int VECTORS>
FN void add_tiles(LOCAL float* acc, GLOBAL const u32* weights, GLOBAL const u16* scales, GLOBAL const u16* biases, u32 row,
                  u32 other, GLOBAL const u32x4* LOCAL const* x, SHARED const float* factor, u32 part, u32 lane) {
  constexpr u32 STEP = tile_step<BITS>(), WORDS = tile_words<BITS>(), UNITS = tile_units<BITS>(), ROW = K / STEP * WORDS * 4;
  constexpr int SCALES = RUN * STEP > GROUP ? RUN * STEP / GROUP : 1;
  const u32 t = lane % 4;
  GLOBAL const u32 *upper = weights + (u64)row * ROW + t * WORDS, *lower = weights + (u64)other * ROW + t * WORDS;
  for (u32 at = part * RUN; at < K / STEP; at += PARTS * RUN) {
    Words<tile_words<BITS>()> a[RUN], b[RUN];
    float scale[2 * SCALES], bias[2 * SCALES];
    UNROLL for (int i = 0; i < RUN; i++) {
      load_words(a[i], upper + (at + i) * WORDS * 4);
      load_words(b[i], lower + (at + i) * WORDS * 4);
    }
    if (BITS < 16) {
      const u64 group = at * STEP / GROUP;
      load_halves<SCALES>(scale, scales + (u64)row * (K / GROUP) + group);
      load_halves<SCALES>(scale + SCALES, scales + (u64)other * (K / GROUP) + group);
      load_halves<SCALES>(bias, biases + (u64)row * (K / GROUP) + group);
      load_halves<SCALES>(bias + SCALES, biases + (u64)other * (K / GROUP) + group);
    }
    UNROLL for (int i = 0; i < RUN; i++) {
      u32x4 units[COLUMNS * UNITS];
      UNROLL for (int v = 0; v < COLUMNS; v++) {
        UNROLL for (int u = 0; u < UNITS; u++) units[v * UNITS + u] = x[v][(at + i) * (STEP / 8) + t * UNITS + u];
      }
      const int of = i * STEP / GROUP < SCALES ? i * STEP / GROUP : 0;
      float two_scales[2], two_biases[2], factors[COLUMNS * 2];
      if (BITS < 16) {
        UNROLL for (int r = 0; r < 2; r++) {
          two_scales[r] = scale[r * SCALES + of];
          two_biases[r] = bias[r * SCALES + of];
        }
      }
      if (GROUPS) {
        const u32 group = (at + i) * STEP / (K / (GROUPS ? GROUPS : 1));
        UNROLL for (int j = 0; j < COLUMNS * 2; j++) {
          const u32 vector = j / 2 * 8 + t * 2 + j % 2;
          factors[j] = factor[(vector < VECTORS ? vector : 0) * GROUPS + group];
        }
      }
      add_tile_step<BITS, COLUMNS>(acc, a[i], b[i], units, two_scales, two_biases,
                                   GROUPS ? factors : nullptr);
    }
  }
}

// a vector times the norm's weight, bf16, and the squares that this thread met
template <int UNITS, int THREADS>
FN float weigh(GLOBAL u32x4* to, GLOBAL const u32x4* x, GLOBAL const u32x4* gain, u32 tid) {
  float squares = 0.0f;
  for (u32 u = tid; u < UNITS; u += THREADS) {
    float values[8], gains[8];
    unpack_unit(values, x[u]);
    unpack_unit(gains, gain[u]);
    UNROLL for (int i = 0; i < 8; i++) {
      squares = fma_f32(values[i], values[i], squares);
      values[i] *= gains[i];
    }
    to[u] = pack_unit(values);
  }
  return squares;
}

// puts a lane's results where `tile_total` finds them
template <int COLUMNS>
FN void leave_tile(SHARED float* spare, LOCAL const float* acc, u32 simd, u32 lane) {
  barrier();
  UNROLL for (int i = 0; i < COLUMNS * 4; i++) spare[(simd * COLUMNS * 4 + i) * 32 + lane] = acc[i];
  barrier();
}

// row `row` (0 to 15) of vector `vector`, summed over the PARTS simdgroups of a team
template <int COLUMNS, int PARTS>
FN float tile_total(SHARED const float* spare, u32 team, u32 row, u32 vector) {
  const u32 place = (vector / 8 * 4 + row / 8 * 2 + vector % 2) * 32 + row % 8 * 4 + vector % 8 / 2;
  float sum = 0.0f;
  UNROLL for (u32 i = 0; i < PARTS; i++) sum += spare[(team * PARTS + i) * (COLUMNS * 128) + place];
  return sum;
}
