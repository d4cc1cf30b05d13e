/* Attention of a prefill on a CPU: pieces of sequences, each over the keys kept before it and over its own.

   A piece's queries see, in this order, the first keys of the job's shared prefix, all keys that its slot keeps, and
   the piece's own keys: those up to each query, or, for a tree of labels, those that a mask lets through. A piece may
   close its slot's full window first, and its own keys may be put into the cache after it.

   Queries stand in the lanes of vectors and keys pass by one after the other, so a query's bits depend on its own keys
   alone: not on its neighbours, not on the number of threads. Softmax is kept up block by block of keys, as in Dao et
   al. 2022 (arXiv 2205.14135). Sums are kept in float32. How products are made is `attention_products.h`'s business.

   Included once per way of multiplying by the middle of this file. Legend: N rows, K key/value heads, G queries a key
   head, D head dim (a multiple of 16, of 32 for tiles). */

#ifndef WAY
#include "lanes.h"
#include "tiles.h"

#define MOST_KEYS 128 /* of a block */
#define MASK_UNIT 32
#define ALIGNMENT 64

/* One row of `pieces`: see `Piece` in prefill_attention.py. */
enum { SLOT, ROW, LENGTH, PREFIX_COUNT, CLOSE_AT, KEPT, NUM_OWN, IS_KEPT, MASK_AT, MASK_HEAD, FIELDS };

/* `words` of 32 bits that begin where tiles and vectors like it; NULL when memory ran out. */
static void *allocate(int64_t words) {
    return aligned_alloc(ALIGNMENT, ((size_t)words * sizeof(int32_t) / ALIGNMENT + 1) * ALIGNMENT);
}

/* Ways to multiply. */
#define WAY float
#define NUMBER float
#define KIND float
#define PER_WORD 1
#include __FILE__
#define WAY bf16
#define NUMBER uint16_t
#define KIND bf16
#ifdef __AVX512BF16__
#define PER_WORD 2
#else
#define PER_WORD 1
#endif
#include __FILE__
#ifdef HAS_TILES
#define WAY tiles
#define NUMBER uint16_t
#define KIND bf16
#define PER_WORD 2
#define IS_TILED
#include __FILE__
#endif

/* All pieces of a step. Returns 0, or 1 when memory ran out. */
int prefill_attention_float(const arguments_float *a, int num_threads) { return attend_pieces_float(a, num_threads); }

int prefill_attention_bf16(const arguments_bf16 *a, int num_threads) {
#ifdef HAS_TILES
    if (a->dim % PAIRED_ROWS == 0 && may_use_tiles()) return attend_pieces_tiles((const void *)a, num_threads);
#endif
    return attend_pieces_bf16(a, num_threads);
}

#else /* WAY */
#include "attention_products.h"

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
} NAME(arguments, WAY);

/* The running softmax of a block of queries. `scores` has room for MOST_KEYS keys. */
typedef struct {
    vec highest[VECTORS], total[VECTORS];
    vec *scores, *result; /* [keys][VECTORS], [D][VECTORS] */
    int32_t *queries;     /* words, [D / PER_WORD][QUERIES] */
} NAME(state, WAY);

/* Takes `count` <= MOST_KEYS keys in. Of them, lane i sees key j while j <= i + causal_from, or what `mask` adds: rows
   of mask_width floats. `scale` turns products into powers of 2. */
INLINE void NAME(attend_block, WAY)(
    NAME(state, WAY) *state, const stretch *from, int64_t first, int64_t count, int64_t causal_from,
    const float *mask, int64_t mask_width, int dim, float scale) {
    vec *scores = state->scores;
    NAME(score_keys, WAY)(state->queries, from, first, count, dim, scores);
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
    const int64_t padded = (count + UNIT - 1) / UNIT * UNIT;
    for (int64_t j = count * VECTORS; j < padded * VECTORS; j++) scores[j] = broadcast(-INFINITY);

    /* Two of each: sums and maxima of neighbours need not wait for each other. */
    vec highest[2][VECTORS], total[2][VECTORS] = {{{0}}}, shift[VECTORS], rescale[VECTORS];
    for (int c = 0; c < VECTORS; c++) highest[0][c] = highest[1][c] = state->highest[c];
    for (int64_t j = 0; j < count; j += 2)
        for (int c = 0; c < VECTORS; c++) {
            highest[0][c] = max_lanes(scores[j * VECTORS + c], highest[0][c]);
            if (j + 1 < count) highest[1][c] = max_lanes(scores[(j + 1) * VECTORS + c], highest[1][c]);
        }
    for (int c = 0; c < VECTORS; c++) {
        vec new_highest = max_lanes(highest[0][c], highest[1][c]);
        /* A lane that has seen no key yet: any finite number in place of minus infinity keeps NaN out. */
        vec finite = choose(new_highest == broadcast(-INFINITY), (vec){0}, new_highest);
        rescale[c] = exp2_lanes((state->highest[c] - finite) * scale);
        state->highest[c] = new_highest;
        shift[c] = finite * scale;
    }
    ivec *words = (ivec *)scores;
    for (int64_t j = 0; j < padded; j += PER_WORD)
        for (int c = 0; c < VECTORS; c++) {
#if PER_WORD == 2
            vec weight = rough_exp2_lanes(scores[j * VECTORS + c] * scale - shift[c]);
            vec next = rough_exp2_lanes(scores[(j + 1) * VECTORS + c] * scale - shift[c]);
            total[0][c] += weight;
            total[1][c] += next;
            words[j / 2 * VECTORS + c] = pair_bf16(weight, next);
#else
            vec weight = exp2_lanes(scores[j * VECTORS + c] * scale - shift[c]);
            total[0][c] += weight;
            words[j * VECTORS + c] = (ivec)weight;
#endif
        }
    for (int c = 0; c < VECTORS; c++)
        state->total[c] = state->total[c] * rescale[c] + (total[0][c] + total[1][c]);
    for (int d = 0; d < dim; d++)
        for (int c = 0; c < VECTORS; c++) state->result[d * VECTORS + c] *= rescale[c];
    NAME(add_values, WAY)((const int32_t *)scores, from, first, count, dim, state->result);
}

/* Queries as words side by side, `count` of them; the other lanes get zeros. */
INLINE void NAME(take_queries, WAY)(const NUMBER *q, int64_t q_row, int64_t count, int dim, int32_t *words) {
    for (int c = 0; c < VECTORS; c++)
        for (int w = 0; w < dim / PER_WORD; w += LANES) {
            ivec rows[LANES];
            for (int i = 0; i < LANES; i++) {
                const NUMBER *query = q + (c * LANES + i) * q_row + w * PER_WORD;
                rows[i] = (ivec){0};
                if (c * LANES + i >= count) continue;
#if PER_WORD == 2
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
INLINE void NAME(give_results, WAY)(
    const NAME(state, WAY) *state, int64_t count, int dim, float scale, NUMBER *out, int64_t out_row, float *lse,
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

/* All queries of a piece of one head, over its stretches of keys: the shared prefix, what is kept, its own. */
static void NAME(attend_piece, WAY)(
    NAME(state, WAY) *state, const stretch stretches[3], const NUMBER *q, int64_t q_row, int64_t length,
    const float *mask, int64_t mask_width, int dim, float scale, NUMBER *out, int64_t out_row, float *lse,
    int64_t lse_row) {
    for (int64_t q0 = 0; q0 < length; q0 += QUERIES) {
        const int64_t count = MIN(QUERIES, length - q0);
        NAME(take_queries, WAY)(q + q0 * q_row, q_row, count, dim, state->queries);
        for (int c = 0; c < VECTORS; c++) state->highest[c] = broadcast(-INFINITY), state->total[c] = (vec){0};
        memset(state->result, 0, sizeof(vec) * VECTORS * dim);
        for (int s = 0; s < 3; s++) {
            const int is_own = s == 2, is_causal = is_own && !mask;
            const int64_t num_keys = is_causal ? MIN(stretches[s].count, q0 + QUERIES) : stretches[s].count;
            /* The mask's rows are the keys kept, then the piece's own. */
            const float *rows = s && mask ? mask + (is_own ? stretches[1].count : 0) * mask_width + q0 : NULL;
            for (int64_t first = 0; first < num_keys; first += MOST_KEYS) {
                const int64_t n = MIN(MOST_KEYS, num_keys - first);
                const int64_t causal_from = is_causal ? q0 - first : n;
                const float *block_mask = rows ? rows + first * mask_width : NULL;
                if (dim == 64) /* known sizes unroll */
                    NAME(attend_block, WAY)
                (state, stretches + s, first, n, causal_from, block_mask, mask_width, 64, scale);
                else NAME(attend_block, WAY)(
                    state, stretches + s, first, n, causal_from, block_mask, mask_width, dim, scale);
            }
        }
        NAME(give_results, WAY)(
            state, count, dim, scale, out + q0 * out_row, out_row, lse + q0 * lse_row, lse_row);
    }
}

/* One key head of one piece: closes the slot's full window, attends, keeps the piece's own keys. `prefix`: of this
   head, which a piece has whole or not at all. */
static void NAME(run_piece, WAY)(
    NAME(state, WAY) *state, int32_t *room, const stretch *prefix, const int64_t *piece, int64_t kv,
    const NAME(arguments, WAY) *a) {
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
    stretch stretches[3] = {*prefix};
    if (!piece[PREFIX_COUNT]) stretches[0].count = 0;
    room = NAME(take_keys, WAY)(cached_k, cached_v, dim, dim, kept, dim, room, stretches + 1);
    NAME(take_keys, WAY)(own_k, own_v, a->k_row, a->v_row, piece[NUM_OWN], dim, room, stretches + 2);
    const int64_t mask_width = (length + MASK_UNIT - 1) / MASK_UNIT * MASK_UNIT;
    for (int64_t head = kv * a->group; head < (kv + 1) * a->group; head++) {
        const float *mask = piece[MASK_AT] < 0 ? NULL : a->masks + piece[MASK_AT] + head * piece[MASK_HEAD];
        const int64_t heads = a->num_kv_heads * a->group, at = row * heads + head;
        NAME(attend_piece, WAY)(
            state, stretches, a->q + row * a->q_row + head * a->q_head, a->q_row, length, mask, mask_width, dim,
            a->scale * 1.44269504f, a->out + at * dim, heads * dim, a->lse + at, heads);
    }
    if (!piece[IS_KEPT]) return;
    for (int64_t i = 0; i < length; i++) {
        memcpy(cached_k + (kept + i) * dim, own_k + i * a->k_row, (size_t)dim * sizeof(NUMBER));
        memcpy(cached_v + (kept + i) * dim, own_v + i * a->v_row, (size_t)dim * sizeof(NUMBER));
    }
}

/* The shared prefix is readied once for all pieces. Consecutive pieces of one slot are computed one after the other, a
   thread to every key head. Returns 0, or 1 when memory ran out. */
static int NAME(attend_pieces, WAY)(const NAME(arguments, WAY) *a, int num_threads) {
    const int64_t *pieces = a->pieces;
    int64_t most_keys = 0, num_prefix = 0, num_chains = 0;
    for (int64_t i = 0; i < a->num_pieces; i++) {
        const int64_t *piece = pieces + i * FIELDS;
        most_keys = MAX(most_keys, piece[KEPT] + piece[NUM_OWN]);
        num_prefix = MAX(num_prefix, piece[PREFIX_COUNT]);
    }
    const int64_t prefix_words = NAME(room_for, WAY)(num_prefix, a->dim);
    const int64_t fixed_words = (MOST_KEYS + MOST_UNIT + 2 * a->dim) * QUERIES;
    const int64_t own_words = fixed_words + NAME(room_for, WAY)(most_keys, a->dim) + MOST_UNIT * a->dim;
    int64_t *chains = malloc((size_t)(a->num_pieces + 1) * sizeof *chains);
    stretch *prefixes = malloc((size_t)a->num_kv_heads * sizeof *prefixes);
    int32_t *prefix_room = allocate(prefix_words * a->num_kv_heads);
    int failed = !chains || !prefixes || !prefix_room;
    if (failed) goto done;
    for (int64_t i = 0; i < a->num_pieces; i++)
        if (!i || pieces[i * FIELDS + SLOT] != pieces[(i - 1) * FIELDS + SLOT]) chains[num_chains++] = i;
    chains[num_chains] = a->num_pieces;
#pragma omp parallel num_threads(num_threads)
    {
        NAME(state, WAY) state;
        int32_t *words = allocate(own_words);
        if (!words) {
#pragma omp atomic write
            failed = 1;
        }
#ifdef IS_TILED
        configure_tiles();
#endif
#pragma omp for schedule(dynamic, 1)
        for (int64_t kv = 0; kv < a->num_kv_heads; kv++)
            NAME(take_keys, WAY)(
                a->prefix_k + kv * a->prefix_head, a->prefix_v + kv * a->prefix_head, a->dim, a->dim, num_prefix,
                (int)a->dim, prefix_room + kv * prefix_words, prefixes + kv);
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < num_chains * a->num_kv_heads; item++) {
            if (!words) continue;
            state.scores = (vec *)words;
            state.result = state.scores + (MOST_KEYS + MOST_UNIT) * VECTORS;
            state.queries = (int32_t *)(state.result + a->dim * VECTORS);
            const int64_t chain = item / a->num_kv_heads, kv = item % a->num_kv_heads;
            for (int64_t i = chains[chain]; i < chains[chain + 1]; i++)
                NAME(run_piece, WAY)(
                    &state, state.queries + a->dim * QUERIES, prefixes + kv, pieces + i * FIELDS, kv, a);
        }
#ifdef IS_TILED
        _tile_release();
#endif
        free(words);
    }
done:
    free(prefix_room);
    free(prefixes);
    free(chains);
    return failed;
}

#undef WAY
#undef NUMBER
#undef KIND
#undef PER_WORD
#undef IS_TILED
#undef UNIT
#undef LOAD
#endif
