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

/* Everything is contiguous: `hidden`, `update` and both results [N, C], `weight` and `bias` [C]. */
void NAME(add_norm, KIND)(
    const ELEMENT *hidden, const ELEMENT *update, const ELEMENT *weight, const ELEMENT *bias, ELEMENT *total,
    ELEMENT *normed, int64_t num_rows, int64_t size, float eps, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 4)
    for (int64_t row = 0; row < num_rows; row++) {
        const int64_t at = row * size;
        vec sum = {0}, squares = {0};
        for (int64_t c = 0; c < size; c += LANES) {
            STORE(total + at + c, LOAD(hidden + at + c) + LOAD(update + at + c));
            sum += LOAD(total + at + c);
        }
        const vec mean = broadcast(add_lanes(sum) / (float)size);
        for (int64_t c = 0; c < size; c += LANES) {
            vec centred = LOAD(total + at + c) - mean;
            squares += centred * centred;
        }
        const vec scale = broadcast(1.0f / sqrtf(add_lanes(squares) / (float)size + eps));
        for (int64_t c = 0; c < size; c += LANES)
            STORE(normed + at + c, (LOAD(total + at + c) - mean) * scale * LOAD(weight + c) + LOAD(bias + c));
    }
}

#undef LOAD
#undef STORE
#endif
