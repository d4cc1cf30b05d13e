/* Runs kernels one after the other, each with arguments that were prepared in advance, so that the
   layers of a step cost one call from Python. */

#include "lanes.h"
#include <time.h>

typedef struct {
    int (*run)(const void *arguments, int num_threads); /* returns 0, or something else if there is no memory */
    const void *arguments;
} kernel_call;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Runs calls until all have run, one has failed or `seconds` have passed, but at least one. Returns how many have run;
   where the next one has failed, `has_failed` gets 1. */
int run_calls(const kernel_call *calls, int count, double seconds, int num_threads, int *has_failed) {
    const double end = now() + seconds;
    for (int i = 0; i < count; i++) {
        if (i && now() >= end) return i;
        if (calls[i].run(calls[i].arguments, num_threads)) {
            *has_failed = 1;
            return i;
        }
    }
    return count;
}
