/* A linear layer of float32 on a CPU: activation(x weight^T + bias).

   The weight is packed once, in panels of some outputs, [inputs][PANEL]. Work is cut into small items
   of some rows by some panels, which threads take one after the other: a thread whose core is busy with
   another process delays the others by one item at most. Within an item the inputs are processed in
   parts, so that a part of a panel stays in the first-level cache while all rows use it; each part has
   sums of its own, which are added up in the order of parts: that rounds less than one long chain. So a
   result's bits depend on its own row alone: not on other rows, on their number, or on the number of
   threads. */

#include "lanes.h"

/* ROWS by VECTORS sums, and VECTORS of the weight, stay in registers. */
#if LANES == 16
#define ROWS 8
#define VECTORS 3
#elif LANES == 8
#define ROWS 4
#define VECTORS 3
#else
#define ROWS 4
#define VECTORS 2
#endif
#define PANEL (VECTORS * LANES) /* outputs */

enum {
    MOST_ROWS = 64, /* of an item: their inputs stay in the second-level cache */
    MOST_PANELS = 4,
    PART = 12288 / (4 * PANEL), /* inputs: a part of a panel takes 12 KiB */
    ITEMS_PER_THREAD = 6,
};

/* Outputs that are packed together. */
int panel_size(void) { return PANEL; }

/* Whether this kernel is as fast as oneDNN's: measured with vectors of 8 floats only. With 16, oneDNN keeps its place
   until a measurement says otherwise. */
int is_fast(void) { return LANES == 8; }

/* Without it compilers load a vector anew for every row. */
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define IN_REGISTER(v) (void)(v)
#endif

INLINE int64_t panels_of(int64_t num_outputs) { return (num_outputs + PANEL - 1) / PANEL; }

/* `weight` is [outputs][inputs]; the outputs are padded with zeros to whole panels. */
void pack_weight(const float *weight, int64_t num_inputs, int64_t num_outputs, float *packed, int num_threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(num_outputs); panel++)
        for (int64_t input = 0; input < num_inputs; input++)
            for (int64_t i = 0; i < PANEL; i++) {
                const int64_t output = panel * PANEL + i;
                packed[(panel * num_inputs + input) * PANEL + i] =
                    output < num_outputs ? weight[output * num_inputs + input] : 0;
            }
}

typedef struct {
    const float *x, *bias, *weight; /* [rows][inputs]; [outputs] or NULL; packed */
    float *out;                     /* [rows][outputs] */
    int64_t num_rows, num_inputs, num_outputs, is_gelu;
} linear_arguments;

/* The tanh approximation of GELU: x / (1 + e^-t) with t = 2 sqrt(2 / pi) (x + 0.044715 x^3), and where
   t is negative x e^t / (1 + e^t). */
INLINE vec gelu(vec x) {
    const vec t = x * (x * x * broadcast(0.0713548163f) + broadcast(1.5957691216f));
    const ivec is_negative = t < (vec){0};
    const vec e = exp_lanes(choose(is_negative, t, -t));
    return choose(is_negative, x * e, x) / (e + broadcast(1.0f));
}

/* The sums of the products of `count` inputs of `num_rows` rows and one panel. They are added to `sums`,
   [num_rows][PANEL], or begin it. */
INLINE void add_products(
    int num_rows, const float *x, int64_t x_row, const float *weight, int64_t count, int is_first, float *sums) {
    vec acc[ROWS][VECTORS] = {{{0}}};
    for (int64_t k = 0; k < count; k++) {
        vec w[VECTORS];
        UNROLLED for (int c = 0; c < VECTORS; c++) w[c] = load_float(weight + k * PANEL + c * LANES);
        UNROLLED for (int c = 0; c < VECTORS; c++) IN_REGISTER(w[c]);
        UNROLLED for (int r = 0; r < num_rows; r++) {
            const vec each = broadcast(x[r * x_row + k]);
            UNROLLED for (int c = 0; c < VECTORS; c++) acc[r][c] += each * w[c];
        }
    }
    UNROLLED for (int r = 0; r < num_rows; r++)
        UNROLLED for (int c = 0; c < VECTORS; c++) {
            float *sum = sums + r * PANEL + c * LANES;
            store_float(sum, is_first ? acc[r][c] : load_float(sum) + acc[r][c]);
        }
}

/* The same for 1 to ROWS rows, a number that the compiler does not know. */
static void add_row_products(
    int64_t num_rows, const float *x, int64_t x_row, const float *weight, int64_t count, int is_first, float *sums) {
    switch (num_rows) {
#if ROWS == 8
    case 8: add_products(8, x, x_row, weight, count, is_first, sums); break;
    case 7: add_products(7, x, x_row, weight, count, is_first, sums); break;
    case 6: add_products(6, x, x_row, weight, count, is_first, sums); break;
    case 5: add_products(5, x, x_row, weight, count, is_first, sums); break;
#endif
    case 4: add_products(4, x, x_row, weight, count, is_first, sums); break;
    case 3: add_products(3, x, x_row, weight, count, is_first, sums); break;
    case 2: add_products(2, x, x_row, weight, count, is_first, sums); break;
    default: add_products(1, x, x_row, weight, count, is_first, sums);
    }
}

/* Writes the results of some rows of one panel: adds the bias and applies GELU. */
INLINE void finish(const linear_arguments *a, const float *sums, int64_t row, int64_t num_rows, int64_t panel) {
    const int64_t first = panel * PANEL, num_outputs = MIN(PANEL, a->num_outputs - first);
    float bias[PANEL] = {0}, results[PANEL];
    if (a->bias) memcpy(bias, a->bias + first, (size_t)num_outputs * sizeof(float));
    for (int64_t r = 0; r < num_rows; r++) {
        for (int c = 0; c < PANEL; c += LANES) {
            vec sum = load_float(sums + r * PANEL + c) + load_float(bias + c);
            store_float(results + c, a->is_gelu ? gelu(sum) : sum);
        }
        float *out = a->out + (row + r) * a->num_outputs + first;
        if (num_outputs == PANEL) memcpy(out, results, sizeof results);
        else memcpy(out, results, (size_t)num_outputs * sizeof(float));
    }
}

/* Rows `row` to `end_row` of one panel. `sums` has space for MOST_ROWS rows. */
static void run_panel(const linear_arguments *a, int64_t row, int64_t end_row, int64_t panel, float *sums) {
    const float *weight = a->weight + panel * a->num_inputs * PANEL;
    for (int64_t input = 0; input < a->num_inputs; input += PART) {
        const int64_t count = MIN(PART, a->num_inputs - input);
        for (int64_t r = row; r < end_row; r += ROWS)
            add_row_products(
                MIN(ROWS, end_row - r), a->x + r * a->num_inputs + input, a->num_inputs, weight + input * PANEL, count,
                !input, sums + (r - row) * PANEL);
    }
    finish(a, sums, row, end_row - row, panel);
}

/* At least one input; everything is contiguous. */
void linear_float(const linear_arguments *a, int num_threads) {
    const int64_t num_panels = panels_of(a->num_outputs), num_blocks = (a->num_rows + MOST_ROWS - 1) / MOST_ROWS;
    int64_t at_once = MOST_PANELS;
    while (at_once > 1 && num_blocks * ((num_panels + at_once - 1) / at_once) < ITEMS_PER_THREAD * num_threads)
        at_once /= 2;
    const int64_t num_groups = (num_panels + at_once - 1) / at_once;
#pragma omp parallel num_threads(num_threads)
    {
        float sums[MOST_ROWS * PANEL] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < num_blocks * num_groups; item++) {
            const int64_t row = item % num_blocks * MOST_ROWS, first = item / num_blocks * at_once;
            for (int64_t panel = first; panel < MIN(first + at_once, num_panels); panel++)
                run_panel(a, row, MIN(row + MOST_ROWS, a->num_rows), panel, sums);
        }
    }
}
