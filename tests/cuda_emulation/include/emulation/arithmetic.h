// Device functions of numbers: loads, bits, conversions, and the intrinsics that `--use_fast_math` puts for the exact ones.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// ---- loads that go through other caches, and stores
template <class T> inline T __ldg(const T* address) { return *address; }
template <class T> inline T __ldcg(const T* address) { return *address; }
template <class T> inline T __ldca(const T* address) { return *address; }
template <class T> inline T __ldcs(const T* address) { return *address; }
template <class T> inline void __stcs(T* address, T value) { *address = value; }
template <class T> inline void __stcg(T* address, T value) { *address = value; }

// ---- the bits of numbers
namespace emulation {
template <class To, class From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}
}  // namespace emulation
inline int __float_as_int(float x) { return emulation::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulation::bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulation::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulation::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulation::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulation::bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (x >> bit & 1) << (31 - bit);
    return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

// ---- conversions
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline int __float2int_ru(float x) { return (int)ceilf(x); }
inline unsigned __float2uint_rn(float x) { return (unsigned)rintf(x); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }

// ---- float32: as exact as the device's, or as inexact
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float __fdividef(float a, float b) { return a * (1 / b); }
inline float __log2f(float x) { return log2f(x); }
inline float __logf(float x) { return log2f(x) * 0.693147181f; }
inline float __log10f(float x) { return log2f(x) * 0.301029996f; }
inline float __expf(float x) { return exp2f(x * 1.44269504f); }
inline float __exp10f(float x) { return exp2f(x * 3.32192809f); }
inline float __powf(float x, float y) { return exp2f(y * log2f(x)); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return __fdividef(sinf(x), cosf(x)); }
inline void __sincosf(float x, float* sine, float* cosine) { *sine = sinf(x), *cosine = cosf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.707106781f); }
inline double erfinv(double y) {
    double x = 0;  // Newton's method on erf(x) - y, from Winitzki's approximation
    const double l = log(1 - y * y), a = 2 / (M_PI * 0.147) + l / 2;
    if (!(y > -1 && y < 1)) return y == 1 ? INFINITY : y == -1 ? -INFINITY : NAN;
    x = copysign(sqrt(sqrt(a * a - l / 0.147) - a), y);
    for (int i = 0; i < 4; i++) x -= (erf(x) - y) / (M_2_SQRTPI * exp(-x * x));
    return x;
}
inline float erfinvf(float y) { return (float)erfinv((double)y); }
inline float erfinv(float y) { return erfinvf(y); }

// ---- min and max of the global namespace; fmin's and fmax's treatment of NaN, as the device's
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
#define EMULATION_MIN_MAX(A, B, T)                                    \
    inline T min(A a, B b) { return (T)a < (T)b ? (T)a : (T)b; }      \
    inline T max(A a, B b) { return (T)a > (T)b ? (T)a : (T)b; }
EMULATION_MIN_MAX(int, int, int)
EMULATION_MIN_MAX(unsigned, unsigned, unsigned)
EMULATION_MIN_MAX(int, unsigned, unsigned)
EMULATION_MIN_MAX(unsigned, int, unsigned)
EMULATION_MIN_MAX(long, long, long)
EMULATION_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATION_MIN_MAX(long, unsigned long, unsigned long)
EMULATION_MIN_MAX(unsigned long, long, unsigned long)
EMULATION_MIN_MAX(long long, long long, long long)
EMULATION_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATION_MIN_MAX(long long, unsigned long long, unsigned long long)
EMULATION_MIN_MAX(unsigned long long, long long, unsigned long long)
using std::isfinite;
using std::isinf;
using std::isnan;

#ifdef __USE_FAST_MATH__
#define expf __expf
#define exp10f __exp10f
#define logf __logf
#define log2f __log2f
#define log10f __log10f
#define powf __powf
#define sinf __sinf
#define cosf __cosf
#define tanf __tanf
#define sincosf __sincosf
namespace std {
using ::__cosf;
using ::__expf;
using ::__log10f;
using ::__log2f;
using ::__logf;
using ::__powf;
using ::__sinf;
using ::__tanf;
}  // namespace std
#endif
