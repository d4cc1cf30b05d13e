/* Products of bfloat16 in AMX tiles: of 16 rows of 64 bytes, two tiles by two at a time. */

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512DQ__) && defined(__linux__)
#define HAS_TILES 1
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64
#define PAIRED_ROWS 32 /* two tiles below each other */

/* Whether the system lets this process use the registers: Linux wants to be asked, once. */
static int may_use_tiles(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA of the kernel's asm/prctl.h */
    static int answer = -1;
    if (answer < 0) answer = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return answer;
}

/* Makes all eight registers whole tiles, for this thread, until `_tile_release`. */
static void configure_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = TILE_BYTES, config.rows[i] = TILE_ROWS;
    _tile_loadconfig(&config);
}

/* Adds to `sums`, float [32][32], the product of `left`, bfloat16 [32][inner], and `right`, words of pairs of its rows
   [inner / 2][32]. Strides in bytes from row to row; of `left` between blocks of 32 columns and between its two tiles. */
INLINE void add_tile_products(
    const char *left, int64_t left_row, int64_t left_block, int64_t left_tile, const char *right, int64_t right_row,
    int inner, char *sums, int64_t sums_row, int is_fresh) {
    char *lower = sums + TILE_ROWS * sums_row;
    if (is_fresh) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, sums_row);
        _tile_loadd(1, sums + TILE_BYTES, sums_row);
        _tile_loadd(2, lower, sums_row);
        _tile_loadd(3, lower + TILE_BYTES, sums_row);
    }
    for (int i = 0; i < inner; i += 32) {
        const char *from = left + i / 32 * left_block, *with = right + i / 2 * right_row;
        _tile_loadd(4, from, left_row);
        _tile_loadd(6, with, right_row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, with + TILE_BYTES, right_row);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, from + left_tile, left_row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, sums_row);
    _tile_stored(1, sums + TILE_BYTES, sums_row);
    _tile_stored(2, lower, sums_row);
    _tile_stored(3, lower + TILE_BYTES, sums_row);
}
#endif
