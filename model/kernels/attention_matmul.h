/* The two matmuls of attention for a block of queries in the lanes of vectors: queries by keys, and
   weights by values. Included once per variant:

     float   float32;
     bf16    bfloat16, in pairs where the CPU has AVX512-BF16, else converted to float32;
     tiles   bfloat16 in AMX tiles.

   In every variant `prepare_keys` lays out a range of keys and values once; `score_keys` and
   `add_values` multiply. Queries and weights are words of 32 bits: a float32, or two bfloat16 that
   are adjacent along the summed dimension. */

#ifndef ATTENTION_MATMUL
#define ATTENTION_MATMUL

#define VECTORS 2 /* of queries in one block */
#define QUERIES (VECTORS * LANES)
/* Elements of a value (a head dim is a multiple), and keys, at a time: as many sums fit in registers. */
#define GROUP (LANES == 16 ? 8 : 4)
#define KEYS (LANES == 16 ? 12 : 4)
#define MOST_UNIT 32 /* the largest UNIT of any variant */

/* `count` keys and their values, laid out for the variant. */
typedef struct {
    const char *keys;
    int64_t key_bytes; /* from one key to the next */
    const int32_t *values;
    int64_t value_words; /* from one value, or pair of values, to the next */
    int64_t count;
} key_range;

INLINE ivec broadcast_word(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word - (ivec){0};
}

INLINE ivec load_words(const int32_t *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}
#endif

#define LOAD NAME(load, KIND)

#if PER_WORD == 2
/* Words of value j (in the low halves) and the one after it; zeros for those past `count`. */
INLINE ivec NAME(pair_values, VARIANT)(const ELEMENT *values, int64_t v_row, int64_t j, int64_t count) {
    vec even = j < count ? LOAD(values + j * v_row) : (vec){0};
    vec odd = j + 1 < count ? LOAD(values + (j + 1) * v_row) : (vec){0};
    return (ivec)((ulanes)even >> 16) | (ivec)odd;
}
#endif

#ifndef IS_TILED
#define IS_CONVERTED (sizeof(ELEMENT) == 2 && PER_WORD == 1) /* bfloat16 is converted to float32 */
#define UNIT PER_WORD /* keys are processed in groups of this size; the last may be partial */
#define ADD_PRODUCTS NAME(add_products, VARIANT)

INLINE vec ADD_PRODUCTS(vec sums, ivec a, ivec b) {
#if PER_WORD == 2
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
#else
    return sums + (vec)a * (vec)b;
#endif
}

/* Words of buffer that `prepare_keys` needs for `count` keys. */
INLINE int64_t NAME(buffer_words, VARIANT)(int64_t count, int64_t dim) {
    return IS_CONVERTED ? 2 * count * dim : PER_WORD == 2 ? (count + 1) / 2 * dim : 0;
}

INLINE int32_t *NAME(prepare_keys, VARIANT)(
    const ELEMENT *keys, const ELEMENT *values, int64_t k_row, int64_t v_row, int64_t count, int dim, int32_t *buffer,
    key_range *prepared) {
    const int64_t key_bytes = k_row * (int64_t)sizeof(ELEMENT);
    *prepared = (key_range){(const char *)keys, key_bytes, (const int32_t *)values, v_row, count};
#if PER_WORD == 2
    prepared->values = buffer;
    prepared->value_words = dim;
    for (int64_t j = 0; j < count; j += 2)
        for (int d = 0; d < dim; d += LANES) {
            ivec both = NAME(pair_values, VARIANT)(values + d, v_row, j, count);
            memcpy(buffer, &both, sizeof both);
            buffer += LANES;
        }
#else
    if (IS_CONVERTED) {
        prepared->keys = (const char *)buffer;
        prepared->key_bytes = dim * (int64_t)sizeof(float);
        prepared->values = buffer + count * dim;
        prepared->value_words = dim;
        for (int64_t j = 0; j < 2 * count; j++) {
            const ELEMENT *from = j < count ? keys + j * k_row : values + (j - count) * v_row;
            for (int d = 0; d < dim; d += LANES) {
                vec elements = LOAD(from + d);
                memcpy(buffer, &elements, sizeof elements);
                buffer += LANES;
            }
        }
    }
#endif
    return buffer;
}

/* Unscaled scores of `count` keys from `first` on, [count][vectors] vectors. */
INLINE void NAME(score_keys, VARIANT)(
    const int vectors, const int32_t *queries, const key_range *from, int64_t first, int64_t count, int dim,
    vec *scores) {
    for (int64_t j = 0; j < count; j += KEYS) {
        const char *keys[KEYS];
        UNROLLED for (int t = 0; t < KEYS; t++)
            keys[t] = from->keys + (first + MIN(j + t, count - 1)) * from->key_bytes;
        vec sums[KEYS][VECTORS] = {{{0}}};
        UNROLLED for (int w = 0; w < dim / PER_WORD; w++) {
            ivec query[VECTORS];
            for (int c = 0; c < vectors; c++) query[c] = load_words(queries + (w * vectors + c) * LANES);
            for (int t = 0; t < KEYS; t++) {
                ivec key = broadcast_word(keys[t] + 4 * w);
                for (int c = 0; c < vectors; c++) sums[t][c] = ADD_PRODUCTS(sums[t][c], query[c], key);
            }
        }
        for (int t = 0; t < KEYS; t++)
            for (int c = 0; c < vectors; c++) scores[(j + t) * vectors + c] = sums[t][c];
    }
}

/* Multiplies every query's `result`, [D][vectors] vectors, by `rescale` and adds `count` values from
   `first` on, times their weights. */
INLINE void NAME(add_values, VARIANT)(
    const int vectors, const int32_t *weights, const key_range *from, int64_t first, int64_t count, int dim,
    const vec rescale[VECTORS], vec *result) {
    const int32_t *values = from->values + first / PER_WORD * from->value_words;
    const int64_t num_words = (count + PER_WORD - 1) / PER_WORD;
    for (int d = 0; d < dim; d += GROUP) {
        vec sums[GROUP][VECTORS];
        for (int t = 0; t < GROUP; t++)
            for (int c = 0; c < vectors; c++) sums[t][c] = result[(d + t) * vectors + c] * rescale[c];
        for (int64_t j = 0; j < num_words; j++) {
            ivec weight[VECTORS];
            for (int c = 0; c < vectors; c++) weight[c] = load_words(weights + (j * vectors + c) * LANES);
            for (int t = 0; t < GROUP; t++) {
                ivec value = broadcast_word(values + j * from->value_words + d + t);
                for (int c = 0; c < vectors; c++) sums[t][c] = ADD_PRODUCTS(sums[t][c], weight[c], value);
            }
        }
        for (int t = 0; t < GROUP; t++)
            for (int c = 0; c < vectors; c++) result[(d + t) * vectors + c] = sums[t][c];
    }
}

#undef ADD_PRODUCTS
#undef IS_CONVERTED

#else /* IS_TILED: keys in rows, values of 32 keys in columns; both padded with zeros */
#define UNIT PAIRED_ROWS

INLINE int64_t NAME(buffer_words, VARIANT)(int64_t count, int64_t dim) { return (count + UNIT) * dim; }

INLINE int32_t *NAME(prepare_keys, VARIANT)(
    const ELEMENT *keys, const ELEMENT *values, int64_t k_row, int64_t v_row, int64_t count, int dim, int32_t *buffer,
    key_range *prepared) {
    const int64_t padded = (count + UNIT - 1) / UNIT * UNIT, row_bytes = dim * (int64_t)sizeof(ELEMENT);
    int32_t *columns = buffer + padded * dim / PER_WORD;
    *prepared = (key_range){(const char *)buffer, row_bytes, columns, dim, count};
    for (int64_t j = 0; j < count; j++) memcpy((char *)buffer + j * row_bytes, keys + j * k_row, (size_t)row_bytes);
    memset((char *)buffer + count * row_bytes, 0, (size_t)((padded - count) * row_bytes));
    for (int64_t first = 0; first < count; first += UNIT)
        for (int d = 0; d < dim; d += LANES) {
            ivec rows[LANES];
            UNROLLED for (int i = 0; i < LANES; i++)
                rows[i] = NAME(pair_values, VARIANT)(values + d, v_row, first + 2 * i, count);
            transpose(rows);
            UNROLLED for (int i = 0; i < LANES; i++)
                memcpy(columns + first / PER_WORD * dim + (d + i) * LANES, &rows[i], sizeof rows[i]);
        }
    return columns + padded * dim / PER_WORD;
}

INLINE void NAME(score_keys, VARIANT)(
    const int vectors, const int32_t *queries, const key_range *from, int64_t first, int64_t count, int dim,
    vec *scores) {
    const int64_t row_bytes = from->key_bytes;
    tile_rows keys = {from->keys + first * row_bytes, row_bytes, TILE_BYTES, TILE_ROWS * row_bytes, 0};
    for (int64_t j = 0; j < count; j += UNIT, keys.at += UNIT * from->key_bytes)
        add_tile_products(
            keys, (const char *)queries, QUERIES * 4, dim, (float *)(scores + j * VECTORS), QUERIES * 4, 1, NULL, 0);
}

INLINE void NAME(add_values, VARIANT)(
    const int vectors, const int32_t *weights, const key_range *from, int64_t first, int64_t count, int dim,
    const vec rescale[VECTORS], vec *result) {
    for (int d = 0; d < dim; d++)
        for (int c = 0; c < VECTORS; c++) result[d * VECTORS + c] *= rescale[c];
    const int64_t padded = (count + UNIT - 1) / UNIT * UNIT;
    const char *columns = (const char *)(from->values + first / PER_WORD * dim);
    tile_rows values = {columns, TILE_BYTES, dim * TILE_BYTES, TILE_ROWS * TILE_BYTES, 0};
    for (int d = 0; d < dim; d += PAIRED_ROWS, values.at += PAIRED_ROWS * TILE_BYTES)
        add_tile_products(
            values, (const char *)weights, QUERIES * 4, padded, (float *)(result + d * VECTORS), QUERIES * 4, 0, NULL,
            0);
}
#endif
