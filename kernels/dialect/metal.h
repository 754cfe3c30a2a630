// the dialect on Apple GPUs (Metal Shading Language, as mx.fast.metal_kernel compiles it)
typedef uint u32;
typedef ushort u16;
typedef ulong u64;
typedef uint4 u32x4;
typedef uint2 u32x2;
typedef float4 f32x4;

#define FN static inline
#define GLOBAL device
#define SHARED threadgroup
#define LOCAL thread
#define UNROLL _Pragma("clang loop unroll(full)")
#ifndef SHARED_ARRAY
#define SHARED_ARRAY(type, name, count) threadgroup type name[count]
#endif

FN void barrier() { threadgroup_barrier(mem_flags::mem_threadgroup); }
FN float simd_total(float value) { return simd_sum(value); }
FN float simd_largest(float value) { return simd_max(value); }
FN float simd_from(float value, u32 lane) { return simd_shuffle(value, ushort(lane)); }
FN float simd_swap(float value, u32 mask) { return simd_shuffle_xor(value, ushort(mask)); }
FN u32 simd_votes(bool vote) { return u32(ulong(simd_ballot(vote))); }
FN u32 count_bits(u32 value) { return popcount(value); }

FN float as_f32(u32 bits) { return as_type<float>(bits); }
FN u32 as_u32(float value) { return as_type<uint>(value); }
FN float exp_f32(float value) { return precise::exp(value); }
FN float log1p_f32(float value) { return value < 1e-4f ? value - 0.5f * value * value : precise::log(1.0f + value); }
FN float rsqrt_f32(float value) { return precise::rsqrt(value); }
FN float fma_f32(float a, float b, float c) { return fma(a, b, c); }

// weights pass once: the cache hint of the other dialects has no twin here
FN u32x4 stream16(GLOBAL const u32* from) { return *(GLOBAL const u32x4*)from; }
FN u32x2 stream8(GLOBAL const u32* from) { return *(GLOBAL const u32x2*)from; }

// (word & mask) | above; byte `index` of the word at bits 8 to 15, under the top byte of `above`
FN u32 under(u32 word, u32 mask, u32 above) { return (word & mask) | above; }
FN u32 byte_above(u32 word, u32 index, u32 above) { return (((word >> (8 * index)) & 0xffu) << 8) | above; }

FN u32 round_bf16(float value) {
  u32 bits = as_u32(value);
  return (value != value) ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
FN u32 pack_bf16(float low, float high) { return round_bf16(low) | (round_bf16(high) << 16); }
