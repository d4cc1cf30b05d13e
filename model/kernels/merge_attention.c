/* Merges attention over two sets of keys into attention over both (split-KV), on a CPU. A row's bits depend on that row
   alone.

   This file includes itself once per element type. Legend: N rows, H heads, D head dim. */

#ifndef ELEMENT
#include "lanes.h"

/* The other keys' share of the softmax over all keys: exp(other) / (exp(own) + exp(other)). */
INLINE float share_of_other(float own, float other) {
    const float difference = other - own, size = difference < 0 ? -difference : difference;
    const float smaller = exp_lanes(broadcast(-size))[0];
    return (difference < 0 ? smaller : 1.0f) / (1.0f + smaller);
}

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
#define STORE NAME(store, KIND)
#define GET NAME(get, KIND)
#define PUT NAME(put, KIND)

/* Everything is contiguous: `out` and `other` [N, H, D], the log-sum-exps [N, H], `has_other` [N]. `out` gets the
   merged attention; rows without other keys stay as they are. */
typedef struct {
    ELEMENT *out;
    const ELEMENT *other;
    const float *lse, *other_lse;
    const uint8_t *has_other;
    int64_t num_rows, num_heads, dim;
} NAME(arguments, KIND);

int NAME(merge_attention, KIND)(const NAME(arguments, KIND) *a, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 4)
    for (int64_t row = 0; row < a->num_rows; row++) {
        if (!a->has_other[row]) continue;
        for (int64_t head = row * a->num_heads; head < (row + 1) * a->num_heads; head++) {
            const float share = share_of_other(a->lse[head], a->other_lse[head]);
            ELEMENT *out = a->out + head * a->dim;
            const ELEMENT *other = a->other + head * a->dim;
            int64_t d = 0;
            for (; d + LANES <= a->dim; d += LANES) {
                const vec own = LOAD(out + d);
                STORE(out + d, own + share * (LOAD(other + d) - own));
            }
            for (; d < a->dim; d++) PUT(out + d, GET(out + d) + share * (GET(other + d) - GET(out + d)));
        }
    }
    return 0;
}

#undef LOAD
#undef STORE
#undef GET
#undef PUT
#endif
