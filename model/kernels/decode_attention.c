/* Attention of a decode step on a CPU: one new token in each of some slots, over that slot's own keys and values.

   For every row with a slot: its new key and value are put into the cache at index `end`, then its queries attend to
   keys 0 to `end`. One thread computes one row and key/value head from beginning to end and reads that row alone, so a
   row's bits depend neither on its neighbours nor on the number of threads. Sums are kept in float32.

   Included once per element type by the bottom of this file. Legend: N rows, K key/value heads, G queries a key head,
   D head dim. Everything is [N, heads, D] or, in the cache, [slot, K, capacity, D]; D is contiguous. */

#ifndef NUMBER
#include "lanes.h"

#define NUMBER float
#define KIND float
#include __FILE__
#undef NUMBER
#undef KIND
#define NUMBER uint16_t
#define KIND bf16
#include __FILE__

#else /* NUMBER */

#define LOAD NAME(load, KIND)
#define GET NAME(get, KIND)
#define PUT NAME(put, KIND)

/* One query over `count` keys. `scores` has room for `count` rounded up to whole vectors. Returns the log-sum-exp. */
static inline __attribute__((always_inline)) float NAME(attend, KIND)(
    const float *q, const NUMBER *keys, const NUMBER *values, int64_t count, int dim, float *scores, NUMBER *out) {
    const int num_vecs = dim / LANES, whole = num_vecs * LANES;
    const int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t j = 0; j < count; j++) {
        const NUMBER *key = keys + j * dim;
        vec sum = {0};
        for (int c = 0; c < num_vecs; c++) sum += load_float(q + c * LANES) * LOAD(key + c * LANES);
        float score = add_lanes(sum);
        for (int d = whole; d < dim; d++) score += q[d] * GET(key + d);
        scores[j] = score;
    }
    for (int64_t j = count; j < padded; j++) scores[j] = -INFINITY;
    float highest = scores[0];
    int is_nan = scores[0] != scores[0];
    for (int64_t j = 1; j < count; j++) {
        highest = scores[j] > highest ? scores[j] : highest;
        is_nan |= scores[j] != scores[j];
    }
    if (is_nan) highest = NAN;
    vec total = {0};
    for (int64_t j = 0; j < padded; j += LANES) {
        vec weight = exp_lanes(load_float(scores + j) - broadcast(highest));
        total += weight;
        memcpy(scores + j, &weight, sizeof weight);
    }
    float sum = is_nan ? NAN : add_lanes(total), inverse = 1.0f / sum;
    for (int first = 0; first < num_vecs; first += 8) { /* eight vectors of the output at a time stay in registers */
        const int n = num_vecs - first < 8 ? num_vecs - first : 8;
        vec acc[8] = {{0}};
        for (int64_t j = 0; j < count; j++) {
            vec weight = broadcast(scores[j]);
            const NUMBER *value = values + j * dim + first * LANES;
            for (int c = 0; c < n; c++) acc[c] += weight * LOAD(value + c * LANES);
        }
        for (int c = 0; c < n; c++)
            for (int i = 0; i < LANES; i++) PUT(out + (first + c) * LANES + i, acc[c][i] * inverse);
    }
    for (int d = whole; d < dim; d++) {
        float acc = 0;
        for (int64_t j = 0; j < count; j++) acc += scores[j] * GET(values + j * dim + d);
        PUT(out + d, acc * inverse);
    }
    return highest + logf(sum);
}

/* Strides in elements. `slots` -1: the row is idle, its output 0 and its log-sum-exp minus infinity. Returns 0, or 1
   when memory ran out. */
int NAME(decode_attention, KIND)(
    const NUMBER *q, int64_t q_row, int64_t q_head, const NUMBER *new_k, int64_t k_row, int64_t k_head,
    const NUMBER *new_v, int64_t v_row, int64_t v_head, NUMBER *cache_k, NUMBER *cache_v, int64_t slot_stride,
    int64_t head_stride, const int64_t *slots, const int64_t *ends, int64_t num_rows, int64_t num_kv_heads,
    int64_t group, int64_t dim, float scale, NUMBER *out, float *lse, int64_t longest, int num_threads) {
    const int64_t room = (longest + 2 * LANES) / LANES * LANES, heads = num_kv_heads * group;
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        float *scores = aligned_alloc(64, (size_t)(room + (dim + LANES) / LANES * LANES) * sizeof(float));
        float *query = scores + room;
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 2)
        for (int64_t item = 0; item < num_rows * num_kv_heads; item++) {
            const int64_t row = item / num_kv_heads, kv = item % num_kv_heads, slot = slots[row], end = ends[row];
            if (!scores) continue;
            if (slot < 0) {
                memset(out + (row * heads + kv * group) * dim, 0, (size_t)(group * dim) * sizeof(NUMBER));
                for (int64_t g = 0; g < group; g++) lse[row * heads + kv * group + g] = -INFINITY;
                continue;
            }
            NUMBER *keys = cache_k + slot * slot_stride + kv * head_stride;
            NUMBER *values = cache_v + slot * slot_stride + kv * head_stride;
            memcpy(keys + end * dim, new_k + row * k_row + kv * k_head, (size_t)dim * sizeof(NUMBER));
            memcpy(values + end * dim, new_v + row * v_row + kv * v_head, (size_t)dim * sizeof(NUMBER));
            for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
                for (int64_t d = 0; d < dim; d++) query[d] = GET(q + row * q_row + head * q_head + d) * scale;
                NUMBER *result = out + (row * heads + head) * dim;
                float *logsum = lse + row * heads + head;
                if (dim == 64) /* known sizes unroll */
                    *logsum = NAME(attend, KIND)(query, keys, values, end + 1, 64, scores, result);
                else if (dim == 128)
                    *logsum = NAME(attend, KIND)(query, keys, values, end + 1, 128, scores, result);
                else
                    *logsum = NAME(attend, KIND)(query, keys, values, end + 1, (int)dim, scores, result);
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
