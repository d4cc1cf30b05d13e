/* Attention of a prefill on a CPU: pieces of sequences, each over the keys kept before it and over its own.

   A piece's queries see, in this order, the first keys of the job's shared prefix, all keys that its slot keeps, and
   the piece's own keys: those up to each query, or, for a tree of labels, those that a mask lets through. A piece may
   close its slot's full window first, and its own keys may be put into the cache after it.

   Queries stand in the lanes of vectors and keys pass by one after the other, so a query's bits depend on its own keys
   alone: not on its neighbours, not on the number of threads. Softmax is kept up block by block of keys, as in Dao et
   al. 2022 (arXiv 2205.14135). Sums are kept in float32; bfloat16 is multiplied in pairs where the CPU can.

   Included once per element type by the bottom of this file. Legend: N rows, K key/value heads, G queries a key head,
   D head dim (a multiple of 16). */

#ifndef NUMBER
#include "lanes.h"

#define VECTORS 2 /* of queries at a time */
#define TILE (LANES == 16 ? 8 : 4) /* keys, or numbers of a value, at a time: their sums stay in registers */
#define QUERIES (VECTORS * LANES)
#define KEYS 128 /* of a block */
#define MASK_UNIT 32
#define ALIGNMENT 64

/* One row of `pieces`: see `Piece` in prefill_attention.py. */
enum { SLOT, ROW, LENGTH, PREFIX_COUNT, CLOSE_AT, KEPT, NUM_OWN, IS_KEPT, MASK_AT, MASK_HEAD, FIELDS };

/* `count` keys and their values as words of 32 bits: a float, or two bfloat16. */
typedef struct {
    const char *keys;
    int64_t key_bytes; /* from one key to the next */
    const int32_t *values;
    int64_t value_words; /* from one value, or pair of values, to the next */
    int64_t count;
} stretch;

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

/* 2^x for x <= 0, NaN for NaN: a power of two times the polynomial on [-1/2, 1/2] that is best in relative error. */
INLINE vec exp2_lanes(vec x, int is_rough) {
    const vec magic = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    ivec is_low = x < broadcast(-126.0f);
    vec shifted = x + magic, r = x - (shifted - magic), p;
    if (is_rough) { /* to 3e-6, which bfloat16 cannot tell from the other */
        p = broadcast(9.5701e-3f);
        p = p * r + broadcast(5.591786e-2f);
        p = p * r + broadcast(2.4024745e-1f);
        p = p * r + broadcast(6.9312181e-1f);
        p = p * r + broadcast(9.9999926e-1f);
    } else {
        p = broadcast(1.32765e-3f);
        p = p * r + broadcast(9.67554e-3f);
        p = p * r + broadcast(5.550713e-2f);
        p = p * r + broadcast(2.4022120e-1f);
        p = p * r + broadcast(6.9314697e-1f);
        p = p * r + broadcast(1.0f); /* 2^0 is exactly 1 */
    }
    vec power = (vec)(((ivec)shifted << 23) + 0x3f800000);
    return (vec)((ivec)(p * power) & ~is_low);
}

/* What is multiplied as floats, and as pairs of bfloat16. */
#define NUMBER float
#define KIND float
#define IS_PAIRED 0
#include __FILE__
#undef NUMBER
#undef KIND
#undef IS_PAIRED
#define NUMBER uint16_t
#define KIND bf16
#ifdef __AVX512BF16__
#define IS_PAIRED 1
#else
#define IS_PAIRED 0
#endif
#include __FILE__

#else /* NUMBER */

#define IS_CONVERTED (sizeof(NUMBER) == 2 && !IS_PAIRED) /* bfloat16 is read as floats */
#define PER_WORD (IS_PAIRED ? 2 : 1)
#define LOAD NAME(load, KIND)
#define ADD_PRODUCTS NAME(add_products, KIND)

/* Strides in elements. `starts`: where each key head's global tokens begin in a window, `global_size` of them. */
typedef struct {
    const NUMBER *q, *new_k, *new_v, *prefix_k, *prefix_v;
    NUMBER *cache_k, *cache_v, *out; /* out [N, heads, D] */
    float *lse;                      /* [N, heads] */
    const int64_t *pieces, *starts;
    const float *masks;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head, slot_stride, head_stride, prefix_head;
    int64_t num_pieces, num_kv_heads, group, dim, global_size;
    float scale;
} NAME(arguments, KIND);

INLINE vec ADD_PRODUCTS(vec sums, ivec a, ivec b) {
#if IS_PAIRED
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
#else
    return sums + (vec)a * (vec)b;
#endif
}

/* Scores of TILE keys: raw products, [TILE][VECTORS] vectors. */
INLINE void NAME(score_tile, KIND)(const int32_t *queries, const char *const keys[TILE], int num_words, vec *scores) {
    vec sums[TILE][VECTORS] = {{{0}}};
    for (int w = 0; w < num_words; w++) {
        ivec query[VECTORS];
        for (int c = 0; c < VECTORS; c++) query[c] = load_words(queries + w * QUERIES + c * LANES);
        for (int t = 0; t < TILE; t++) {
            ivec key = broadcast_word(keys[t] + 4 * w);
            for (int c = 0; c < VECTORS; c++) sums[t][c] = ADD_PRODUCTS(sums[t][c], query[c], key);
        }
    }
    for (int t = 0; t < TILE; t++)
        for (int c = 0; c < VECTORS; c++) scores[t * VECTORS + c] = sums[t][c];
}

/* Adds weights times values to TILE numbers of every query's result. */
INLINE void NAME(value_tile, KIND)(
    const int32_t *weights, const int32_t *values, int64_t value_words, int64_t num_rows, const vec *rescale, vec *result) {
    vec sums[TILE][VECTORS];
    for (int t = 0; t < TILE; t++)
        for (int c = 0; c < VECTORS; c++) sums[t][c] = result[t * VECTORS + c] * rescale[c];
    for (int64_t j = 0; j < num_rows; j++) {
        ivec weight[VECTORS];
        for (int c = 0; c < VECTORS; c++) weight[c] = load_words(weights + j * QUERIES + c * LANES);
        for (int t = 0; t < TILE; t++) {
            ivec value = broadcast_word(values + j * value_words + t);
            for (int c = 0; c < VECTORS; c++) sums[t][c] = ADD_PRODUCTS(sums[t][c], weight[c], value);
        }
    }
    for (int t = 0; t < TILE; t++)
        for (int c = 0; c < VECTORS; c++) result[t * VECTORS + c] = sums[t][c];
}

/* The running softmax of a block of queries. `scores` has room for KEYS keys. */
typedef struct {
    vec highest[VECTORS], total[VECTORS];
    vec *scores, *result; /* [KEYS][VECTORS], [D][VECTORS] */
    int32_t *queries;     /* words, [D / PER_WORD][QUERIES] */
} NAME(state, KIND);

/* Takes `count` <= KEYS keys in. Of them, lane i sees key j while j <= i + causal_from, or what `mask` adds: rows of
   mask_width floats. `scale` turns products into powers of 2. */
INLINE void NAME(attend_block, KIND)(
    NAME(state, KIND) *state, const stretch *from, int64_t first, int64_t count, int64_t causal_from,
    const float *mask, int64_t mask_width, int dim, float scale) {
    vec *scores = state->scores;
    for (int64_t j = 0; j < count; j += TILE) {
        const char *keys[TILE];
        for (int t = 0; t < TILE; t++) keys[t] = from->keys + (first + MIN(j + t, count - 1)) * from->key_bytes;
        NAME(score_tile, KIND)(state->queries, keys, dim / PER_WORD, scores + j * VECTORS);
    }
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t j = MAX(0, causal_from + 1); j < count; j++)
        for (int c = 0; c < VECTORS; c++) {
            ivec is_seen = lane + (int)(c * LANES + causal_from) >= (int)j - (ivec){0};
            scores[j * VECTORS + c] = choose(is_seen, scores[j * VECTORS + c], broadcast(-INFINITY));
        }
    if (mask)
        for (int64_t j = 0; j < count; j++)
            for (int c = 0; c < VECTORS; c++) scores[j * VECTORS + c] += load_float(mask + j * mask_width + c * LANES);
    const int64_t padded = (count + PER_WORD - 1) / PER_WORD * PER_WORD;
    for (int64_t j = count * VECTORS; j < padded * VECTORS; j++) scores[j] = broadcast(-INFINITY);

    vec rescale[VECTORS];
    for (int c = 0; c < VECTORS; c++) {
        vec highest = state->highest[c];
        for (int64_t j = 0; j < count; j++) highest = max_lanes(scores[j * VECTORS + c], highest);
        /* A lane that has seen no key yet: any finite number in place of minus infinity keeps NaN out. */
        vec finite = choose(highest == broadcast(-INFINITY), (vec){0}, highest);
        rescale[c] = exp2_lanes((state->highest[c] - finite) * scale, 0);
        state->highest[c] = highest;
        vec shift = finite * scale, total = {0};
        ivec *words = (ivec *)scores;
        for (int64_t j = 0; j < padded; j += PER_WORD) {
            vec weight = exp2_lanes(scores[j * VECTORS + c] * scale - shift, IS_PAIRED);
            total += weight;
#if IS_PAIRED
            vec next = exp2_lanes(scores[(j + 1) * VECTORS + c] * scale - shift, 1);
            total += next;
            words[j / 2 * VECTORS + c] = pair_bf16(weight, next);
#else
            words[j * VECTORS + c] = (ivec)weight;
#endif
        }
        state->total[c] = state->total[c] * rescale[c] + total;
    }
    for (int d = 0; d < dim; d += TILE)
        NAME(value_tile, KIND)(
            (const int32_t *)scores, from->values + first / PER_WORD * from->value_words + d, from->value_words,
            padded / PER_WORD, rescale, state->result + d * VECTORS);
}

/* Queries as words side by side, `count` of them; the other lanes get zeros. */
INLINE void NAME(take_queries, KIND)(const NUMBER *q, int64_t q_row, int64_t count, int dim, int32_t *words) {
    for (int c = 0; c < VECTORS; c++)
        for (int w = 0; w < dim / PER_WORD; w += LANES) {
            ivec rows[LANES];
            for (int i = 0; i < LANES; i++) {
                const NUMBER *query = q + (c * LANES + i) * q_row + w * PER_WORD;
                rows[i] = (ivec){0};
                if (c * LANES + i >= count) continue;
#if IS_PAIRED
                memcpy(&rows[i], query, sizeof rows[i]);
#else
                rows[i] = (ivec)LOAD(query);
#endif
            }
            transpose(rows);
            for (int i = 0; i < LANES; i++) memcpy(words + (w + i) * QUERIES + c * LANES, &rows[i], sizeof rows[i]);
        }
}

/* Divides by the sums and writes the results, [count, D] with rows `out_row` apart, and the log-sum-exps. */
INLINE void NAME(give_results, KIND)(
    const NAME(state, KIND) *state, int64_t count, int dim, float scale, NUMBER *out, int64_t out_row, float *lse,
    int64_t lse_row) {
    for (int c = 0; c < VECTORS; c++) {
        ivec is_empty = state->total[c] == (vec){0};
        vec inverse = choose(is_empty, (vec){0}, 1.0f / state->total[c]);
        for (int d = 0; d < dim; d += LANES) {
            ivec rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = (ivec)(state->result[(d + i) * VECTORS + c] * inverse);
            transpose(rows);
            for (int i = 0; i < LANES && c * LANES + i < count; i++)
                NAME(store, KIND)(out + (c * LANES + i) * out_row + d, (vec)rows[i]);
        }
        for (int i = 0; i < LANES && c * LANES + i < count; i++) {
            float total = state->total[c][i], log2_total = log2f(total);
            lse[(c * LANES + i) * lse_row] =
                total == 0 ? -INFINITY : (state->highest[c][i] * scale + log2_total) * 0.69314718f;
        }
    }
}

/* Readies a stretch of keys: as words that `score_tile` and `value_tile` read. Returns the room it took. */
INLINE int32_t *NAME(take_keys, KIND)(
    const NUMBER *keys, const NUMBER *values, int64_t k_row, int64_t v_row, int64_t count, int dim, int32_t *room,
    stretch *taken) {
    *taken = (stretch){(const char *)keys, k_row * (int64_t)sizeof(NUMBER), (const int32_t *)values, v_row, count};
#if IS_PAIRED
    taken->values = room;
    taken->value_words = dim;
    for (int64_t j = 0; j < count; j += 2)
        for (int d = 0; d < dim; d += LANES) {
            vec even = LOAD(values + j * v_row + d), odd = j + 1 < count ? LOAD(values + (j + 1) * v_row + d) : (vec){0};
            ivec both = (ivec)((ulanes)even >> 16) | (ivec)odd;
            memcpy(room, &both, sizeof both);
            room += LANES;
        }
#else
    if (IS_CONVERTED) {
        taken->keys = (const char *)room;
        taken->key_bytes = dim * (int64_t)sizeof(float);
        taken->values = room + count * dim;
        taken->value_words = dim;
        for (int64_t j = 0; j < 2 * count; j++) {
            const NUMBER *from = j < count ? keys + j * k_row : values + (j - count) * v_row;
            for (int d = 0; d < dim; d += LANES) {
                vec numbers = LOAD(from + d);
                memcpy(room, &numbers, sizeof numbers);
                room += LANES;
            }
        }
    }
#endif
    return room;
}

/* All queries of a piece of one head, over its stretches of keys: the shared prefix, what is kept, its own. */
static void NAME(attend_piece, KIND)(
    NAME(state, KIND) *state, const stretch stretches[3], const NUMBER *q, int64_t q_row, int64_t length,
    const float *mask, int64_t mask_width, int dim, float scale, NUMBER *out, int64_t out_row, float *lse,
    int64_t lse_row) {
    for (int64_t q0 = 0; q0 < length; q0 += QUERIES) {
        const int64_t count = MIN(QUERIES, length - q0);
        NAME(take_queries, KIND)(q + q0 * q_row, q_row, count, dim, state->queries);
        for (int c = 0; c < VECTORS; c++) state->highest[c] = broadcast(-INFINITY), state->total[c] = (vec){0};
        memset(state->result, 0, sizeof(vec) * VECTORS * dim);
        for (int s = 0; s < 3; s++) {
            const int is_own = s == 2, is_causal = is_own && !mask;
            const int64_t num_keys = is_causal ? MIN(stretches[s].count, q0 + QUERIES) : stretches[s].count;
            /* The mask's rows are the keys kept, then the piece's own. */
            const float *rows = s && mask ? mask + (is_own ? stretches[1].count : 0) * mask_width + q0 : NULL;
            for (int64_t first = 0; first < num_keys; first += KEYS) {
                const int64_t n = MIN(KEYS, num_keys - first);
                const int64_t causal_from = is_causal ? q0 - first : n;
                const float *block_mask = rows ? rows + first * mask_width : NULL;
                if (dim == 64) /* known sizes unroll */
                    NAME(attend_block, KIND)
                (state, stretches + s, first, n, causal_from, block_mask, mask_width, 64, scale);
                else NAME(attend_block, KIND)(
                    state, stretches + s, first, n, causal_from, block_mask, mask_width, dim, scale);
            }
        }
        NAME(give_results, KIND)(
            state, count, dim, scale, out + q0 * out_row, out_row, lse + q0 * lse_row, lse_row);
    }
}

/* One key head of one piece: closes the slot's full window, attends, keeps the piece's own keys. */
static void NAME(run_piece, KIND)(
    NAME(state, KIND) *state, int32_t *room, const int64_t *piece, int64_t kv, const NAME(arguments, KIND) *a) {
    const int64_t row = piece[ROW], length = piece[LENGTH], kept = piece[KEPT];
    const int dim = (int)a->dim;
    NUMBER *cached_k = a->cache_k + piece[SLOT] * a->slot_stride + kv * a->head_stride;
    NUMBER *cached_v = a->cache_v + piece[SLOT] * a->slot_stride + kv * a->head_stride;
    if (piece[CLOSE_AT] >= 0) {
        const int64_t to = piece[CLOSE_AT] * dim, from = to + a->starts[kv] * dim;
        memmove(cached_k + to, cached_k + from, (size_t)(a->global_size * dim) * sizeof(NUMBER));
        memmove(cached_v + to, cached_v + from, (size_t)(a->global_size * dim) * sizeof(NUMBER));
    }
    const NUMBER *own_k = a->new_k + row * a->k_row + kv * a->k_head;
    const NUMBER *own_v = a->new_v + row * a->v_row + kv * a->v_head;
    stretch stretches[3];
    const int64_t prefix = kv * a->prefix_head;
    room = NAME(take_keys, KIND)(
        a->prefix_k + prefix, a->prefix_v + prefix, dim, dim, piece[PREFIX_COUNT], dim, room, stretches);
    room = NAME(take_keys, KIND)(cached_k, cached_v, dim, dim, kept, dim, room, stretches + 1);
    NAME(take_keys, KIND)(
        own_k, own_v, a->k_row, a->v_row, piece[NUM_OWN], dim, room, stretches + 2);
    const int64_t mask_width = (length + MASK_UNIT - 1) / MASK_UNIT * MASK_UNIT;
    for (int64_t head = kv * a->group; head < (kv + 1) * a->group; head++) {
        const float *mask = piece[MASK_AT] < 0 ? NULL : a->masks + piece[MASK_AT] + head * piece[MASK_HEAD];
        const int64_t heads = a->num_kv_heads * a->group, at = row * heads + head;
        NAME(attend_piece, KIND)(
            state, stretches, a->q + row * a->q_row + head * a->q_head, a->q_row, length, mask, mask_width, dim,
            a->scale * 1.44269504f, a->out + at * dim, heads * dim, a->lse + at, heads);
    }
    if (!piece[IS_KEPT]) return;
    for (int64_t i = 0; i < length; i++) {
        memcpy(cached_k + (kept + i) * dim, own_k + i * a->k_row, (size_t)dim * sizeof(NUMBER));
        memcpy(cached_v + (kept + i) * dim, own_v + i * a->v_row, (size_t)dim * sizeof(NUMBER));
    }
}

/* Consecutive pieces of one slot are computed one after the other, a thread to every key head. Returns 0, or 1 when
   memory ran out. */
int NAME(prefill_attention, KIND)(const NAME(arguments, KIND) *a, int num_threads) {
    const int64_t *pieces = a->pieces;
    int64_t most_keys = 0, num_chains = 0;
    int64_t *chains = malloc((size_t)(a->num_pieces + 1) * sizeof *chains);
    if (!chains) return 1;
    for (int64_t i = 0; i < a->num_pieces; i++) {
        const int64_t *piece = pieces + i * FIELDS;
        most_keys = MAX(most_keys, piece[PREFIX_COUNT] + piece[KEPT] + piece[NUM_OWN]);
        if (!i || piece[SLOT] != piece[SLOT - FIELDS]) chains[num_chains++] = i;
    }
    chains[num_chains] = a->num_pieces;
    const size_t fixed = (size_t)(KEYS + 1 + 2 * a->dim) * VECTORS * sizeof(vec);
    const size_t bytes = fixed + (size_t)((most_keys + 3) * a->dim) * sizeof(int32_t) * (IS_CONVERTED ? 2 : 1);
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        NAME(state, KIND) state;
        state.scores = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        if (!state.scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < num_chains * a->num_kv_heads; item++) {
            if (!state.scores) continue;
            state.result = state.scores + (KEYS + 1) * VECTORS;
            state.queries = (int32_t *)(state.result + a->dim * VECTORS);
            int32_t *room = state.queries + a->dim * QUERIES;
            const int64_t chain = item / a->num_kv_heads, kv = item % a->num_kv_heads;
            for (int64_t i = chains[chain]; i < chains[chain + 1]; i++)
                NAME(run_piece, KIND)(&state, room, pieces + i * FIELDS, kv, a);
        }
        free(state.scores);
    }
    free(chains);
    return failed;
}

#undef LOAD
#undef ADD_PRODUCTS
#undef IS_CONVERTED
#undef PER_WORD
#endif
