/* A linear layer of float32 on a CPU: activation(x weight^T + bias); see `linear_panels.h`. */

#include "lanes.h"

#if LANES == 16
#define ROWS 8
#define VECTORS 3
#define PART_BYTES 24576
#elif LANES == 8
#define ROWS 4
#define VECTORS 3
#define PART_BYTES 12288
#else
#define ROWS 4
#define VECTORS 2
#define PART_BYTES 12288
#endif
#define PANEL (VECTORS * LANES) /* outputs */
#define WORD_INPUTS 1
typedef float element, word;
#include "linear.h"

INLINE vec add_product(vec sum, ivec x, ivec weight) { return sum + (vec)x * (vec)weight; }

INLINE vec load_bias(const float *bias, int64_t count) {
    vec v = {0};
    if (count == LANES) return load_float(bias);
    memcpy(&v, bias, (size_t)count * sizeof(float));
    return v;
}

INLINE void finish_lanes(float *out, vec v, int64_t is_gelu, int64_t count) {
    if (is_gelu) v = gelu(v);
    if (count == LANES) store_float(out, v);
    else memcpy(out, &v, (size_t)count * sizeof(float));
}

#include "linear_panels.h"

/* Whether this kernel is as fast as oneDNN's. */
int can_multiply(void) { return LANES >= 8; }
