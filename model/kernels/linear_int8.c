/* A linear layer of 8-bit integers on a CPU: activation(x weight^T + bias).

   Inputs are cut into groups of GROUP. Of a row each group is rounded to 8 bits with a scale of its own, so that
   one large input spoils its group only, and of the weight each group of each output. A group whose largest input is far above the others is multiplied once more, with what rounding
   left over: trained models have such inputs, always the same ones. Sums of a group are int32 and exact on every CPU; they are scaled and added up in float32 in the
   order of groups. So a result's bits depend on its own row alone: not on other rows, on their number,
   or on the number of threads.

   The instructions for 8 bits multiply unsigned by signed integers, therefore an input is stored as q + 128.
   A group's sum begins with -128 times the sum of its weights, which takes the 128 out again.

   The weight is packed in panels of some outputs: words of four adjacent inputs, [inputs / 4][PANEL]. Work
   is cut into small items of some rows by some panels, which threads take one after the other: a thread
   whose core is busy with another process delays the others by one item at most. */

#include "gelu.h"
#include "lanes.h"
#if defined(__AVX2__) && !defined(__AVX512F__)
#include <immintrin.h>
#endif

/* ROWS by VECTORS sums, and VECTORS of the weight, stay in registers. */
#if LANES == 16
#define ROWS 8
#define VECTORS 3
#elif LANES == 8
#define ROWS 4
#define VECTORS 2
#else
#define ROWS 4
#define VECTORS 2
#endif
#define PANEL (VECTORS * LANES) /* outputs */

enum {
    GROUP = 128, /* inputs that share a scale */
    WORD = 4, /* inputs that are multiplied by one instruction */
    MOST_ROWS = 64, /* of an item: their inputs stay in the second-level cache */
    MOST_PANELS = 4,
    PART = 512, /* inputs whose weights of one panel are used by all rows of an item before the next */
    ITEMS_PER_THREAD = 6,
    LARGEST = 127, /* of an input in 8 bits */
    FEW = 10, /* a group with a mean absolute value below it in 8 bits is multiplied twice */
    FINER = 2 * LARGEST, /* how many times as fine the second rounding is */
};

int panel_size(void) { return PANEL; }
int rows_of_block(void) { return ROWS; }

INLINE int64_t panels_of(int64_t num_outputs) { return (num_outputs + PANEL - 1) / PANEL; }
INLINE int64_t words_of(int64_t num_inputs) { return (num_inputs + WORD - 1) / WORD; }
INLINE int64_t groups_of(int64_t num_inputs) { return (num_inputs + GROUP - 1) / GROUP; }

/* `weight` is [outputs][inputs]. Outputs are padded with zeros to whole panels, inputs to whole words.
   `starts` [panels][groups][PANEL] gets -128 times the sum of a group's weights. */
void pack_weight(
    const int8_t *weight, int64_t num_inputs, int64_t num_outputs, int8_t *packed, int32_t *starts, int num_threads) {
    const int64_t num_words = words_of(num_inputs), num_groups = groups_of(num_inputs);
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(num_outputs); panel++) {
        int32_t *sums = starts + panel * num_groups * PANEL;
        memset(sums, 0, (size_t)(num_groups * PANEL) * sizeof *sums);
        for (int64_t i = 0; i < PANEL; i++) {
            const int64_t output = panel * PANEL + i;
            for (int64_t input = 0; input < num_words * WORD; input++) {
                const int is_weight = output < num_outputs && input < num_inputs;
                const int8_t value = is_weight ? weight[output * num_inputs + input] : 0;
                packed[((panel * num_words + input / WORD) * PANEL + i) * WORD + input % WORD] = value;
                sums[input / GROUP * PANEL + i] -= 128 * value;
            }
        }
    }
}

typedef struct {
    const void *x; /* [rows][inputs] */
    const float *bias, *scales; /* [outputs] or NULL; [panels][groups][PANEL], of the weight */
    const int8_t *weight; /* packed */
    const int32_t *starts;
    void *out; /* [rows][outputs] */
    uint8_t *bytes; /* space for [2][blocks of ROWS rows][words][ROWS][WORD]: the inputs as q + 128, and the rest */
    float *row_scales; /* space for [2][rows][groups]; the second is 0 where the rest is not multiplied */
    int64_t num_rows, num_inputs, num_outputs, is_gelu, is_bf16; /* of `x` and `out`: bfloat16, else float32 */
} linear_arguments;

/* Four inputs of each of LANES outputs: sums + x w, exactly. Of `x` each lane holds the same four inputs. */
INLINE ivec add_words(ivec sums, ivec x, ivec w) {
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)w, 8), 8), odd = _mm256_srai_epi16((__m256i)w, 8);
    const __m256i x_even = _mm256_and_si256((__m256i)x, low), x_odd = _mm256_srli_epi16((__m256i)x, 8);
    return sums + (ivec)_mm256_madd_epi16(x_even, even) + (ivec)_mm256_madd_epi16(x_odd, odd);
#else
    UNROLLED for (int i = 0; i < WORD; i++) sums += ((x >> (8 * i)) & 255) * ((w << (24 - 8 * i)) >> 24);
    return sums;
#endif
}

INLINE ivec load_int(const void *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The sums of the products of some groups of inputs of `num_rows` rows and one panel. They are added to `sums`,
   [num_rows][PANEL], or begin it. `x` is [words][ROWS][WORD] and `scales` [num_rows][...], one for each group;
   `x_rest` and `scales_rest` elements behind them are those of what rounding left over. `starts` and
   `weight_scales` are [groups][PANEL]. */
INLINE void add_products(
    int num_rows, const uint8_t *x, int64_t x_rest, const float *scales, int64_t scales_row, int64_t scales_rest,
    const int8_t *weight, const int32_t *starts, const float *weight_scales, int64_t num_words, int is_first,
    float *sums) {
    for (int64_t begin = 0, group = 0, is_rest = 0; begin < num_words;) {
        const int64_t end = MIN(begin + GROUP / WORD, num_words);
        const uint8_t *inputs = x + is_rest * x_rest;
        const float *group_scales = scales + group + is_rest * scales_rest;
        ivec acc[ROWS][VECTORS];
        UNROLLED for (int c = 0; c < VECTORS; c++) {
            const ivec start = load_int(starts + group * PANEL + c * LANES);
            UNROLLED for (int r = 0; r < num_rows; r++) acc[r][c] = start;
        }
        for (int64_t word = begin; word < end; word++) {
            const int8_t *at = weight + word * PANEL * WORD;
            ivec w[VECTORS];
            UNROLLED for (int c = 0; c < VECTORS; c++) {
                ivec loaded = load_int(at + c * LANES * WORD);
                IN_REGISTER(loaded);
                w[c] = loaded;
            }
            UNROLLED for (int r = 0; r < num_rows; r++) {
                int32_t four;
                memcpy(&four, inputs + (word * ROWS + r) * WORD, sizeof four);
                const ivec each = four - (ivec){0};
                UNROLLED for (int c = 0; c < VECTORS; c++) acc[r][c] = add_words(acc[r][c], each, w[c]);
            }
        }
        const int begins = is_first && !group && !is_rest;
        vec scales_of_weight[VECTORS];
        UNROLLED for (int c = 0; c < VECTORS; c++)
            scales_of_weight[c] = load_float(weight_scales + group * PANEL + c * LANES);
        UNROLLED for (int r = 0; r < num_rows; r++) {
            const vec scale = broadcast(group_scales[r * scales_row]);
            UNROLLED for (int c = 0; c < VECTORS; c++) {
                float *sum = sums + r * PANEL + c * LANES;
                const vec before = begins ? (vec){0} : load_float(sum);
                const vec product = __builtin_convertvector(acc[r][c], vec) * scales_of_weight[c];
                store_float(sum, multiply_add(product, scale, before));
            }
        }
        /* A row without a rest adds 0, so it has the bits that it has among other rows. */
        int has_rest = 0;
        if (!is_rest)
            UNROLLED for (int r = 0; r < num_rows; r++) has_rest |= group_scales[scales_rest + r * scales_row] != 0;
        is_rest = has_rest;
        if (!has_rest) begin = end, group++;
    }
}

/* The same for 1 to ROWS rows, a number that the compiler does not know. */
static void add_row_products(
    int64_t num_rows, const uint8_t *x, int64_t x_rest, const float *scales, int64_t scales_row, int64_t scales_rest,
    const int8_t *weight, const int32_t *starts, const float *weight_scales, int64_t num_words, int is_first,
    float *sums) {
#define CASE(n) \
    add_products( \
        n, x, x_rest, scales, scales_row, scales_rest, weight, starts, weight_scales, num_words, is_first, sums)
    switch (num_rows) {
#if ROWS == 8
    case 8: CASE(8); break;
    case 7: CASE(7); break;
    case 6: CASE(6); break;
    case 5: CASE(5); break;
#endif
    case 4: CASE(4); break;
    case 3: CASE(3); break;
    case 2: CASE(2); break;
    default: CASE(1);
    }
#undef CASE
}

INLINE vec load_input(const linear_arguments *a, int64_t at) {
    return a->is_bf16 ? load_bf16((const uint16_t *)a->x + at) : load_float((const float *)a->x + at);
}

INLINE int64_t blocks_of(int64_t num_rows) { return (num_rows + ROWS - 1) / ROWS; }
INLINE int64_t rest_of_bytes(const linear_arguments *a) {
    return blocks_of(a->num_rows) * words_of(a->num_inputs) * ROWS * WORD;
}
INLINE int64_t rest_of_scales(const linear_arguments *a) { return a->num_rows * groups_of(a->num_inputs); }

/* Where the bytes of a group of a row begin; a word of the group is ROWS words behind the one before. */
INLINE uint8_t *bytes_of(const linear_arguments *a, int64_t row, int64_t group) {
    return a->bytes + ((row / ROWS * words_of(a->num_inputs) + group * (GROUP / WORD)) * ROWS + row % ROWS) * WORD;
}

/* Values times `inverse`, rounded to integers. */
INLINE ivec round_lanes(vec values, float inverse) {
    /* Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits; 128 more is q + 128. */
    vec product = values * broadcast(inverse);
    IN_REGISTER(product);
    return ((ivec)(product + broadcast(12582912.0f + 128.0f)) & 255) - 128;
}

INLINE ivec absolute(ivec q) {
    const ivec sign = q >> 31;
    return (q ^ sign) - sign;
}

/* Stores the first `count` integers, or all, as q + 128, each word ROWS words behind the one before. */
INLINE void store_words(uint8_t *to, ivec q, int64_t count) {
    uint8_t bytes[LANES];
#ifdef __AVX512F__
    _mm_storeu_si128((__m128i *)bytes, _mm512_cvtepi32_epi8((__m512i)(q + 128)));
#else
    UNROLLED for (int lane = 0; lane < LANES; lane++) bytes[lane] = (uint8_t)(q[lane] + 128);
#endif
    UNROLLED for (int i = 0; i < LANES; i += WORD)
        if (i < count) memcpy(to + i * ROWS, bytes + i, WORD);
}

INLINE int32_t max_of_lanes(ivec v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t most = v[0];
    UNROLLED for (int i = 1; i < LANES; i++) most = MAX(most, v[i]);
    return most;
#endif
}

/* Rounds a group of `count` inputs of one row; `values` are they, with zeros up to a whole vector. One with NaN or
   infinity gets the scale NaN, which makes the whole row NaN. */
INLINE void round_values(const linear_arguments *a, int64_t row, int64_t group, const vec *values, int64_t count) {
    enum { INFINITE = 0x7f800000 };
    const int64_t num_vectors = (count + LANES - 1) / LANES;
    /* As integers, the bits of absolute values have the order of the values, and NaN is above all. */
    ivec most = {0}, total = {0};
    for (int64_t i = 0; i < num_vectors; i++) {
        const ivec bits = (ivec)values[i] & 0x7fffffff;
        most = (ivec)choose(bits > most, (vec)bits, (vec)most);
    }
    const int32_t largest_bits = max_of_lanes(most);
    float largest, *scale = a->row_scales + row * groups_of(a->num_inputs) + group, *rest = scale + rest_of_scales(a);
    memcpy(&largest, &largest_bits, sizeof largest);
    *rest = 0;
    uint8_t *to = bytes_of(a, row, group);
    if (largest_bits >= INFINITE || largest < 1e-30f) {
        *scale = largest_bits >= INFINITE ? NAN : 0;
        for (int64_t i = 0; i < num_vectors; i++) store_words(to + i * LANES * ROWS, (ivec){0}, count - i * LANES);
        return;
    }
    *scale = largest / LARGEST;
    const float inverse = LARGEST / largest;
    for (int64_t i = 0; i < num_vectors; i++) {
        const ivec q = round_lanes(values[i], inverse);
        total += absolute(q);
        store_words(to + i * LANES * ROWS, q, count - i * LANES);
    }
    int64_t sum = 0;
    UNROLLED for (int lane = 0; lane < LANES; lane++) sum += total[lane];
    if (sum >= FEW * count) return;
    *rest = *scale / FINER;
    for (int64_t i = 0; i < num_vectors; i++) {
        vec back = __builtin_convertvector(round_lanes(values[i], inverse), vec) * broadcast(*scale);
        IN_REGISTER(back);
        const ivec q = round_lanes(values[i] - back, inverse * FINER);
        store_words(to + rest_of_bytes(a) + i * LANES * ROWS, q, count - i * LANES);
    }
}

static void round_group(const linear_arguments *a, int64_t row, int64_t group) {
    const int64_t first = group * GROUP, count = MIN(GROUP, a->num_inputs - first), at = row * a->num_inputs + first;
    vec values[GROUP / LANES];
    if (count == GROUP) { /* a constant lets the compiler unroll and keep all in registers */
        UNROLLED for (int i = 0; i < GROUP / LANES; i++) values[i] = load_input(a, at + i * LANES);
        round_values(a, row, group, values, GROUP);
        return;
    }
    float some[GROUP] = {0}; /* the weights behind the last input are zero */
    for (int64_t i = 0; i < count; i++)
        some[i] = a->is_bf16 ? get_bf16((const uint16_t *)a->x + at + i) : ((const float *)a->x)[at + i];
    memcpy(values, some, sizeof some);
    round_values(a, row, group, values, count);
}

/* Rounds a block of rows. Where one has a rest, the rest of the others is 0. */
static void round_block(const linear_arguments *a, int64_t row) {
    const int64_t end = MIN(row + ROWS, a->num_rows), num_groups = groups_of(a->num_inputs);
    const float *rests = a->row_scales + rest_of_scales(a);
    for (int64_t group = 0; group < num_groups; group++) {
        int has_rest = 0;
        for (int64_t r = row; r < end; r++) {
            round_group(a, r, group);
            has_rest |= rests[r * num_groups + group] != 0;
        }
        const int64_t stored = words_of(MIN(GROUP, a->num_inputs - group * GROUP)) * WORD;
        for (int64_t r = row; has_rest && r < end; r++)
            if (rests[r * num_groups + group] == 0)
                for (int64_t i = 0; i < stored; i += WORD)
                    memset(bytes_of(a, r, group) + rest_of_bytes(a) + i * ROWS, 128, WORD);
    }
}

/* Writes the first `count` lanes to the results at `at`. */
INLINE void store_results(const linear_arguments *a, int64_t at, vec v, int64_t count) {
#ifdef __AVX512BF16__
    const __mmask16 first = (__mmask16)((1u << count) - 1);
    if (a->is_bf16) _mm256_mask_storeu_epi16((uint16_t *)a->out + at, first, (__m256i)_mm512_cvtneps_pbh((__m512)v));
    else _mm512_mask_storeu_ps((float *)a->out + at, first, (__m512)v);
#else
    float results[LANES];
    uint16_t halves[LANES];
    if (a->is_bf16) {
        store_bf16(halves, v);
        memcpy((uint16_t *)a->out + at, halves, (size_t)count * sizeof *halves);
    } else {
        store_float(results, v);
        memcpy((float *)a->out + at, results, (size_t)count * sizeof *results);
    }
#endif
}

/* Writes the results of some rows of one panel: adds the bias and applies GELU. */
INLINE void finish(const linear_arguments *a, const float *sums, int64_t row, int64_t num_rows, int64_t panel) {
    for (int c = 0; c < VECTORS; c++) {
        const int64_t first = panel * PANEL + c * LANES, count = MIN(LANES, a->num_outputs - first);
        if (count <= 0) break;
        float biases[LANES] = {0};
        if (a->bias) memcpy(biases, a->bias + first, (size_t)count * sizeof *biases);
        const vec bias = load_float(biases);
        for (int64_t r = 0; r < num_rows; r++) {
            vec sum = load_float(sums + r * PANEL + c * LANES) + bias;
            if (a->is_gelu) sum = gelu(sum);
            store_results(a, (row + r) * a->num_outputs + first, sum, count);
        }
    }
}

/* Rows `row` to `end_row` of one panel. `sums` has space for MOST_ROWS rows. */
static void run_panel(const linear_arguments *a, int64_t row, int64_t end_row, int64_t panel, float *sums) {
    const int64_t num_words = words_of(a->num_inputs), num_groups = groups_of(a->num_inputs);
    const int8_t *weight = a->weight + panel * num_words * WORD * PANEL;
    const int32_t *starts = a->starts + panel * num_groups * PANEL;
    const float *weight_scales = a->scales + panel * num_groups * PANEL;
    for (int64_t word = 0; word < num_words; word += PART / WORD) {
        const int64_t count = MIN(PART / WORD, num_words - word), group = word * WORD / GROUP;
        for (int64_t r = row; r < end_row; r += ROWS)
            add_row_products(
                MIN(ROWS, end_row - r), bytes_of(a, r, group), rest_of_bytes(a),
                a->row_scales + r * num_groups + group, num_groups, rest_of_scales(a), weight + word * WORD * PANEL,
                starts + group * PANEL, weight_scales + group * PANEL, count, !word, sums + (r - row) * PANEL);
    }
    finish(a, sums, row, end_row - row, panel);
}

/* At least one input; everything is contiguous. Returns 0. */
int linear_int8(const linear_arguments *a, int num_threads) {
    const int64_t num_panels = panels_of(a->num_outputs), num_blocks = (a->num_rows + MOST_ROWS - 1) / MOST_ROWS;
    int64_t at_once = MOST_PANELS;
    while (at_once > 1 && num_blocks * ((num_panels + at_once - 1) / at_once) < ITEMS_PER_THREAD * num_threads)
        at_once /= 2;
    const int64_t num_groups = (num_panels + at_once - 1) / at_once;
#pragma omp parallel num_threads(num_threads)
    {
        float sums[MOST_ROWS * PANEL] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < a->num_rows; row += ROWS) round_block(a, row);
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < num_blocks * num_groups; item++) {
            const int64_t row = item % num_blocks * MOST_ROWS, first = item / num_blocks * at_once;
            for (int64_t panel = first; panel < MIN(first + at_once, num_panels); panel++)
                run_panel(a, row, MIN(row + MOST_ROWS, a->num_rows), panel, sums);
        }
    }
    return 0;
}
