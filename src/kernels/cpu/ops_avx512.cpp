#define FL_LANES 16
#define FL_GEMM_ROWS 6
#define FL_OPS kOpsAvx512
#include "kernels/cpu/ops_table.inl"
