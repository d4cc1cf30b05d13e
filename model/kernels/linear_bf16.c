/* A linear layer of bfloat16 on a CPU with AVX512-BF16: activation(x weight^T + bias), sums in float32; see
   `linear_panels.h`. Inputs are even: a word is a pair of them. */

#include "lanes.h"

#ifdef __AVX512BF16__
#define ROWS 8
#define VECTORS 3
#define PART_BYTES 24576
#define PANEL (VECTORS * LANES) /* outputs */
#define WORD_INPUTS 2
typedef uint16_t element;
typedef int32_t word;
#include "linear.h"

INLINE vec add_product(vec sum, ivec x, ivec weight) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)weight);
}

INLINE __mmask16 first_lanes(int64_t count) { return (__mmask16)((1u << count) - 1); }

INLINE vec load_bias(const uint16_t *bias, int64_t count) {
    return (vec)(widen((bf16_lanes)_mm256_maskz_loadu_epi16(first_lanes(count), bias)) << 16);
}

INLINE void finish_lanes(uint16_t *out, vec v, int64_t is_gelu, int64_t count) {
    if (is_gelu) v = rough_gelu(v);
    _mm256_mask_storeu_epi16(out, first_lanes(count), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

/* Floats that hold the bfloat16 values: who needs floats, as sampling does, need not read and write
   all again. */
INLINE void store_rounded(float *out, vec v, int64_t count) {
    const bf16_lanes rounded = (bf16_lanes)_mm512_cvtneps_pbh((__m512)v);
    _mm512_mask_storeu_ps(out, first_lanes(count), (__m512)(widen(rounded) << 16));
}

#define HAS_FLOAT_OUT
#include "linear_panels.h"

int can_multiply(void) { return 1; }
#else
int can_multiply(void) { return 0; }
#endif
