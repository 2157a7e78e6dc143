#include "kernels/vec/avx512_int8.h"
// The vectors come first: what is not done with tiles is written in their terms.
#include "kernels/int8/tile_many.inl.h"
