/* Shared by the kernels of linear layers: activation(x weight^T + bias).

   The weight is packed once, in panels of PANEL outputs: words of WORD_INPUTS adjacent inputs of one
   output, [inputs / WORD_INPUTS][PANEL]. Includers define both, and the types `element` (of x, bias and
   out) and `word`. */

#include "gelu.h"
#include "lanes.h"

typedef struct {
    const element *x, *bias; /* [rows][inputs]; [outputs] or NULL */
    const word *weight;      /* packed */
    element *out;            /* [rows][outputs] */
    int64_t num_rows, num_inputs, num_outputs, is_gelu;
    int64_t is_float_out; /* `out` has floats, which hold what an element would; not for all kernels */
} linear_arguments;

/* Outputs that are packed together. */
int panel_size(void) { return PANEL; }

INLINE int64_t panels_of(int64_t num_outputs) { return (num_outputs + PANEL - 1) / PANEL; }

/* `weight` is [outputs][inputs], inputs a multiple of WORD_INPUTS; the outputs are padded with zeros to
   whole panels. */
void pack_weight(const element *weight, int64_t num_inputs, int64_t num_outputs, word *packed, int num_threads) {
    const int64_t num_words = num_inputs / WORD_INPUTS;
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(num_outputs); panel++)
        for (int64_t k = 0; k < num_words; k++)
            for (int i = 0; i < PANEL; i++) {
                const int64_t output = panel * PANEL + i;
                word *to = packed + (panel * num_words + k) * PANEL + i;
                *to = 0;
                if (output < num_outputs) memcpy(to, weight + output * num_inputs + WORD_INPUTS * k, sizeof *to);
            }
}
