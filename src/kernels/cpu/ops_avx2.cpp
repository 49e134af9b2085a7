#define FL_LANES 8
#define FL_GEMM_ROWS 2
#define FL_OPS kOpsAvx2
#include "kernels/cpu/ops_table.inl"
