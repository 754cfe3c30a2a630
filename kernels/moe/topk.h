// choice of experts for one token: sigmoid scores, chosen by score + correction, weighted by score
//
// `keys`, `scores`, `found` are EXPERTS long, `chosen` is TOP long. ties go to the lower index

FN bool comes_before(float key, u32 index, float other_key, u32 other_index) {
  return key > other_key || (key == other_key && index < other_index);
}

// a value that at least TOP keys reach: the TOP-th largest of the largest keys of 32 lanes. few keys pass it
template <int TOP>
FN float lower_bound(SHARED const float* keys, u32 experts, u32 lane) {
  float best = -INFINITY;
  for (u32 i = lane; i < experts; i += 32) best = keys[i] > best ? keys[i] : best;
  u32 rank = 0;
  for (u32 other = 0; other < 32; other++)
    rank += comes_before(simd_from(best, other), other, best, lane) ? 1 : 0;
  return simd_largest(rank == TOP - 1 ? best : -INFINITY);
}

template <int EXPERTS, int TOP, int STRIDE>
FN void choose(GLOBAL const float* logits, GLOBAL const float* correction, GLOBAL u32* indices, GLOBAL float* weights,
               SHARED float* keys, SHARED float* scores, SHARED u32* found, SHARED float* chosen, SHARED u32* count,
               bool normalize, float scaling, u32 tid, u32 threads, u32 lane, u32 simd) {
  for (u32 i = tid; i < EXPERTS; i += threads) {
    scores[i] = 1.0f / (1.0f + exp_f32(-logits[i]));
    keys[i] = scores[i] + correction[i];
  }
  // keys that are NaN are never chosen; the slots left keep expert 0 with weight 0
  for (u32 i = tid; i < STRIDE; i += threads) {
    chosen[i] = 0.0f;
    indices[i] = 0;
  }
  barrier();
  if (simd == 0) {
    float bound = TOP <= 32 ? lower_bound<TOP>(keys, EXPERTS, lane) : -INFINITY;
    u32 passed = 0;
    for (u32 base = 0; base < EXPERTS; base += 32) {
      bool pass = base + lane < EXPERTS && keys[base + lane < EXPERTS ? base + lane : 0] >= bound;
      u32 votes = simd_votes(pass);
      if (pass) found[passed + count_bits(votes & ((1u << lane) - 1))] = base + lane;
      passed += count_bits(votes);
    }
    if (lane == 0) *count = passed;
  }
  barrier();
  const u32 candidates = *count;
  for (u32 i = tid; i < candidates; i += threads) {
    u32 index = found[i], rank = 0;
    float key = keys[index];
    for (u32 j = 0; j < candidates; j++) rank += comes_before(keys[found[j]], found[j], key, index) ? 1 : 0;
    if (rank < TOP) {
      indices[rank] = index;
      chosen[rank] = scores[index];
    }
  }
  barrier();
  if (simd == 0) {
    float sum = 0.0f;
    for (u32 i = lane; i < TOP; i += 32) sum += chosen[i];
    float factor = normalize ? scaling / (simd_total(sum) + 1e-20f) : scaling;
    for (u32 i = lane; i < STRIDE; i += 32) weights[i] = chosen[i] * factor;
  }
}
