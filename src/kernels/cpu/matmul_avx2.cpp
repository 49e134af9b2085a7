#define FL_LANES 8
#define FL_TOKENS 4
#define FL_TABLE kMatmulAvx2
#include "kernels/cpu/matmul_kernels.inl"
