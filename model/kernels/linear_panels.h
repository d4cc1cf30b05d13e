/* A linear layer whose sums are in vector registers, for float32 and for bfloat16.

   Work is cut into small items of some rows by some panels, which threads take one after the other: a
   thread whose core is busy with another process delays the others by one item at most. Within an item
   the inputs are processed in parts, so that a part of a panel stays in the first-level cache while all
   rows use it; each part has sums of its own, which are added up in the order of parts: that rounds less
   than one long chain. So a result's bits depend on its own row alone: not on other rows, on their
   number, or on the number of threads.

   Includers define what `linear.h` asks for, ROWS by VECTORS sums, which stay in registers beside VECTORS of
   the weight, PART_BYTES of a panel that a part takes, and three functions: `add_product`, `finish_lanes`
   and `load_bias`; with HAS_FLOAT_OUT also `store_rounded`, for results without GELU. */

enum {
    PART = PART_BYTES / (4 * PANEL), /* words */
    LINES = (4 * PANEL + 63) / 64,   /* cache lines of a panel's word */
    MOST_ROWS = 64,                  /* of an item: their inputs stay in the second-level cache */
    MOST_PANELS = 4,
    ITEMS_PER_THREAD = 6,
    MOST_UNFETCHED = 4, /* rows for which the processor's own prefetching is fast enough */
    NEAR = 2048, /* bytes from the weights in use to those that are fetched into the first-level cache */
    FAR = 10240, /* and to those that are fetched into the second-level cache */
};

/* Some rows, and one part of one panel. */
typedef struct {
    const element *x;
    int64_t x_row, num_words;
    const word *weight;
    const char *ahead; /* the first of the next part's cache lines that these rows fetch */
    float *sums;       /* [rows][PANEL], to which the products are added, or which they begin */
    int is_first;
} part_of_rows;

/* `num_ahead`: the lines that are fetched ahead for every word, or 0 where few rows read the weights as
   fast as they come. */
INLINE void add_products(int num_rows, int num_ahead, const part_of_rows *p) {
    const word *weight = p->weight;
    vec acc[ROWS][VECTORS] = {{{0}}};
    for (int64_t k = 0; k < p->num_words; k++, weight += PANEL) {
        ivec w[VECTORS];
        UNROLLED for (int c = 0; c < VECTORS; c++) memcpy(&w[c], weight + c * LANES, sizeof w[c]);
        UNROLLED for (int c = 0; c < VECTORS; c++) IN_REGISTER(w[c]);
        UNROLLED for (int i = 0; i < num_ahead; i++) __builtin_prefetch(p->ahead + (k * num_ahead + i) * 64, 0, 2);
        if (!num_ahead && num_rows > MOST_UNFETCHED)
            UNROLLED for (int i = 0; i < LINES; i++) {
                __builtin_prefetch((const char *)weight + NEAR + i * 64, 0, 3);
                __builtin_prefetch((const char *)weight + FAR + i * 64, 0, 2);
            }
        UNROLLED for (int r = 0; r < num_rows; r++) {
            int32_t each;
            memcpy(&each, p->x + r * p->x_row + k * WORD_INPUTS, sizeof each);
            ivec same = each - (ivec){0};
            IN_REGISTER(same);
            UNROLLED for (int c = 0; c < VECTORS; c++) acc[r][c] = add_product(acc[r][c], same, w[c]);
        }
    }
    UNROLLED for (int r = 0; r < num_rows; r++)
        UNROLLED for (int c = 0; c < VECTORS; c++) {
            float *sum = p->sums + r * PANEL + c * LANES;
            store_float(sum, p->is_first ? acc[r][c] : load_float(sum) + acc[r][c]);
        }
}

/* The same for 1 to ROWS rows, a number that the compiler does not know. */
INLINE void add_row_products(int64_t num_rows, int num_ahead, const part_of_rows *p) {
    switch (num_rows) {
#if ROWS == 8
    case 8: add_products(8, num_ahead, p); break;
    case 7: add_products(7, num_ahead, p); break;
    case 6: add_products(6, num_ahead, p); break;
    case 5: add_products(5, num_ahead, p); break;
#endif
    case 4: add_products(4, num_ahead, p); break;
    case 3: add_products(3, num_ahead, p); break;
    case 2: add_products(2, num_ahead, p); break;
    default: add_products(1, num_ahead, p);
    }
}

/* Writes the results of some rows of one panel: adds the bias, applies GELU, converts. */
INLINE void finish(const linear_arguments *a, const float *sums, int64_t row, int64_t num_rows, int64_t panel) {
    for (int c = 0; c < VECTORS; c++) {
        const int64_t first = panel * PANEL + c * LANES, count = MIN(LANES, a->num_outputs - first);
        if (count <= 0) break;
        const vec bias = a->bias ? load_bias(a->bias + first, count) : (vec){0};
        for (int64_t r = 0; r < num_rows; r++) {
            const int64_t at = (row + r) * a->num_outputs + first;
            const vec result = load_float(sums + r * PANEL + c * LANES) + bias;
#ifdef HAS_FLOAT_OUT
            if (a->is_float_out) {
                store_rounded((float *)a->out + at, result, count);
                continue;
            }
#endif
            finish_lanes(a->out + at, result, a->is_gelu, count);
        }
    }
}

/* Rows `row` to `end_row` of one panel. `sums` has space for MOST_ROWS rows. */
static void run_panel(const linear_arguments *a, int64_t row, int64_t end_row, int64_t panel, float *sums) {
    const int64_t num_words = a->num_inputs / WORD_INPUTS, num_groups = (end_row - row + ROWS - 1) / ROWS;
    for (int64_t first = 0; first < num_words; first += PART) {
        part_of_rows p = {.x_row = a->num_inputs, .num_words = MIN(PART, num_words - first), .is_first = !first};
        p.weight = a->weight + (panel * num_words + first) * PANEL;
        for (int64_t group = 0; group < num_groups; group++) {
            const int64_t r = group * ROWS, num_rows = MIN(ROWS, end_row - row - r);
            p.x = a->x + (row + r) * a->num_inputs + first * WORD_INPUTS;
            p.sums = sums + r * PANEL;
            p.ahead = (const char *)(p.weight + p.num_words * PANEL);
            if (num_groups == 1) {
                add_row_products(num_rows, 0, &p);
            } else if (num_groups == 2) { /* the second may be a single row, too short to fetch a share */
                add_row_products(num_rows, LINES, &p);
            } else {
                p.ahead += group % LINES * p.num_words * 64;
                add_row_products(num_rows, 1, &p);
            }
        }
    }
    finish(a, sums, row, end_row - row, panel);
}

/* At least one input; everything is contiguous. Returns 0. */
int multiply(const linear_arguments *a, int num_threads) {
    const int64_t num_panels = panels_of(a->num_outputs), num_blocks = (a->num_rows + MOST_ROWS - 1) / MOST_ROWS;
    int64_t at_once = MOST_PANELS;
    while (at_once > 1 && num_blocks * ((num_panels + at_once - 1) / at_once) < ITEMS_PER_THREAD * num_threads)
        at_once /= 2;
    const int64_t num_groups = (num_panels + at_once - 1) / at_once;
#pragma omp parallel num_threads(num_threads)
    {
        float sums[MOST_ROWS * PANEL] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t item = 0; item < num_blocks * num_groups; item++) {
            const int64_t row = item % num_blocks * MOST_ROWS, first = item / num_blocks * at_once;
            for (int64_t panel = first; panel < MIN(first + at_once, num_panels); panel++)
                run_panel(a, row, MIN(row + MOST_ROWS, a->num_rows), panel, sums);
        }
    }
    return 0;
}
