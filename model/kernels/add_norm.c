/* Residual addition and LayerNorm of rows in one pass over memory, on a CPU. A row is one thread's from beginning to
   end, so its bits depend on itself alone. What is normed is the sum as it is stored; mean and variance are float32.

   Included once per element type by the middle of this file. Legend: N rows, C numbers of a row, a multiple of 16. */

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
#define STORE NAME(store, KIND)

/* Everything is contiguous: `hidden`, `update` and both results [N, C], `weight` and `bias` [C]. */
void NAME(add_norm, KIND)(
    const NUMBER *hidden, const NUMBER *update, const NUMBER *weight, const NUMBER *bias, NUMBER *total, NUMBER *normed,
    int64_t num_rows, int64_t size, float eps, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
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
