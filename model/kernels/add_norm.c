/* Residual addition and LayerNorm of rows in one pass over memory, on a CPU. One thread computes a
   row completely, so the row's bits depend on itself alone. The sum is rounded to its stored type
   before it is normalised; mean and variance are float32.

   This file includes itself once per element type. Legend: N rows, C elements of a row, a multiple
   of 16. */

#ifndef ELEMENT
#include "lanes.h"

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

/* Everything is contiguous: `hidden`, `update` and both results [N, C], `weight` and `bias` [C]. `total` may be
   `hidden`. */
typedef struct {
    const ELEMENT *hidden, *update, *weight, *bias;
    ELEMENT *total, *normed;
    int64_t num_rows, size;
    float eps;
} NAME(arguments, KIND);

int NAME(add_norm, KIND)(const NAME(arguments, KIND) *a, int num_threads) {
    const int64_t size = a->size;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 4)
    for (int64_t row = 0; row < a->num_rows; row++) {
        const int64_t at = row * size;
        ELEMENT *total = a->total;
        vec sum = {0}, squares = {0};
        for (int64_t c = 0; c < size; c += LANES) {
            STORE(total + at + c, LOAD(a->hidden + at + c) + LOAD(a->update + at + c));
            sum += LOAD(total + at + c);
        }
        const vec mean = broadcast(add_lanes(sum) / (float)size);
        for (int64_t c = 0; c < size; c += LANES) {
            vec centred = LOAD(total + at + c) - mean;
            squares += centred * centred;
        }
        const vec scale = broadcast(1.0f / sqrtf(add_lanes(squares) / (float)size + a->eps));
        for (int64_t c = 0; c < size; c += LANES)
            STORE(a->normed + at + c, (LOAD(total + at + c) - mean) * scale * LOAD(a->weight + c) + LOAD(a->bias + c));
    }
    return 0;
}

#undef LOAD
#undef STORE
#endif
