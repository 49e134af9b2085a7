#define FL_LANES 4
#define FL_TOKENS 4
#define FL_TABLE kMatmulPortable
#include "kernels/cpu/matmul_kernels.inl"
