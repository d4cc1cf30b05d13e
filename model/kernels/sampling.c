/* Sampling the next token of some rows of logits on a CPU: temperature, min_p, top_k, top_p, random
   choice, in this order; and for log-probabilities the sum over a row's exponentials.

   One thread samples one row's token and reads that row alone. Weights are floats, their sums
   doubles. The tokens to keep are found by a histogram over the leading bits of the weights and by
   sorting one of its bins, never all weights. Among the tokens kept, the choice is made by inverse
   transform sampling in the order of their ids. */

#include "lanes.h"

#define MOST_BLOCKS 2048
#define LEAST_BLOCK 512 /* least number of weights summed together */
#define BIN_SHIFT 19    /* a weight's bin: its exponent and four bits of mantissa */
#define NUM_BINS 2048   /* 1.0, the highest weight, is in bin 2032 */

/* The tokens to keep: weights above `cut`, and of those equal to it the first `num_equal`. */
typedef struct {
    uint32_t cut;
    int64_t num_equal;
} limit;

/* Buffers for one row: every token's weight; for blocks of weights their sums and highest bits; for
   the listed tokens their bits and ids; for every bin its weight and count. */
typedef struct {
    float *weights;
    int64_t block, num_blocks;
    double *sums;
    uint32_t *peaks, *bits, *sorted;
    int32_t *ids;
    double *mass;
    int64_t *count;
} workspace;

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static int compare_down(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

/* The highest of `count` logits; NaN when one of them is. */
static float find_highest(const float *logits, int64_t count) {
    vec high = broadcast(-INFINITY);
    ivec is_nan = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec v = load_float(logits + i);
        high = max_lanes(v, high);
        is_nan |= v != v;
    }
    float highest = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) {
        if (is_nan[lane]) return NAN;
        highest = MAX(highest, high[lane]);
    }
    for (; i < count; i++) {
        if (logits[i] != logits[i]) return NAN;
        highest = MAX(highest, logits[i]);
    }
    return highest;
}

/* The first of `count` logits that is `value`, which is one of them. */
static int64_t find_first(const float *logits, int64_t count, float value) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
#ifdef __AVX512F__
        if (_mm512_cmpeq_ps_mask(_mm512_loadu_ps(logits + i), _mm512_set1_ps(value))) break;
#else
        int32_t is_any = 0;
        for (int lane = 0; lane < LANES; lane++) is_any |= logits[i + lane] == value;
        if (is_any) break;
#endif
    }
    while (logits[i] != value) i++;
    return i;
}

/* The sum of exp(logit - highest) over `count` logits. */
static double sum_exp(const float *logits, int64_t count, float highest) {
    double total = 0;
    for (int64_t first = 0; first < count; first += LEAST_BLOCK) {
        const int64_t end = MIN(first + LEAST_BLOCK, count);
        vec sum = {0};
        int64_t i = first;
        for (; i + LANES <= end; i += LANES) sum += exp_lanes(load_float(logits + i) - broadcast(highest));
        if (i < end) {
            vec v = broadcast(-INFINITY);
            memcpy(&v, logits + i, (size_t)(end - i) * sizeof(float));
            sum += exp_lanes(v - broadcast(highest));
        }
        total += add_lanes(sum);
    }
    return total;
}

/* Weights exp((logit - highest) / temperature), 0 where they are below `floor`, padded with 0 to a whole
   vector. Returns their sum. */
static double weigh(
    const float *logits, int64_t count, float highest, float temperature, float floor, workspace *w) {
    double total = 0;
    w->block = MAX(LEAST_BLOCK, (count / MOST_BLOCKS + LANES) / LANES * LANES);
    w->num_blocks = 0;
    for (int64_t first = 0; first < count; first += w->block) {
        const int64_t end = MIN(first + w->block, count);
        vec sum = {0}, high = {0};
        for (int64_t i = first; i < end; i += LANES) {
            vec v = broadcast(-INFINITY);
            if (i + LANES <= count) v = load_float(logits + i);
            else memcpy(&v, logits + i, (size_t)(count - i) * sizeof(float));
            vec weight = exp_lanes((v - broadcast(highest)) / broadcast(temperature));
            if (floor > 0) weight = choose(weight >= broadcast(floor), weight, (vec){0});
            sum += weight;
            high = max_lanes(weight, high);
            memcpy(w->weights + i, &weight, sizeof weight);
        }
        float peak = 0;
        for (int lane = 0; lane < LANES; lane++) peak = MAX(peak, high[lane]);
        w->peaks[w->num_blocks] = bits_of(peak);
        w->sums[w->num_blocks++] = add_lanes(sum);
        total += w->sums[w->num_blocks - 1];
    }
    return total;
}

/* A weight that at least `most` tokens reach, because the maxima of as many blocks do. 0 if there
   are fewer blocks. */
static float reached_by(int64_t most, workspace *w) {
    if (most > w->num_blocks) return 0;
    memcpy(w->sorted, w->peaks, (size_t)w->num_blocks * sizeof *w->sorted);
    qsort(w->sorted, (size_t)w->num_blocks, sizeof *w->sorted, compare_down);
    return float_of(w->sorted[most - 1]);
}

/* Lists, in order, the tokens of positive weight of at least `least`. Returns how many. */
static int64_t list_tokens(int64_t count, float least, workspace *w) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i += LANES) {
#ifdef __AVX512F__
        if (!_mm512_cmp_ps_mask(_mm512_loadu_ps(w->weights + i), _mm512_set1_ps(least), _CMP_GE_OQ)) continue;
#endif
        for (int64_t j = i; j < MIN(i + LANES, count); j++)
            if (w->weights[j] >= least && w->weights[j] > 0) {
                w->ids[found] = (int32_t)j;
                w->bits[found++] = bits_of(w->weights[j]);
            }
    }
    return found;
}

/* The limit that keeps the heaviest of `n` listed tokens: at most `most` of them, and no token
   before which the heavier ones already weigh `enough`. */
static limit find_limit(workspace *w, int64_t n, int64_t most, double enough) {
    memset(w->mass, 0, NUM_BINS * sizeof *w->mass);
    memset(w->count, 0, NUM_BINS * sizeof *w->count);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bin = w->bits[i] >> BIN_SHIFT;
        w->count[bin]++;
        w->mass[bin] += float_of(w->bits[i]);
    }
    int64_t taken = 0, bin = NUM_BINS - 1;
    double weight = 0;
    while (bin > 0 && taken + w->count[bin] < most && weight + w->mass[bin] < enough) {
        taken += w->count[bin];
        weight += w->mass[bin--];
    }
    int64_t in_bin = 0;
    for (int64_t i = 0; i < n; i++)
        if ((int64_t)(w->bits[i] >> BIN_SHIFT) == bin) w->sorted[in_bin++] = w->bits[i];
    qsort(w->sorted, (size_t)in_bin, sizeof *w->sorted, compare_down);
    limit found = {0, n};
    for (int64_t i = 0; i < in_bin && taken < most && (weight < enough || !taken); i++, taken++) {
        found.num_equal = w->sorted[i] == found.cut ? found.num_equal + 1 : 1;
        found.cut = w->sorted[i];
        weight += float_of(w->sorted[i]);
    }
    return found;
}

/* Keeps those of `n` listed tokens that are within the limit. Returns how many, and in `total`
   their weight. */
static int64_t keep(workspace *w, int64_t n, limit within, double *total) {
    int64_t kept = 0;
    *total = 0;
    for (int64_t i = 0; i < n; i++) {
        if (w->bits[i] < within.cut || (w->bits[i] == within.cut && within.num_equal-- <= 0)) continue;
        w->ids[kept] = w->ids[i];
        w->bits[kept++] = w->bits[i];
        *total += float_of(w->bits[i]);
    }
    return kept;
}

/* The first token at which the cumulative weight exceeds `target`: first by blocks, then one by one. */
static int64_t sample_from_all(const workspace *w, int64_t count, double target) {
    int64_t block = 0, last = -1;
    double sum = 0;
    while (block < w->num_blocks - 1 && sum + w->sums[block] <= target) sum += w->sums[block++];
    for (int64_t i = block * w->block; i < count; i++) {
        if (w->weights[i] == 0) continue;
        last = i;
        sum += w->weights[i];
        if (sum > target) return i;
    }
    /* By rounding, only zeros were left: take the last token before them. */
    for (int64_t i = block * w->block - 1; last < 0; i--)
        if (w->weights[i] > 0) last = i;
    return last;
}

static int64_t sample_from_list(const workspace *w, int64_t n, double target) {
    double sum = 0;
    int64_t i = 0;
    for (; i < n - 1; i++) {
        sum += float_of(w->bits[i]);
        if (sum > target) break;
    }
    return w->ids[i];
}

static int64_t choose_token(
    const float *logits, int64_t count, float temperature, float min_p, int64_t top_k, double top_p, double chance,
    workspace *w, double *log_sum) {
    const float highest = find_highest(logits, count);
    *log_sum = NAN;
    if (!isfinite(highest)) return -1;
    /* At temperature 1 the weights' own sum is the sum of the exponentials. */
    const int is_plain = temperature == 1 && min_p == 0;
    if (!is_plain) *log_sum = highest + log(sum_exp(logits, count, highest));
    if (temperature == 0) return find_first(logits, count, highest);
    double total = weigh(logits, count, highest, temperature, min_p, w);
    if (is_plain) *log_sum = highest + log(total);
    const int has_nucleus = top_p > 0 && top_p < 1;
    if (!top_k && !has_nucleus) return sample_from_all(w, count, chance * total);
    /* All tokens lighter than this together weigh less than what nucleus sampling drops, so they
       need not be listed. */
    const float least = (float)(0.999 * (1 - top_p) * total / (double)count);
    int64_t n = list_tokens(count, top_k ? reached_by(top_k, w) : least, w);
    if (top_k) n = keep(w, n, find_limit(w, n, top_k, INFINITY), &total);
    if (has_nucleus) n = keep(w, n, find_limit(w, n, n + 1, top_p * total), &total);
    return sample_from_list(w, n, chance * total);
}

/* The logarithm of the sum of exp(logit) of one row; NaN if its highest logit is not finite. */
static double log_sum(const float *logits, int64_t count) {
    const float highest = find_highest(logits, count);
    return isfinite(highest) ? highest + log(sum_exp(logits, count, highest)) : NAN;
}

/* `log_sums` [R] receives the logarithm of the sum of exp(logit) of each row of logits [R, row_stride],
   of which the first `count` are tokens; NaN if the highest is not finite. */
void sum_logits(
    const float *logits, int64_t row_stride, int64_t num_rows, int64_t count, double *log_sums, int num_threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
    for (int64_t row = 0; row < num_rows; row++) log_sums[row] = log_sum(logits + row * row_stride, count);
}

/* Sets the logits of tokens whose bit in `mask` is 0 to minus infinity. */
static void apply_mask(float *logits, int64_t count, const uint32_t *mask) {
    for (int64_t first = 0; first < count; first += 32) {
        const uint32_t allowed = mask[first / 32];
        if (allowed == UINT32_MAX) continue;
        const int64_t n = MIN(32, count - first);
        for (int64_t i = 0; i < n; i++)
            logits[first + i] = allowed >> i & 1 ? logits[first + i] : -INFINITY;
    }
}

/* Logits [R, row_stride], of which the first `count` of each row are tokens; the other arrays [R].
   `masks` points to one bit a token for every row, or is null for a row in which all are allowed.
   `tokens` receives each row's token, -1 if its logits are not finite, `log_sums` the same as from
   `sum_logits` before the mask, computed while the row is in the cache, `logprobs` the token's logit
   less that. Returns 0, or 1 if there is no memory. */
int choose_tokens(
    float *logits, int64_t row_stride, int64_t num_rows, int64_t count, const uint32_t *const *masks,
    const float *temperatures, const float *min_ps, const int64_t *top_ks, const double *top_ps,
    const double *chances, int64_t *tokens, double *log_sums, double *logprobs, int num_threads) {
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        const size_t padded = (size_t)(count + LANES) / LANES * LANES;
        const size_t bytes = 4 * padded * sizeof(float) + NUM_BINS * (sizeof(double) + sizeof(int64_t)) +
                             (MOST_BLOCKS + 1) * (sizeof(double) + sizeof(uint32_t));
        char *buffer = malloc(bytes);
        workspace w = {0};
        if (buffer) {
            w.mass = (double *)buffer;
            w.count = (int64_t *)(w.mass + NUM_BINS);
            w.sums = (double *)(w.count + NUM_BINS);
            w.weights = (float *)(w.sums + MOST_BLOCKS + 1);
            w.bits = (uint32_t *)(w.weights + padded);
            w.sorted = w.bits + padded;
            w.ids = (int32_t *)(w.sorted + padded);
            w.peaks = (uint32_t *)(w.ids + padded);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < num_rows; row++)
            if (buffer) {
                float *own = logits + row * row_stride;
                double unmasked = 0;
                if (masks[row]) {
                    unmasked = log_sum(own, count);
                    apply_mask(own, count, masks[row]);
                }
                tokens[row] = choose_token(
                    own, count, temperatures[row], min_ps[row], top_ks[row], top_ps[row], chances[row], &w,
                    log_sums + row);
                if (masks[row]) log_sums[row] = unmasked;
                logprobs[row] = own[MAX(tokens[row], 0)] - log_sums[row]; /* NaN without a token */
            }
        free(buffer);
    }
    return failed;
}
