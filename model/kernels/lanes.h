/* Shared by the kernels of this folder: vectors of floats as wide as the CPU's, and loads of
   float32 and bfloat16. */

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

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
/* Keeps a vector in a register, which compilers would load anew for every row. Behind a product it keeps them from
   adding in the same operation, which rounds otherwise: they do it in one copy of the code and not in another. */
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define IN_REGISTER(v) (void)(v)
#endif
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLLED _Pragma("unroll 16")
#else
#define UNROLLED _Pragma("GCC unroll 16") /* so that a lane's index becomes a constant */
#endif

/* `words` words of 32 bits, aligned for cache lines, tiles and vectors; NULL if there is no memory. The
   size is rounded up, because C11 allows only multiples of the alignment. */
static __attribute__((noinline, unused)) void *allocate(int64_t words) {
    enum { ALIGNMENT = 64 };
    return aligned_alloc(ALIGNMENT, ((size_t)words * sizeof(int32_t) / ALIGNMENT + 1) * ALIGNMENT);
}

INLINE vec broadcast(float x) { return x - (vec){0}; }

INLINE float add_lanes(vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
#endif
}

/* e^x for x <= 0, to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 /
   2]. */
INLINE vec exp_lanes(vec x) {
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

/* 2^x for x <= 0, NaN for NaN: a power of two times the polynomial on [-1/2, 1/2] that is best in
   relative error. */
INLINE vec exp2_lanes(vec x) {
    const vec magic = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    ivec is_low = x < broadcast(-126.0f);
    vec shifted = x + magic, r = x - (shifted - magic), p = broadcast(1.32765e-3f);
    p = p * r + broadcast(9.67554e-3f);
    p = p * r + broadcast(5.550713e-2f);
    p = p * r + broadcast(2.4022120e-1f);
    p = p * r + broadcast(6.9314697e-1f);
    p = p * r + broadcast(1.0f); /* 2^0 is exactly 1 */
    vec power = (vec)(((ulanes)shifted << 23) + 0x3f800000u); /* unsigned: lanes of low x overflow and are dropped */
    return (vec)((ivec)(p * power) & ~is_low);
}

/* The same with a relative error of 3e-6, far below the precision of bfloat16; the polynomial is on
   [0, 1]. With AVX512DQ it takes any x. */
INLINE vec rough_exp2_lanes(vec x) {
#ifdef __AVX512DQ__
    vec r = (vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF), p; /* 0 for minus infinity */
    p = broadcast(1.35341650e-2f);
    p = p * r + broadcast(5.20114638e-2f);
    p = p * r + broadcast(2.41442755e-1f);
    p = p * r + broadcast(6.93003833e-1f);
    p = p * r + broadcast(1.00000262e0f);
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return exp2_lanes(x);
#endif
}

INLINE vec choose(ivec which, vec a, vec b) { return (vec)((which & (ivec)a) | (~which & (ivec)b)); }

/* a b + c, rounded once where the CPU has such an operation and always in the same way in one library. */
INLINE vec multiply_add(vec a, vec b, vec c) {
#ifdef __AVX512F__
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    vec product = a * b;
    IN_REGISTER(product);
    return product + c;
#endif
}

INLINE vec max_lanes(vec a, vec b) {
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

/* The lanes of two concatenated vectors that are picked when blocks of `size` lanes are transposed. */
INLINE void pick_lanes(int size, ivec *first, ivec *second) {
    UNROLLED for (int i = 0; i < LANES; i++) {
        (*first)[i] = i & size ? i - size + LANES : i;
        (*second)[i] = i & size ? i + LANES : i + size;
    }
}

/* Lane i of the result is lane from[i] of `a` and `b` concatenated. */
INLINE ivec shuffle(ivec a, ivec b, ivec from) {
#ifdef __clang__
    ivec picked;
    UNROLLED for (int i = 0; i < LANES; i++) picked[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
    return picked;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

INLINE void transpose_blocks(ivec rows[LANES], int size) {
    ivec first, second;
    pick_lanes(size, &first, &second);
    UNROLLED for (int i = 0; i < LANES; i++) {
        if (i & size) continue;
        ivec a = rows[i], b = rows[i + size];
        rows[i] = shuffle(a, b, first);
        rows[i + size] = shuffle(a, b, second);
    }
}

/* Transposes LANES vectors of LANES words: swaps blocks of 1, 2, 4, … lanes across the diagonal. */
INLINE void transpose(ivec rows[LANES]) {
    transpose_blocks(rows, 1);
    transpose_blocks(rows, 2);
    if (LANES >= 8) transpose_blocks(rows, 4);
    if (LANES >= 16) transpose_blocks(rows, 8);
}

INLINE void add_blocks(vec rows[LANES], int size) {
    ivec first, second;
    pick_lanes(size, &first, &second);
    UNROLLED for (int i = 0; i + size < LANES; i += 2 * size) {
        ivec a = (ivec)rows[i], b = (ivec)rows[i + size];
        rows[i] = (vec)shuffle(a, b, first) + (vec)shuffle(a, b, second);
    }
}

/* Lane i of the result is the sum of all lanes of row i; every row is summed in the same order. */
INLINE vec add_rows(vec rows[LANES]) {
    add_blocks(rows, 1);
    add_blocks(rows, 2);
    if (LANES >= 8) add_blocks(rows, 4);
    if (LANES >= 16) add_blocks(rows, 8);
    return rows[0];
}

INLINE vec load_float(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store_float(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE float get_float(const float *p) { return *p; }
INLINE void put_float(float *p, float x) { *p = x; }

/* Compilers split the generic conversions although the CPU has one instruction for each. */
INLINE ivec widen(bf16_lanes half) {
#ifdef __AVX512F__
    return (ivec)_mm512_cvtepu16_epi32((__m256i)half);
#else
    return __builtin_convertvector(half, ivec);
#endif
}
INLINE bf16_lanes narrow(ulanes words) {
#ifdef __AVX512F__
    return (bf16_lanes)_mm512_cvtepi32_epi16((__m512i)words);
#else
    return __builtin_convertvector(words, bf16_lanes);
#endif
}
INLINE vec load_bf16(const uint16_t *p) {
    bf16_lanes half;
    memcpy(&half, p, sizeof half);
    return (vec)(widen(half) << 16);
}
INLINE float get_bf16(const uint16_t *p) {
    uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
INLINE void put_bf16(uint16_t *p, float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    *p = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE void store_bf16(uint16_t *p, vec v) {
#ifdef __AVX512BF16__
    bf16_lanes half = (bf16_lanes)_mm512_cvtneps_pbh((__m512)v); /* values below 2^-126 become 0 */
#else
    ulanes bits = (ulanes)v, rounded = bits + 0x7fff + ((bits >> 16) & 1);
    ulanes is_number = (ulanes)(v == v);
    bf16_lanes half = narrow(((rounded & is_number) | (0x7fc00000u & ~is_number)) >> 16);
#endif
    memcpy(p, &half, sizeof half);
}

#ifdef __AVX512BF16__
/* Words of two bfloat16: `even` in the low half, `odd` in the high half. */
INLINE ivec pair_bf16(vec even, vec odd) {
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    return (ivec)_mm512_permutexvar_epi16(order, both);
}
#endif

/* Whether the compiler's options keep NaN, infinity and the order of additions: called with NaN,
   infinity and 1e8 when the library is loaded. */
int keeps_arithmetic(float nan, float infinity, float big) {
    const float beside = big + 1.0f; /* 1e8 again, rounded; an optimiser that reorders makes the difference 1 */
    return nan != nan && infinity > 3.4e38f && infinity - infinity != 0 && beside - big == 0;
}

#define NAME_(a, b) a##_##b
#define NAME(a, b) NAME_(a, b)

#endif
