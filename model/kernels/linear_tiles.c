/* A linear layer of bfloat16 on a CPU with AMX tiles: activation(x weight^T + bias), sums in
   float32.

   The weight is packed once, in panels of 32 outputs: words of two adjacent inputs, [inputs /
   2][32]. Work is cut into items of some rows by some panels, which threads take from a shared
   counter. Within an item the inputs are processed in parts, so that a part of a panel stays in the
   first-level cache while all rows use it; between parts the sums are in memory. Every result is
   one chain of tile operations in the order of inputs, so its bits depend on its own row alone: not
   on other rows, on their number, or on the number of threads. */

#include "lanes.h"
#include "tiles.h"
#ifdef HAS_TILES

#define PANEL PAIRED_ROWS /* outputs */
#define BLOCK 32 /* inputs of a tile */
#define SUMS (PAIRED_ROWS * PANEL)
#define WORD_INPUTS 2
typedef uint16_t element;
typedef int32_t word;
#include "linear.h"

int can_multiply(void) { return can_use_tiles(); }

/* Writes the results of at most 32 rows of one panel: adds the bias, applies GELU, rounds to
   bfloat16. */
INLINE void finish(const linear_arguments *a, const float *sums, int64_t row, int64_t panel) {
    const int64_t first = panel * PANEL, num_outputs = MIN(PANEL, a->num_outputs - first);
    const __mmask32 is_output = num_outputs == PANEL ? ~0u : (1u << num_outputs) - 1;
    vec bias[2] = {{0}, {0}};
    if (a->bias) {
        uint16_t elements[PANEL];
        _mm512_storeu_si512(elements, _mm512_maskz_loadu_epi16(is_output, a->bias + first));
        bias[0] = load_bf16(elements), bias[1] = load_bf16(elements + LANES);
    }
    for (int64_t i = 0; i < MIN(PAIRED_ROWS, a->num_rows - row); i++) {
        vec low = load_float(sums + i * PANEL) + bias[0], high = load_float(sums + i * PANEL + LANES) + bias[1];
        if (a->is_gelu) low = rough_gelu(low), high = rough_gelu(high);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
        _mm512_mask_storeu_epi16(a->out + (row + i) * a->num_outputs + first, is_output, both);
    }
}

/* Some rows by some panels. */
typedef struct {
    int64_t row, end_row, panel, end_panel;
} item;

/* How work is cut: into items of `rows` by `panels`, whose inputs are processed `part` at a time. */
typedef struct {
    int64_t rows, panels, part, num_groups, num_items;
} cutting;

/* Chosen by measurement on two cores with AMX: with many rows, a part of a panel fits in the
   first-level cache; there are enough items (6 per thread) that no thread waits long for another. */
static cutting cut(const linear_arguments *a, int num_threads) {
    const int is_tall = a->num_rows > 64;
    const int64_t num_panels = panels_of(a->num_outputs), enough = 6 * num_threads;
    cutting c = {.rows = a->num_inputs <= 1024 ? 512 : 256, .panels = 4, .part = is_tall ? 12 * BLOCK : 24 * BLOCK};
    for (;;) {
        c.num_groups = (num_panels + c.panels - 1) / c.panels;
        c.num_items = (a->num_rows + c.rows - 1) / c.rows * c.num_groups;
        if (c.num_items >= enough) break;
        if (is_tall && c.rows > 128) c.rows /= 2;
        else if (c.panels > 1) c.panels /= 2;
        else break;
    }
    return c;
}

static item item_at(const linear_arguments *a, const cutting *c, int64_t number) {
    const int64_t row = number / c->num_groups * c->rows, panel = number % c->num_groups * c->panels;
    return (item){row, MIN(row + c->rows, a->num_rows), panel, MIN(panel + c->panels, panels_of(a->num_outputs))};
}

INLINE const char *weight_at(const linear_arguments *a, int64_t panel, int64_t input) {
    return (const char *)(a->weight + (panel * a->num_inputs + input) / 2 * PANEL);
}

/* `last_rows`: if the rows do not fill whole tiles, a copy of the last ones padded with zeros.
   `next_panel`: the first panel of the item after this one, which is prefetched. */
static void run_item(
    const linear_arguments *a, const uint16_t *last_rows, const item *it, int64_t part, int64_t next_panel,
    float *sums) {
    const int64_t row_bytes = a->num_inputs * (int64_t)sizeof(uint16_t), num_panels = it->end_panel - it->panel;
    const int64_t num_pairs = (it->end_row - it->row + PAIRED_ROWS - 1) / PAIRED_ROWS;
    const int num_ahead = (int)((BLOCK * PANEL * 2 / 64 + num_pairs - 1) / num_pairs);
    for (int64_t input = 0; input < a->num_inputs; input += part) {
        const int64_t count = MIN(part, a->num_inputs - input), is_last = input + count == a->num_inputs;
        for (int64_t p = 0; p < num_panels; p++) {
            const char *weight = weight_at(a, it->panel + p, input), *ahead;
            if (p + 1 < num_panels) ahead = weight_at(a, it->panel + p + 1, input);
            else ahead = is_last ? weight_at(a, next_panel, 0) : weight_at(a, it->panel, input + count);
            for (int64_t pair = 0; pair < num_pairs; pair++) {
                const int64_t row = it->row + pair * PAIRED_ROWS, num_rows = a->num_rows - row;
                const uint16_t *x = num_rows < PAIRED_ROWS && last_rows ? last_rows : a->x + row * a->num_inputs;
                const tile_rows rows = {
                    (const char *)(x + input), row_bytes, TILE_BYTES, TILE_ROWS * row_bytes, num_rows <= TILE_ROWS};
                float *to = sums + (p * num_pairs + pair) * SUMS;
                add_tile_products(
                    rows, weight, PANEL * 4, count, to, PANEL * 4, !input,
                    ahead + pair * num_ahead * 64 * (count / BLOCK), num_ahead);
                if (is_last) finish(a, to, row, it->panel + p);
            }
        }
    }
}

/* Returns 0, or 1 if there is no memory. Inputs are a multiple of 32; everything is contiguous. */
int multiply(const linear_arguments *a, int num_threads) {
    const cutting c = cut(a, num_threads);
    const int64_t num_left = a->num_rows % TILE_ROWS ? a->num_rows % PAIRED_ROWS : 0;
    uint16_t *last_rows = NULL;
    if (num_left) {
        const size_t used = (size_t)(num_left * a->num_inputs) * sizeof(uint16_t);
        const size_t size = (size_t)(PAIRED_ROWS * a->num_inputs) * sizeof(uint16_t);
        if (!(last_rows = malloc(size))) return 1;
        memcpy(last_rows, a->x + (a->num_rows - num_left) * a->num_inputs, used);
        memset((char *)last_rows + used, 0, size - used);
    }
    int64_t num_taken = 0;
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        const int64_t num_pairs = (MIN(c.rows, a->num_rows) + PAIRED_ROWS - 1) / PAIRED_ROWS;
        float *sums = allocate(c.panels * num_pairs * SUMS);
        int64_t number = 0, next;
        if (sums) {
            configure_tiles();
#pragma omp atomic capture
            number = num_taken++;
            for (; number < c.num_items; number = next) {
#pragma omp atomic capture
                next = num_taken++;
                const item now = item_at(a, &c, number), then = item_at(a, &c, MIN(next, c.num_items - 1));
                run_item(a, last_rows, &now, c.part, then.panel, sums);
            }
            _tile_release();
            free(sums);
        } else {
#pragma omp atomic write
            failed = 1;
        }
    }
    free(last_rows);
    return failed && num_taken < c.num_items;
}
#else
int can_multiply(void) { return 0; }
#endif
