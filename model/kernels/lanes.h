/* What the kernels of this folder share: vectors of floats as wide as the CPU has them, and numbers of two kinds read into them. */

#ifndef LANES
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t ulanes __attribute__((vector_size(4 * LANES)));
typedef uint16_t bf16_lanes __attribute__((vector_size(2 * LANES)));

static inline vec broadcast(float x) { return x - (vec){0}; }

static inline float add_lanes(vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
#endif
}

/* e^x for x <= 0, to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
static inline vec exp_lanes(vec x) {
    const vec magic = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    ivec is_low = x < broadcast(-87.0f);
    vec n = x * broadcast(1.44269504088896341f) + magic - magic;
    vec r = x - n * broadcast(0.693359375f) + n * broadcast(2.12194440e-4f);
    vec p = broadcast(1.9875691500e-4f);
    p = p * r + broadcast(1.3981999507e-3f);
    p = p * r + broadcast(8.3334519073e-3f);
    p = p * r + broadcast(4.1665795894e-2f);
    p = p * r + broadcast(1.6666665459e-1f);
    p = p * r + broadcast(5.0000001201e-1f);
    p = p * r * r + r + broadcast(1.0f);
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    vec result = p * (vec)power;
    return (vec)((ivec)result & ~is_low);
}

static inline vec load_float(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store_float(float *p, vec v) { memcpy(p, &v, sizeof v); }
static inline float get_float(const float *p) { return *p; }
static inline void put_float(float *p, float x) { *p = x; }

static inline vec load_bf16(const uint16_t *p) {
    bf16_lanes half;
    memcpy(&half, p, sizeof half);
    return (vec)(__builtin_convertvector(half, ivec) << 16);
}
static inline float get_bf16(const uint16_t *p) {
    uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline void put_bf16(uint16_t *p, float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    *p = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline void store_bf16(uint16_t *p, vec v) {
    ulanes bits = (ulanes)v, rounded = bits + 0x7fff + ((bits >> 16) & 1);
    ulanes is_number = (ulanes)(v == v);
    bf16_lanes half = __builtin_convertvector(((rounded & is_number) | (0x7fc00000u & ~is_number)) >> 16, bf16_lanes);
    memcpy(p, &half, sizeof half);
}

#define NAME_(a, b) a##_##b
#define NAME(a, b) NAME_(a, b)

#endif
