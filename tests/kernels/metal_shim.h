// enough of Metal's standard library for clang to check a kernel's types, address spaces included
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define kernel
#define INFINITY __builtin_inff()
// a static is the one local that clang lets live in another address space
#define SHARED_ARRAY(type, name, count) static threadgroup type name[count]

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned long ulong;
typedef uint uint32_t;
typedef int int32_t;
typedef uint uint2 __attribute__((ext_vector_type(2)));
typedef uint uint3 __attribute__((ext_vector_type(3)));
typedef uint uint4 __attribute__((ext_vector_type(4)));
typedef float float4 __attribute__((ext_vector_type(4)));
struct bfloat16_t { ushort bits; };

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags);
float simd_sum(float);
float simd_max(float);
float simd_shuffle(float, ushort);
float simd_shuffle_xor(float, ushort);
struct simd_vote {
  ulong votes;
  explicit operator ulong() const { return votes; }
};
simd_vote simd_ballot(bool);
uint popcount(uint);
template <typename To, typename From> To as_type(From from) { return __builtin_bit_cast(To, from); }
float fma(float, float, float);
namespace precise {
float exp(float);
float log(float);
float rsqrt(float);
}  // namespace precise
