/* Runs kernels one after the other, each with arguments that were prepared in advance, so that a layer costs one call
   from Python. */

#include "lanes.h"

typedef struct {
    int (*run)(const void *arguments, int num_threads); /* returns 0, or something else if there is no memory */
    const void *arguments;
} kernel_call;

/* Returns 0, or the number of the call that failed, from 1; those behind it do not run. */
int run_calls(const kernel_call *calls, int count, int num_threads) {
    for (int i = 0; i < count; i++)
        if (calls[i].run(calls[i].arguments, num_threads)) return i + 1;
    return 0;
}
