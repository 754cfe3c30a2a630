// the dialect on a CPU, for tests: every thread of a threadgroup is a fiber, so barriers and simd operations are real.
// a barrier or a simd operation that some threads never reach ends the run with an error instead of hanging
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

typedef uint32_t u32;
typedef uint16_t u16;
typedef uint64_t u64;
struct alignas(16) u32x4 { u32 x, y, z, w; };
struct alignas(8) u32x2 { u32 x, y; };
struct alignas(16) f32x4 { float x, y, z, w; };

#define FN static inline
#define GLOBAL
#define SHARED
#define LOCAL
#define UNROLL
// poisoned by the first fiber, which starts before the others: what nobody wrote reads as NaN
#define SHARED_ARRAY(type, name, count) \
  static type name[count];              \
  if (current == 0) memset((void*)name, 0xff, sizeof(name))

enum { SIMD = 32, MAX_THREADS = 1024, STACK = 64 * 1024 };
enum Wait { RUNNING, AT_BARRIER, AT_SIMD, DONE };

struct Fiber {
  jmp_buf place;
  ucontext_t start;
  Wait wait;
  bool born;
};

static Fiber fibers[MAX_THREADS];
static jmp_buf scheduler;
static ucontext_t scheduler_start;
static u32 current, threads_in_group;
static u32 slots[2][MAX_THREADS];
static u32 turn[MAX_THREADS];
static struct { u32 x, y, z; } group_at;
static void (*group_body)();

FN void pause_until(Wait wait) {
  fibers[current].wait = wait;
  if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler, 1);
}
FN void barrier() { pause_until(AT_BARRIER); }

// every lane leaves its word and meets the others; two sets of slots, so nobody overwrites what is still read
FN const u32* meet(u32 word) {
  u32* set = slots[turn[current]++ % 2];
  set[current] = word;
  pause_until(AT_SIMD);
  return set + current / SIMD * SIMD;
}
FN float as_f32(u32 bits) { float value; memcpy(&value, &bits, 4); return value; }
FN u32 as_u32(float value) { u32 bits; memcpy(&bits, &value, 4); return bits; }
FN float simd_total(float value) {
  for (u32 step = 16; step > 0; step /= 2) value += as_f32(meet(as_u32(value))[(current % SIMD) ^ step]);
  return value;
}
FN float simd_largest(float value) {
  const u32* all = meet(as_u32(value));
  for (u32 lane = 0; lane < SIMD; lane++) value = fmaxf(value, as_f32(all[lane]));
  return value;
}
FN float simd_from(float value, u32 lane) { return as_f32(meet(as_u32(value))[lane]); }
FN float simd_swap(float value, u32 mask) { return as_f32(meet(as_u32(value))[(current % SIMD) ^ mask]); }
FN u32 simd_votes(bool vote) {
  const u32* all = meet(vote);
  u32 votes = 0;
  for (u32 lane = 0; lane < SIMD; lane++) votes |= all[lane] << lane;
  return votes;
}
FN u32 count_bits(u32 value) { return __builtin_popcount(value); }

FN float exp_f32(float value) { return expf(value); }
FN float log1p_f32(float value) { return log1pf(value); }
FN float rsqrt_f32(float value) { return 1.0f / sqrtf(value); }
FN float fma_f32(float a, float b, float c) { return fmaf(a, b, c); }

FN u32x4 stream16(const u32* from) { return *(const u32x4*)from; }
FN u32x2 stream8(const u32* from) { return *(const u32x2*)from; }
FN u32 under(u32 word, u32 mask, u32 above) { return (word & mask) | above; }
FN u32 byte_above(u32 word, u32 index, u32 above) { return (((word >> (8 * index)) & 0xffu) << 8) | above; }
FN u32 round_bf16(float value) {
  u32 bits = as_u32(value);
  return value != value ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
FN u32 pack_bf16(float low, float high) { return round_bf16(low) | (round_bf16(high) << 16); }

// 16 x 16 bf16 times 16 x 8, added to c in fp32: lane 4 g + t holds columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of rows g and g + 8
// (a0 and a2, a1 and a3), the same of b's column g, and of c columns 2 t, 2 t + 1 of rows g and g + 8
FN void multiply_tile(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  u32 words[6] = {a0, a1, a2, a3, b0, b1}, all[6][SIMD];
  for (u32 i = 0; i < 6; i++) memcpy(all[i], meet(words[i]), sizeof(all[i]));
  u32 g = current % SIMD / 4, t = current % SIMD % 4;
  for (u32 i = 0; i < 4; i++)
    for (u32 k = 0; k < 16; k++) {
      u32 holder = k % 8 / 2, pair = k / 8, shift = k % 2 * 16;
      u32 a = all[pair * 2 + i / 2][g * 4 + holder], b = all[4 + pair][(t * 2 + i % 2) * 4 + holder];
      c[i] = fmaf(as_f32(a >> shift << 16), as_f32(b >> shift << 16), c[i]);
    }
}

static void fiber_main() {
  group_body();
  fibers[current].wait = DONE;
  _longjmp(scheduler, 1);
}

static void resume(u32 index) {
  current = index;
  fibers[index].wait = RUNNING;
  if (_setjmp(scheduler) != 0) return;
  if (fibers[index].born) _longjmp(fibers[index].place, 1);
  fibers[index].born = true;
  swapcontext(&scheduler_start, &fibers[index].start);
}

static bool all_wait(u32 first, u32 last, Wait wait) {
  for (u32 index = first; index < last; index++)
    if (fibers[index].wait != wait) return false;
  return true;
}

// one threadgroup from start to end; false when its threads wait for different things for ever
static bool run_group(char* stacks) {
  for (u32 index = 0; index < threads_in_group; index++) {
    Fiber& fiber = fibers[index];
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stacks + (size_t)index * STACK;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    fiber.wait = RUNNING;
    fiber.born = false;
    turn[index] = 0;
  }
  while (true) {
    bool moved = false;
    for (u32 first = 0; first < threads_in_group; first += SIMD) {
      u32 last = first + SIMD;
      while (all_wait(first, last, AT_SIMD) || fibers[first].wait == RUNNING) {
        moved = true;
        for (u32 index = first; index < last; index++) resume(index);
      }
    }
    if (all_wait(0, threads_in_group, DONE)) return true;
    if (all_wait(0, threads_in_group, AT_BARRIER)) {
      moved = true;
      for (u32 index = 0; index < threads_in_group; index++) resume(index);
    }
    if (!moved) return false;
  }
}

static int run_grid(void (*body)(), u32 gx, u32 gy, u32 gz, u32 threads) {
  char* stacks = (char*)malloc((size_t)threads * STACK);
  group_body = body;
  threads_in_group = threads;
  bool fine = true;
  for (u32 z = 0; z < gz && fine; z++)
    for (u32 y = 0; y < gy && fine; y++)
      for (u32 x = 0; x < gx && fine; x++) {
        group_at = {x, y, z};
        fine = run_group(stacks);
      }
  free(stacks);
  return fine ? 0 : 1;
}
