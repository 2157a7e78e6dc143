#include "kernels/vec/avx512.h"
// The vectors come first: what is not done with tiles is written in their terms.
#include "kernels/linear_4bit/bf16_many.inl.h"
