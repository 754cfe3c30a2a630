// the dialect on NVIDIA GPUs (CUDA C++, as mx.fast.cuda_kernel compiles it with NVRTC)
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef uint4 u32x4;
typedef uint2 u32x2;
typedef float4 f32x4;

#define FN static __device__ __forceinline__
#define GLOBAL
#define SHARED
#define LOCAL
#define UNROLL _Pragma("unroll")
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

FN void barrier() { __syncthreads(); }
FN float simd_total(float value) {
  UNROLL for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}
FN float simd_largest(float value) {
  UNROLL for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}
FN float simd_from(float value, u32 lane) { return __shfl_sync(0xffffffffu, value, lane); }
FN float simd_swap(float value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
FN u32 simd_votes(bool vote) { return __ballot_sync(0xffffffffu, vote); }
FN u32 count_bits(u32 value) { return __popc(value); }

FN float as_f32(u32 bits) { return __uint_as_float(bits); }
FN u32 as_u32(float value) { return __float_as_uint(value); }
FN float exp_f32(float value) { return expf(value); }
FN float log1p_f32(float value) { return log1pf(value); }
FN float rsqrt_f32(float value) { return rsqrtf(value); }
FN float fma_f32(float a, float b, float c) { return fmaf(a, b, c); }

// weights pass once: keep them out of the way of what is read again
FN u32x4 stream16(const u32* from) { return __ldcs((const u32x4*)from); }
FN u32x2 stream8(const u32* from) { return __ldcs((const u32x2*)from); }

// (word & mask) | above, as one instruction
FN u32 under(u32 word, u32 mask, u32 above) {
  u32 bits;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(bits) : "r"(word), "r"(mask), "r"(above));
  return bits;
}
// byte `index` of the word at bits 8 to 15, under the top byte of `above`
FN u32 byte_above(u32 word, u32 index, u32 above) { return __byte_perm(word, above, 0x7404u | (index << 4)); }

FN u32 pack_bf16(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
// 16 x 16 bf16 (rows of the lane's a: g, g + 8, g, g + 8) times 16 x 8, added to c in fp32; see matvec/tiles.h
FN void multiply_tile(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
FN u32 round_bf16(float value) { return pack_bf16(value, 0.0f) & 0xffffu; }
