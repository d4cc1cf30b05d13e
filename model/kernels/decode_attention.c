/* Attention of a decode step on a CPU: one new token in each of some slots, over that slot's own
   keys and values.

   For every row with a slot, its new key and value are put into the cache at index `end`, then its
   queries attend to keys 0 to `end`. One thread computes one row and key/value head completely and
   reads that row alone, so a row's bits depend neither on its neighbours nor on the number of
   threads. Sums are kept in float32.

   This file includes itself once per element type. Legend: N rows, K key/value heads, G queries per
   key head, D head dim. Everything is [N, heads, D] or, in the cache, [slot, K, capacity, D]; D is
   contiguous. */

#ifndef ELEMENT
#include "lanes.h"

/* Replaces scores by softmax weights before normalisation: exp((score - highest) * scale). A NaN or
   infinite score makes all weights NaN. Returns the log-sum-exp, and in `total` the sum of the
   weights. */
INLINE float softmax_weights(float *scores, int64_t count, float scale, float *total) {
    vec high = broadcast(-INFINITY), sum = {0};
    for (int64_t j = 0; j < count; j += LANES) high = max_lanes(load_float(scores + j), high);
    float highest = high[0];
    for (int i = 1; i < LANES; i++) highest = MAX(highest, high[i]);
    for (int64_t j = 0; j < count; j += LANES) {
        vec weight = exp_lanes((load_float(scores + j) - broadcast(highest)) * scale);
        sum += weight;
        memcpy(scores + j, &weight, sizeof weight);
    }
    *total = add_lanes(sum);
    return highest * scale + logf(*total);
}

#ifdef __AVX512BF16__
/* `weighted_sum` of bfloat16, multiplied in pairs of keys. `dim` is a multiple of 32. */
INLINE void weighted_sum_pairs_bf16(
    const uint16_t *values, float *weights, int64_t count, int dim, float inverse, uint16_t *out) {
    int32_t *words = (int32_t *)weights; /* in place: pair i overwrites weight i, which has been read before */
    for (int64_t j = 0; j < count; j += 2 * LANES) {
        const int is_last = j + LANES >= count; /* behind `count`, weights are 0 up to a whole vector only */
        __m512 first = _mm512_loadu_ps(weights + j);
        __m512 second = is_last ? _mm512_setzero_ps() : _mm512_loadu_ps(weights + j + LANES);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first); /* neighbouring weights form the pairs */
        _mm512_storeu_si512(words + j / 2, both);
    }
    const __m512i low = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i high = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    for (int d = 0; d < dim; d += 64) { /* four vectors of the output at a time stay in registers */
        const int num_halves = MIN(2, (dim - d) / 32);
        __m512 sums[2][2] = {{{0}}};
        for (int64_t j = 0; j < count; j += 2) {
            const uint16_t *value = values + j * dim + d;
            __m512bh weight = (__m512bh)_mm512_set1_epi32(words[j / 2]);
            for (int h = 0; h < num_halves; h++) {
                __m512i even = _mm512_loadu_si512(value + 32 * h);
                __m512i odd = j + 1 < count ? _mm512_loadu_si512(value + dim + 32 * h) : _mm512_setzero_si512();
                sums[h][0] = _mm512_dpbf16_ps(sums[h][0], weight, (__m512bh)_mm512_unpacklo_epi16(even, odd));
                sums[h][1] = _mm512_dpbf16_ps(sums[h][1], weight, (__m512bh)_mm512_unpackhi_epi16(even, odd));
            }
        }
        for (int h = 0; h < num_halves; h++) { /* unpacking mixed the outputs in groups of four: reorder */
            store_bf16(out + d + 32 * h, (vec)_mm512_permutex2var_ps(sums[h][0], low, sums[h][1]) * inverse);
            store_bf16(out + d + 32 * h + LANES, (vec)_mm512_permutex2var_ps(sums[h][0], high, sums[h][1]) * inverse);
        }
    }
}
#endif

#define ELEMENT float
#define KIND float
#include __FILE__
#undef ELEMENT
#undef KIND
#define ELEMENT uint16_t
#define KIND bf16
#include __FILE__

#else /* ELEMENT */

#define LOAD NAME(load, KIND)
#define GET NAME(get, KIND)
#define PUT NAME(put, KIND)

/* Unscaled scores of a query and `count` keys, then minus infinity up to a whole vector. Values are fetched into the
   second-level cache on the way: two streams of memory at a time are faster than one after the other. */
INLINE void NAME(score, KIND)(
    const ELEMENT *q, const ELEMENT *keys, const ELEMENT *values, int64_t count, int dim, float *scores) {
    const int num_vecs = dim / LANES, line = 64 / sizeof(ELEMENT);
    for (int64_t first = 0; first < count; first += LANES) {
        for (int64_t at = first * dim; at < MIN(first + LANES, count) * dim; at += line)
            __builtin_prefetch(values + at, 0, 2);
        vec sums[LANES] = {{0}};
        UNROLLED for (int t = 0; t < LANES; t++) {
            const ELEMENT *key = keys + MIN(first + t, count - 1) * dim;
#ifdef __AVX512BF16__
            if (sizeof(ELEMENT) == 2 && dim % 32 == 0) {
                UNROLLED for (int d = 0; d < dim; d += 32)
                    sums[t] = (vec)_mm512_dpbf16_ps(
                        (__m512)sums[t], (__m512bh)_mm512_loadu_si512(q + d), (__m512bh)_mm512_loadu_si512(key + d));
                continue;
            }
#endif
            for (int c = 0; c < num_vecs; c++) sums[t] += LOAD(q + c * LANES) * LOAD(key + c * LANES);
        }
        vec together = add_rows(sums);
        memcpy(scores + first, &together, sizeof together);
        for (int64_t j = first; j < MIN(first + LANES, count); j++)
            for (int d = num_vecs * LANES; d < dim; d++) scores[j] += GET(q + d) * GET(keys + j * dim + d);
        for (int64_t j = count; j < first + LANES; j++) scores[j] = -INFINITY;
    }
}

/* The weighted sum of `count` values, times `inverse`. */
INLINE void NAME(weighted_sum, KIND)(
    float *weights, const ELEMENT *values, int64_t count, int dim, float inverse, ELEMENT *out) {
    const int num_vecs = dim / LANES;
#ifdef __AVX512BF16__
    if (sizeof(ELEMENT) == 2 && dim % 32 == 0) {
        weighted_sum_pairs_bf16((const uint16_t *)values, weights, count, dim, inverse, (uint16_t *)out);
        return;
    }
#endif
    for (int first = 0; first < num_vecs; first += 8) { /* eight vectors of the output at a time stay in registers */
        const int n = num_vecs - first < 8 ? num_vecs - first : 8;
        vec acc[8] = {{0}};
        for (int64_t j = 0; j < count; j++) {
            vec weight = broadcast(weights[j]);
            const ELEMENT *value = values + j * dim + first * LANES;
            for (int c = 0; c < n; c++) acc[c] += weight * LOAD(value + c * LANES);
        }
        for (int c = 0; c < n; c++) NAME(store, KIND)(out + (first + c) * LANES, acc[c] * inverse);
    }
    for (int d = num_vecs * LANES; d < dim; d++) {
        float acc = 0;
        for (int64_t j = 0; j < count; j++) acc += weights[j] * GET(values + j * dim + d);
        PUT(out + d, acc * inverse);
    }
}

/* One query over `count` keys. `scores` has space for `count` rounded up to whole vectors. Returns
   the log-sum-exp. */
INLINE float NAME(attend, KIND)(
    const ELEMENT *q, const ELEMENT *keys, const ELEMENT *values, int64_t count, int dim, float scale, float *scores,
    ELEMENT *out) {
    NAME(score, KIND)(q, keys, values, count, dim, scores);
    float total;
    const float logsum = softmax_weights(scores, count, scale, &total);
    NAME(weighted_sum, KIND)(scores, values, count, dim, 1.0f / total, out);
    return logsum;
}

/* Strides in elements. A row whose slot is -1 is idle: its output is 0 and its log-sum-exp minus infinity. */
typedef struct {
    const ELEMENT *q, *new_k, *new_v;
    ELEMENT *cache_k, *cache_v, *out; /* out [N, heads, D] */
    float *lse;                       /* [N, heads] */
    const int64_t *slots, *ends;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head, slot_stride, head_stride;
    int64_t num_rows, num_kv_heads, group, dim, longest;
    float scale;
} NAME(arguments, KIND);

/* Returns 0, or 1 if there is no memory. */
int NAME(decode_attention, KIND)(const NAME(arguments, KIND) *a, int num_threads) {
    const int64_t num_kv_heads = a->num_kv_heads, group = a->group, dim = a->dim;
    const float scale = a->scale;
    const int64_t padded = (a->longest + 2 * LANES) / LANES * LANES, heads = num_kv_heads * group;
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        float *scores = allocate(padded);
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 2)
        for (int64_t item = 0; item < a->num_rows * num_kv_heads; item++) {
            const int64_t row = item / num_kv_heads, kv = item % num_kv_heads, slot = a->slots[row], end = a->ends[row];
            if (!scores) continue;
            if (slot < 0) {
                memset(a->out + (row * heads + kv * group) * dim, 0, (size_t)(group * dim) * sizeof(ELEMENT));
                for (int64_t g = 0; g < group; g++) a->lse[row * heads + kv * group + g] = -INFINITY;
                continue;
            }
            ELEMENT *keys = a->cache_k + slot * a->slot_stride + kv * a->head_stride;
            ELEMENT *values = a->cache_v + slot * a->slot_stride + kv * a->head_stride;
            memcpy(keys + end * dim, a->new_k + row * a->k_row + kv * a->k_head, (size_t)dim * sizeof(ELEMENT));
            memcpy(values + end * dim, a->new_v + row * a->v_row + kv * a->v_head, (size_t)dim * sizeof(ELEMENT));
            for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
                const ELEMENT *query = a->q + row * a->q_row + head * a->q_head;
                ELEMENT *result = a->out + (row * heads + head) * dim;
                float *logsum = a->lse + row * heads + head;
                if (dim == 64) /* a constant lets the compiler unroll */
                    *logsum = NAME(attend, KIND)(query, keys, values, end + 1, 64, scale, scores, result);
                else if (dim == 128)
                    *logsum = NAME(attend, KIND)(query, keys, values, end + 1, 128, scale, scores, result);
                else
                    *logsum = NAME(attend, KIND)(query, keys, values, end + 1, (int)dim, scale, scores, result);
            }
        }
        free(scores);
    }
    return failed;
}

#undef LOAD
#undef GET
#undef PUT
#endif
