#define FL_LANES 16
#define FL_TOKENS 12
#define FL_TABLE kMatmulAvx512
#include "kernels/cpu/matmul_kernels.inl"
