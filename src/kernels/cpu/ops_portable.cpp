#define FL_LANES 4
#define FL_GEMM_ROWS 4
#define FL_OPS kOpsPortable
#include "kernels/cpu/ops_table.inl"
