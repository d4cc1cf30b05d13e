/* Matmuls of bfloat16 in AMX tiles of 16 rows of 64 bytes, two by two tiles at a time. */

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512DQ__) && defined(__linux__)
#define HAS_TILES 1
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64
#define PAIRED_ROWS 32 /* of two tiles below each other */

/* Whether this process may use the tile registers. Linux grants them on request, once per process. */
static int can_use_tiles(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA of the kernel's asm/prctl.h */
    static int answer = -1;
    if (answer < 0) answer = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return answer;
}

/* Configures all eight tile registers of this thread as full tiles, until `_tile_release`. */
static void configure_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = TILE_BYTES, config.rows[i] = TILE_ROWS;
    _tile_loadconfig(&config);
}

/* 32 or (`is_single`) 16 rows of bfloat16, in blocks of 32 columns; strides in bytes, `tile`
   between the two tiles. */
typedef struct {
    const char *at;
    int64_t row, block, tile;
    int is_single;
} tile_rows;

/* Adds to `sums`, float [32][32], the matmul of `left`, [32][inner], and `right`, which is stored
   as words of pairs of its rows, [inner / 2][32]; strides in bytes from row to row. `left` is
   streamed, `right` is used again by the next call and stays in the first-level cache. Meanwhile
   `num_ahead` cache lines per block are prefetched from `ahead` into the second level. */
INLINE void add_tile_products(
    tile_rows left, const char *right, int64_t right_row, int64_t inner, float *sums, int64_t sums_row, int is_fresh,
    const char *ahead, int num_ahead) {
    char *upper = (char *)sums, *lower = upper + TILE_ROWS * sums_row;
    if (is_fresh) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, upper, sums_row);
        _tile_loadd(1, upper + TILE_BYTES, sums_row);
        if (!left.is_single) {
            _tile_loadd(2, lower, sums_row);
            _tile_loadd(3, lower + TILE_BYTES, sums_row);
        }
    }
    for (int64_t i = 0; i < inner; i += 32) {
        _tile_loadd(6, right, right_row);
        _tile_stream_loadd(4, left.at, left.row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + TILE_BYTES, right_row);
        _tile_dpbf16ps(1, 4, 7);
        if (!left.is_single) {
            _tile_stream_loadd(5, left.at + left.tile, left.row);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        for (int line = 0; line < num_ahead; line++) _mm_prefetch(ahead + 64 * line, _MM_HINT_T1);
        left.at += left.block;
        right += 16 * right_row;
        ahead += 64 * num_ahead;
    }
    _tile_stored(0, upper, sums_row);
    _tile_stored(1, upper + TILE_BYTES, sums_row);
    if (!left.is_single) {
        _tile_stored(2, lower, sums_row);
        _tile_stored(3, lower + TILE_BYTES, sums_row);
    }
}
#endif
