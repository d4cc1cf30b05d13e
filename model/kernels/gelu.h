/* GELU in its tanh approximation, of the results of a linear layer. */

#ifndef GELU_H
#define GELU_H
#include "lanes.h"

/* x / (1 + e^-t) with t = 2 sqrt(2 / pi) (x + 0.044715 x^3), and where
   t is negative x e^t / (1 + e^t). */
INLINE vec gelu(vec x) {
    const vec t = x * (x * x * broadcast(0.0713548163f) + broadcast(1.5957691216f));
    const ivec is_negative = t < (vec){0};
    const vec e = exp_lanes(choose(is_negative, t, -t));
    return choose(is_negative, x * e, x) / (e + broadcast(1.0f));
}

/* The same for results in bfloat16, as x / (1 + 2^t) with t = -2 log2(e) sqrt(2 / pi) (x + 0.044715
   x^3). */
INLINE vec rough_gelu(vec x) {
    vec t = x * (x * x * broadcast(-0.1029432395f) + broadcast(-2.302208198f));
    return x / (rough_exp2_lanes(t) + broadcast(1.0f));
}

#endif
