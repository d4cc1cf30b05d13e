/* Attention of a prefill step on a CPU: chunks of sequences, each over the keys cached before it
   and its own.

   The queries of a chunk see, in this order, the keys of the job's shared prefix, all cached keys
   of the chunk's slot, and the chunk's own keys: causally, or in a label tree those that a mask
   allows. A chunk may close its slot's full window first, and its own keys may be put into the
   cache afterwards.

   Queries are in the lanes of vectors and keys are processed one after the other, so a query's bits
   depend on its own keys alone: not on its neighbours, not on the number of threads. Softmax is
   updated block by block of keys, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135). Sums
   are kept in float32. The matmuls are `attention_matmul.h`.

   This file includes itself once per variant of the matmul. Legend: N rows, K key/value heads, G
   queries per key head, D head dim (a multiple of 16; of 32 for tiles). */

#ifndef VARIANT
#include "lanes.h"
#include "tiles.h"

#define MOST_KEYS 132 /* of a block: enough for a chunk's own keys, and a multiple of KEYS */
#define MASK_UNIT 32  /* a mask has its queries padded to a multiple of this */

/* The columns of the table `chunks`: those of `ChunkRow` in tables.py, which says what they mean (a
   test compares). */
enum { SLOT, ROW, LENGTH, PREFIX_COUNT, CLOSE_AT, KEPT, NUM_OWN, IS_KEPT, MASK_AT, MASK_HEAD, FIELDS };

/* The ranges of keys that a chunk's queries see, in this order. */
enum { PREFIX, CACHED, OWN, NUM_RANGES };

/* The variants of the matmul. */
#define VARIANT float
#define ELEMENT float
#define KIND float
#define PER_WORD 1
#include __FILE__
#define VARIANT bf16
#define ELEMENT uint16_t
#define KIND bf16
#ifdef __AVX512BF16__
#define PER_WORD 2
#else
#define PER_WORD 1
#endif
#include __FILE__
#ifdef HAS_TILES
#define VARIANT tiles
#define ELEMENT uint16_t
#define KIND bf16
#define PER_WORD 2
#define IS_TILED
#include __FILE__
#endif

/* All chunks of a step. Returns 0, or 1 if there is no memory. */
int prefill_attention_float(const arguments_float *a, int num_threads) { return attend_chunks_float(a, num_threads); }

int prefill_attention_bf16(const arguments_bf16 *a, int num_threads) {
#ifdef HAS_TILES
    if (a->dim % PAIRED_ROWS == 0 && can_use_tiles()) return attend_chunks_tiles((const void *)a, num_threads);
#endif
    return attend_chunks_bf16(a, num_threads);
}

#else /* VARIANT */
#include "attention_matmul.h"

/* Strides in elements. `starts`: where each key head's global tokens begin in a window,
   `global_size` of them. */
typedef struct {
    const ELEMENT *q, *new_k, *new_v, *prefix_k, *prefix_v;
    ELEMENT *cache_k, *cache_v, *out; /* out [N, heads, D] */
    float *lse;                      /* [N, heads] */
    const int64_t *chunks, *starts;
    const float *masks;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head, slot_stride, head_stride, prefix_head;
    int64_t num_chunks, num_kv_heads, group, dim, global_size;
    float scale;
} NAME(arguments, VARIANT);

#define BLOCK (MOST_KEYS / UNIT * UNIT)

/* The running softmax of a block of queries. `scores` has space for MOST_KEYS keys. */
typedef struct {
    vec highest[VECTORS], total[VECTORS];
    vec *scores, *result; /* [keys][VECTORS], [D][VECTORS] */
    int32_t *queries;     /* words, [D / PER_WORD][QUERIES] */
} NAME(state, VARIANT);

/* Takes `count` <= BLOCK keys into the softmax. Lane i sees key j if j <= i + causal_from;
   `mask` (rows of mask_width floats) is added to the scores. `scale` includes log2(e), because
   weights are powers of 2. */
INLINE void NAME(attend_block, VARIANT)(
    const int vectors, NAME(state, VARIANT) *state, const key_range *from, int64_t first, int64_t count,
    int64_t causal_from, const float *mask, int64_t mask_width, int dim, float scale) {
    vec *scores = state->scores;
    NAME(score_keys, VARIANT)(vectors, state->queries, from, first, count, dim, scores);
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t j = MAX(0, causal_from + 1); j < count; j++)
        for (int c = 0; c < vectors; c++) {
            ivec is_seen = lane + (int)(c * LANES + causal_from) >= (int)j - (ivec){0};
            scores[j * vectors + c] = choose(is_seen, scores[j * vectors + c], broadcast(-INFINITY));
        }
    if (mask)
        for (int64_t j = 0; j < count; j++)
            for (int c = 0; c < vectors; c++) scores[j * vectors + c] += load_float(mask + j * mask_width + c * LANES);
    const int64_t padded = (count + UNIT - 1) / UNIT * UNIT;
    for (int64_t j = count * vectors; j < padded * vectors; j++) scores[j] = broadcast(-INFINITY);

    /* Two accumulators of each, so that the sums and maxima of neighbouring keys do not wait for
       each other. */
    vec highest[2][VECTORS], total[2][VECTORS] = {{{0}}}, shift[VECTORS], rescale[VECTORS];
    for (int c = 0; c < vectors; c++) highest[0][c] = highest[1][c] = state->highest[c];
    for (int64_t j = 0; j < count; j += 2)
        for (int c = 0; c < vectors; c++) {
            highest[0][c] = max_lanes(scores[j * vectors + c], highest[0][c]);
            if (j + 1 < count) highest[1][c] = max_lanes(scores[(j + 1) * vectors + c], highest[1][c]);
        }
    for (int c = 0; c < vectors; c++) {
        vec new_highest = max_lanes(highest[0][c], highest[1][c]);
        /* A lane that has seen no key yet: minus infinity minus itself would be NaN, so use any
           finite value. */
        vec finite = choose(new_highest == broadcast(-INFINITY), (vec){0}, new_highest);
        rescale[c] = exp2_lanes((state->highest[c] - finite) * scale);
        state->highest[c] = new_highest;
        shift[c] = finite * scale;
    }
    ivec *words = (ivec *)scores;
    for (int64_t j = 0; j < padded; j += PER_WORD)
        for (int c = 0; c < vectors; c++) {
#if PER_WORD == 2
            vec weight = rough_exp2_lanes(scores[j * vectors + c] * scale - shift[c]);
            vec next = rough_exp2_lanes(scores[(j + 1) * vectors + c] * scale - shift[c]);
            total[0][c] += weight;
            total[1][c] += next;
            words[j / 2 * vectors + c] = pair_bf16(weight, next);
#else
            vec weight = exp2_lanes(scores[j * vectors + c] * scale - shift[c]);
            total[0][c] += weight;
            words[j * vectors + c] = (ivec)weight;
#endif
        }
    for (int c = 0; c < vectors; c++)
        state->total[c] = state->total[c] * rescale[c] + (total[0][c] + total[1][c]);
    NAME(add_values, VARIANT)(vectors, (const int32_t *)scores, from, first, count, dim, rescale, state->result);
}

/* Transposes `count` queries so that each is in a lane of its own; the other lanes get zeros. */
INLINE void NAME(load_queries, VARIANT)(
    const int vectors, const ELEMENT *q, int64_t q_row, int64_t count, int dim, int32_t *words) {
    for (int c = 0; c < vectors; c++)
        for (int w = 0; w < dim / PER_WORD; w += LANES) {
            ivec rows[LANES];
            for (int i = 0; i < LANES; i++) {
                const ELEMENT *query = q + (c * LANES + i) * q_row + w * PER_WORD;
                rows[i] = (ivec){0};
                if (c * LANES + i >= count) continue;
#ifdef IS_TILED
                memcpy(&rows[i], query, sizeof rows[i]);
#elif PER_WORD == 2
                if (w + LANES <= dim / PER_WORD) memcpy(&rows[i], query, sizeof rows[i]);
                else memcpy(&rows[i], query, sizeof rows[i] / 2); /* D is a multiple of 16: half a vector is left */
#else
                rows[i] = (ivec)LOAD(query);
#endif
            }
            transpose(rows);
            for (int i = 0; i < LANES; i++) memcpy(words + ((w + i) * vectors + c) * LANES, &rows[i], sizeof rows[i]);
        }
}

/* Divides by the sums and writes the results, [count, D] with stride `out_row`, and the
   log-sum-exps. */
INLINE void NAME(write_results, VARIANT)(
    const int vectors, const NAME(state, VARIANT) *state, int64_t count, int dim, float scale, ELEMENT *out,
    int64_t out_row, float *lse, int64_t lse_row) {
    for (int c = 0; c < vectors; c++) {
        ivec is_empty = state->total[c] == (vec){0};
        vec inverse = choose(is_empty, (vec){0}, 1.0f / state->total[c]);
        for (int d = 0; d < dim; d += LANES) {
            ivec rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = (ivec)(state->result[(d + i) * vectors + c] * inverse);
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

/* `count` queries from `q0` on of a chunk, in as many vectors as that takes. Arguments as of
   `attend_chunk`. */
INLINE void NAME(attend_queries, VARIANT)(
    const int vectors, NAME(state, VARIANT) *state, const key_range ranges[NUM_RANGES], const ELEMENT *q, int64_t q_row,
    int64_t q0, int64_t count, const float *mask, int64_t mask_width, const int dim, float scale, ELEMENT *out,
    int64_t out_row, float *lse, int64_t lse_row) {
    NAME(load_queries, VARIANT)(vectors, q + q0 * q_row, q_row, count, dim, state->queries);
    for (int c = 0; c < vectors; c++) state->highest[c] = broadcast(-INFINITY), state->total[c] = (vec){0};
    memset(state->result, 0, sizeof(vec) * (size_t)(vectors * dim));
    for (int s = 0; s < NUM_RANGES; s++) {
        const int is_own = s == OWN, is_causal = is_own && !mask;
        const int64_t num_keys = is_causal ? MIN(ranges[s].count, q0 + QUERIES) : ranges[s].count;
        /* The mask's rows are the cached keys, then the chunk's own. */
        const float *rows = s != PREFIX && mask ? mask + (is_own ? ranges[CACHED].count : 0) * mask_width + q0 : NULL;
        for (int64_t first = 0; first < num_keys; first += BLOCK) {
            const int64_t n = MIN(BLOCK, num_keys - first);
            const int64_t causal_from = is_causal ? q0 - first : n;
            const float *block_mask = rows ? rows + first * mask_width : NULL;
            NAME(attend_block, VARIANT)(
                vectors, state, ranges + s, first, n, causal_from, block_mask, mask_width, dim, scale);
        }
    }
    NAME(write_results, VARIANT)(
        vectors, state, count, dim, scale, out + q0 * out_row, out_row, lse + q0 * lse_row, lse_row);
}

/* All queries of a chunk of one head, over its three ranges of keys: the shared prefix, the cached
   keys, its own. */
static void NAME(attend_chunk, VARIANT)(
    NAME(state, VARIANT) *state, const key_range ranges[NUM_RANGES], const ELEMENT *q, int64_t q_row, int64_t length,
    const float *mask, int64_t mask_width, int dim, float scale, ELEMENT *out, int64_t out_row, float *lse,
    int64_t lse_row) {
    for (int64_t q0 = 0; q0 < length; q0 += QUERIES) {
        const int64_t count = MIN(QUERIES, length - q0);
        /* Constants, which let the compiler unroll: the usual head dim, and the number of vectors. */
#define ATTEND(vectors, dim) \
    NAME(attend_queries, VARIANT)( \
        vectors, state, ranges, q, q_row, q0, count, mask, mask_width, dim, scale, out, out_row, lse, lse_row)
#ifndef IS_TILED
        if (count <= LANES) {
            if (dim == 64) ATTEND(1, 64);
            else ATTEND(1, dim);
            continue;
        }
#endif
        if (dim == 64) ATTEND(VECTORS, 64);
        else ATTEND(VECTORS, dim);
#undef ATTEND
    }
}

/* One key head of one chunk: closes the slot's full window, attends, puts the chunk's own keys into
   the cache.
   `prefix`: the prepared keys of this head, which a chunk sees completely or not at all. */
static void NAME(run_chunk, VARIANT)(
    NAME(state, VARIANT) *state, int32_t *buffer, const key_range *prefix, const int64_t *chunk, int64_t kv,
    const NAME(arguments, VARIANT) *a) {
    const int64_t row = chunk[ROW], length = chunk[LENGTH], kept = chunk[KEPT];
    const int dim = (int)a->dim;
    ELEMENT *cached_k = a->cache_k + chunk[SLOT] * a->slot_stride + kv * a->head_stride;
    ELEMENT *cached_v = a->cache_v + chunk[SLOT] * a->slot_stride + kv * a->head_stride;
    if (chunk[CLOSE_AT] >= 0) {
        const int64_t to = chunk[CLOSE_AT] * dim, from = to + a->starts[kv] * dim;
        memmove(cached_k + to, cached_k + from, (size_t)(a->global_size * dim) * sizeof(ELEMENT));
        memmove(cached_v + to, cached_v + from, (size_t)(a->global_size * dim) * sizeof(ELEMENT));
    }
    const ELEMENT *own_k = a->new_k + row * a->k_row + kv * a->k_head;
    const ELEMENT *own_v = a->new_v + row * a->v_row + kv * a->v_head;
    key_range ranges[NUM_RANGES] = {[PREFIX] = *prefix};
    if (!chunk[PREFIX_COUNT]) ranges[PREFIX].count = 0;
    buffer = NAME(prepare_keys, VARIANT)(cached_k, cached_v, dim, dim, kept, dim, buffer, ranges + CACHED);
    NAME(prepare_keys, VARIANT)(own_k, own_v, a->k_row, a->v_row, chunk[NUM_OWN], dim, buffer, ranges + OWN);
    const int64_t mask_width = (length + MASK_UNIT - 1) / MASK_UNIT * MASK_UNIT;
    for (int64_t head = kv * a->group; head < (kv + 1) * a->group; head++) {
        const float *mask = chunk[MASK_AT] < 0 ? NULL : a->masks + chunk[MASK_AT] + head * chunk[MASK_HEAD];
        const int64_t heads = a->num_kv_heads * a->group, at = row * heads + head;
        NAME(attend_chunk, VARIANT)(
            state, ranges, a->q + row * a->q_row + head * a->q_head, a->q_row, length, mask, mask_width, dim,
            a->scale * 1.44269504f, a->out + at * dim, heads * dim, a->lse + at, heads);
    }
    if (!chunk[IS_KEPT]) return;
    for (int64_t i = 0; i < length; i++) {
        memcpy(cached_k + (kept + i) * dim, own_k + i * a->k_row, (size_t)dim * sizeof(ELEMENT));
        memcpy(cached_v + (kept + i) * dim, own_v + i * a->v_row, (size_t)dim * sizeof(ELEMENT));
    }
}

/* The keys of the shared prefix are prepared once for all chunks. Consecutive chunks of one slot
   depend on each other through the cache, so one thread computes them in order, for one key head.
   Returns 0, or 1 if there is no memory. */
static int NAME(attend_chunks, VARIANT)(const NAME(arguments, VARIANT) *a, int num_threads) {
    const int64_t *chunks = a->chunks;
    int64_t most_keys = 0, num_prefix = 0, num_chains = 0;
    for (int64_t i = 0; i < a->num_chunks; i++) {
        const int64_t *chunk = chunks + i * FIELDS;
        most_keys = MAX(most_keys, chunk[KEPT] + chunk[NUM_OWN]);
        num_prefix = MAX(num_prefix, chunk[PREFIX_COUNT]);
    }
    const int64_t prefix_words = NAME(buffer_words, VARIANT)(num_prefix, a->dim);
    const int64_t fixed_words = (MOST_KEYS + MOST_UNIT + 2 * a->dim) * QUERIES;
    const int64_t own_words = fixed_words + NAME(buffer_words, VARIANT)(most_keys, a->dim) + MOST_UNIT * a->dim;
    int64_t *chains = malloc((size_t)(a->num_chunks + 1) * sizeof *chains);
    key_range *prefixes = malloc((size_t)a->num_kv_heads * sizeof *prefixes);
    int32_t *prefix_buffer = allocate(prefix_words * a->num_kv_heads);
    int failed = !chains || !prefixes || !prefix_buffer;
    if (failed) goto done;
    for (int64_t i = 0; i < a->num_chunks; i++)
        if (!i || chunks[i * FIELDS + SLOT] != chunks[(i - 1) * FIELDS + SLOT]) chains[num_chains++] = i;
    chains[num_chains] = a->num_chunks;
#pragma omp parallel num_threads(num_threads)
    {
        NAME(state, VARIANT) state;
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
            NAME(prepare_keys, VARIANT)(
                a->prefix_k + kv * a->prefix_head, a->prefix_v + kv * a->prefix_head, a->dim, a->dim, num_prefix,
                (int)a->dim, prefix_buffer + kv * prefix_words, prefixes + kv);
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < num_chains * a->num_kv_heads; item++) {
            if (!words) continue;
            state.scores = (vec *)words;
            state.result = state.scores + (MOST_KEYS + MOST_UNIT) * VECTORS;
            state.queries = (int32_t *)(state.result + a->dim * VECTORS);
            const int64_t chain = item / a->num_kv_heads, kv = item % a->num_kv_heads;
            for (int64_t i = chains[chain]; i < chains[chain + 1]; i++)
                NAME(run_chunk, VARIANT)(
                    &state, state.queries + a->dim * QUERIES, prefixes + kv, chunks + i * FIELDS, kv, a);
        }
#ifdef IS_TILED
        _tile_release();
#endif
        free(words);
    }
done:
    free(prefix_buffer);
    free(prefixes);
    free(chains);
    return failed;
}

#undef VARIANT
#undef ELEMENT
#undef KIND
#undef PER_WORD
#undef IS_TILED
#undef BLOCK
#undef UNIT
#undef LOAD
#endif
